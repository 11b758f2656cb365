//! The HTTP face: LiveKit's routes, REST, the page, health and metrics, with a correlation id on every request.

use std::time::Duration;

use auralink_media::net::MediaHandle;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_process::Collector;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

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
pub fn router(state: ApiState, recorder: PrometheusHandle, media: MediaHandle) -> Router {
    // CPU seconds, memory, file descriptors, threads: under the names that every dashboard knows.
    let process = Collector::default();
    process.describe();
    let metrics = MetricsState { recorder, media, captions: state.captions.clone(), process };
    Router::new()
        .route("/health", get(|| async { "OK\n" }))
        .route("/metrics", get(render_metrics).with_state(metrics))
        .merge(auralink_signaling::livekit::router(state.rooms.clone()))
        .merge(api::router(state))
        .fallback(get(page::serve))
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, ANSWER))
        .layer(axum::middleware::from_fn(correlation::correlate))
}

async fn render_metrics(State(state): State<MetricsState>) -> impl IntoResponse {
    state.process.collect();
    let mut text = state.recorder.render();
    exposition::media(&mut text, &state.media.stats());
    if let Ok(engine) = state.captions.engine() {
        exposition::speech(&mut text, &engine.stats());
    }
    ([("content-type", "text/plain; version=0.0.4")], text)
}
