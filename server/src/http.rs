//! The HTTP face: LiveKit's routes, REST, the page, health and metrics, with a correlation id on every request.

use std::time::Duration;

use auralink_media::net::{EndedShard, MediaHandle};
use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_process::Collector;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutBody;

use crate::api::{self, ApiState};
use crate::captions::Captions;
use crate::{correlation, exposition, page};

/// An answer that takes longer than this is none: bodies that trickle in end here too. WebSockets are answered at their upgrade.
const ANSWER: Duration = Duration::from_secs(30);

/// What `/metrics` reads beside the recorder.
#[derive(Clone)]
struct MetricsState {
    recorder: PrometheusHandle,
    media: MediaHandle,
    captions: Captions,
    process: Collector,
}

/// Every route.
pub fn router(state: &ApiState, recorder: PrometheusHandle, media: MediaHandle) -> Router {
    // CPU seconds, memory, file descriptors, threads: under the names that every dashboard knows.
    let process = Collector::default();
    process.describe();
    let metrics = MetricsState { recorder, media, captions: state.rooms.captions.clone(), process };
    Router::new()
        .route("/health", get(health).with_state(metrics.media.clone()))
        .route("/metrics", get(render_metrics).with_state(metrics))
        .merge(auralink_signaling::livekit::router(state.rooms.rooms.clone()))
        .merge(api::router(state))
        .fallback(other)
        .layer(CatchPanicLayer::new())
        .layer(axum::middleware::from_fn(in_time))
        .layer(axum::middleware::from_fn(correlation::correlate))
}

/// Answers late requests. Content may come for hours, so long as it comes.
async fn in_time(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    if api::takes_content(request.method(), request.uri().path()) {
        let steady = |body| axum::body::Body::new(TimeoutBody::new(ANSWER, body));
        return next.run(request.map(steady)).await;
    }
    let answered = tokio::time::timeout(ANSWER, next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// Everything else: a file of the page, or nothing, said in the form of the face that was asked.
async fn other(method: Method, uri: Uri) -> Response {
    if api::owns(uri.path()) {
        return api::nothing(&uri).into_response();
    }
    match method {
        Method::GET | Method::HEAD => page::serve(uri).await,
        _ => (StatusCode::METHOD_NOT_ALLOWED, [("allow", "GET,HEAD")]).into_response(),
    }
}

/// Whether everything runs. A media shard that a fault has ended does not come back in this process: whoever watches it starts another.
async fn health(State(media): State<MediaHandle>) -> Result<&'static str, (StatusCode, String)> {
    let ended = media.ended();
    if ended.is_empty() {
        return Ok("OK\n");
    }
    let line = |shard: &EndedShard| format!("a fault ended media shard {} and its rooms: {}\n", shard.shard, shard.fault);
    let lines: String = ended.iter().map(line).collect();
    Err((StatusCode::SERVICE_UNAVAILABLE, format!("{lines}restart the server\n")))
}

async fn render_metrics(State(state): State<MetricsState>) -> impl IntoResponse {
    state.process.collect();
    let mut text = state.recorder.render();
    exposition::media(&mut text, &state.media.stats());
    if let Ok(engine) = state.captions.engine() {
        exposition::speech(&mut text, &engine.stats());
    }
    if let Some(stats) = state.captions.translation_stats() {
        exposition::translation(&mut text, &stats);
    }
    ([("content-type", "text/plain; version=0.0.4")], text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_media::control::{Command, Event, MediaConfig, MediaPermissions, ParticipantSpec};
    use auralink_media::ids::{ParticipantKey, RoomKey};
    use auralink_media::net::Sfu;
    use std::sync::Arc;

    #[tokio::test]
    async fn health_names_the_media_shard_that_a_fault_has_ended() {
        let config = MediaConfig {
            udp_bind: vec!["127.0.0.1:0".parse().unwrap()],
            shards: 1,
            advertised: Vec::new(),
            ice_lite: false,
            max_participants: 0,
            max_tracks_per_participant: 1,
        };
        // Called on the shard's thread, where it stands for any fault.
        let events = |event| assert!(!matches!(event, Event::NegotiationFailed { .. }), "one thing too many");
        let sfu = Sfu::start(config, Arc::new(events), Vec::new()).unwrap();
        let media = sfu.handle();
        assert_eq!(health(State(media.clone())).await, Ok("OK\n"));
        let room = RoomKey(1);
        media.send(Command::OpenRoom { room }).unwrap();
        let spec = ParticipantSpec {
            sid: "PA_1".into(),
            identity: "ana".into(),
            single_connection: true,
            permissions: MediaPermissions { publish: true, subscribe: true, data: true },
            agent: false,
            hidden: false,
            connected: true,
        };
        media.send(Command::AddParticipant { room, participant: ParticipantKey(2), spec }).unwrap();
        while media.ended().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (status, text) = health(State(media)).await.unwrap_err();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "a fault ended media shard 0 and its rooms: one thing too many\nrestart the server\n");
        sfu.stop();
    }
}
