//! LiveKit's faces: the signal WebSocket ([`rtc`]) and the RoomService over HTTP ([`twirp`]).
//!
//! Both check a token, bound what they read and hand over to [`crate::rooms`]. Rule: nothing is decided here.

pub mod join;
mod json;
mod rtc;
mod twirp;

use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, Method, header};
use axum::routing::{any, get};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::rooms::Rooms;

/// Largest signal message, also after decompression, as in LiveKit's newer sources.
pub const SIGNAL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of an API call.
pub const API_BYTES_MAX: usize = 10 * 1024 * 1024;

/// LiveKit's routes. `/` and everything else is left to the server.
pub fn router(rooms: Rooms) -> Router {
    let signal = Router::new()
        .route("/rtc", get(rtc::v0))
        .route("/rtc/v1", get(rtc::v1))
        .route("/rtc/validate", get(rtc::validate_v0))
        .route("/rtc/v1/validate", get(rtc::validate_v1));
    let api = Router::new()
        .route("/twirp/{service}/{method}", any(twirp::call))
        // Clients that join a URL with a trailing slash and a path ask with two.
        .route("//twirp/{service}/{method}", any(twirp::call))
        .layer(DefaultBodyLimit::disable());
    signal.merge(api).layer(cors()).with_state(rooms)
}

/// Any origin may ask, as with LiveKit: what protects a room is the token, not where a page came from.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods(AllowMethods::list([Method::GET, Method::POST, Method::OPTIONS]))
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::CONTENT_TYPE, HeaderName::from_static("x-request-id")])
        .max_age(Duration::from_secs(86_400))
}
