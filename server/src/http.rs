//! The HTTP face: LiveKit's routes, REST, the page, health and metrics, with a correlation id on every request.

use auralink_media::net::MediaHandle;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::{self, ApiState};
use crate::captions::Captions;
use crate::page;

/// What `/metrics` reads beside the recorder.
#[derive(Clone)]
struct MetricsState {
    recorder: PrometheusHandle,
    media: MediaHandle,
    captions: Captions,
}

/// Every route.
pub fn router(state: ApiState, recorder: PrometheusHandle, media: MediaHandle) -> Router {
    let metrics = MetricsState { recorder, media, captions: state.captions.clone() };
    Router::new()
        .route("/health", get(|| async { "OK\n" }))
        .route("/metrics", get(render_metrics).with_state(metrics))
        .merge(auralink_signaling::livekit::router(state.rooms.clone()))
        .merge(api::router(state))
        .fallback(get(page::serve))
        .layer(CatchPanicLayer::new())
}

async fn render_metrics(State(state): State<MetricsState>) -> impl IntoResponse {
    let mut text = state.recorder.render();
    append_media(&mut text, &state.media);
    append_speech(&mut text, &state.captions);
    ([("content-type", "text/plain; version=0.0.4")], text)
}

/// The shards' counters, which cross threads as values.
fn append_media(text: &mut String, media: &MediaHandle) {
    use std::fmt::Write;
    for (index, shard) in media.stats().iter().enumerate() {
        let rows: [(&str, &str, u64); 17] = [
            ("livekit_packet_total", "direction=\"incoming\"", shard.rtp_in),
            ("livekit_packet_total", "direction=\"outgoing\"", shard.rtp_out),
            ("livekit_packet_bytes", "direction=\"incoming\"", shard.bytes_in),
            ("livekit_packet_bytes", "direction=\"outgoing\"", shard.bytes_out),
            ("livekit_nack_total", "direction=\"incoming\"", shard.nacked),
            ("livekit_pli_total", "direction=\"incoming\"", shard.pli_in),
            ("livekit_pli_total", "direction=\"outgoing\"", shard.pli_out),
            ("auralink_retransmitted_total", "", shard.retransmitted),
            ("auralink_dropped_total", "why=\"tap_full\"", shard.tap_dropped),
            ("auralink_dropped_total", "why=\"unknown_address\"", shard.dropped_unknown_address),
            ("auralink_dropped_total", "why=\"bad_stun\"", shard.dropped_bad_stun),
            ("auralink_dropped_total", "why=\"bad_tag\"", shard.dropped_bad_tag),
            ("auralink_dropped_total", "why=\"unknown_ssrc\"", shard.dropped_unknown_ssrc),
            ("auralink_dropped_total", "why=\"slow_data_receiver\"", shard.data_dropped),
            ("auralink_dropped_total", "why=\"send_failed\"", shard.send_failed),
            ("auralink_limit_hits_total", "", shard.limit_hits),
            ("auralink_shard_participants", "", shard.participants),
        ];
        for (name, labels, value) in rows {
            let comma = if labels.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}{{shard=\"{index}\"{comma}{labels}}} {value}");
        }
    }
}

fn append_speech(text: &mut String, captions: &Captions) {
    use std::fmt::Write;
    let Ok(engine) = captions.engine() else { return };
    let stats = engine.stats();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "auralink_speech_streams {}", stats.streams);
}
