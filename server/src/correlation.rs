//! One id from the first HTTP header to the last log line: taken from `x-request-id` or made, put on the request's span, and sent back.
//!
//! Place in the flow: the outermost layer of every face (page, REST, LiveKit's routes, gRPC). What a request starts (a WebSocket's
//! session, a stream's task, a call into a room) runs in its span or below it. Rule: the query is never logged: it may hold a token.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

/// The header.
const HEADER: &str = "x-request-id";

/// Longest id that is taken from a client.
const BYTES_MAX: usize = 128;

/// Longest path that is logged; longer ones belong to nothing here.
const PATH_MAX: usize = 256;

/// Answers a request under its id.
pub async fn correlate(request: Request, next: Next) -> Response {
    let id = id_of(request.headers());
    let started = Instant::now();
    let path: String = request.uri().path().chars().take(PATH_MAX).collect();
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), path);
    async move {
        let mut response = next.run(request).await;
        let (status, took_ms) = (response.status().as_u16(), started.elapsed().as_millis());
        match status {
            500.. => tracing::error!(status, took_ms, "answered"),
            _ => tracing::debug!(status, took_ms, "answered"),
        }
        if let Ok(header) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(HEADER, header);
        }
        response
    }
    .instrument(span)
    .await
}

/// The client's id when it is short and plain, else a new one.
fn id_of(headers: &HeaderMap) -> String {
    headers
        .get(HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(header: Option<&str>) -> String {
        let header = header.map(|text| (axum::http::HeaderName::from_static(HEADER), HeaderValue::from_str(text).unwrap()));
        id_of(&header.into_iter().collect())
    }

    #[test]
    fn good_ids_are_kept_others_are_made() {
        assert_eq!(id(Some("abc-1")), "abc-1");
        for bad in [None, Some("with space"), Some("")] {
            assert_eq!(id(bad).len(), 36, "{bad:?}");
        }
        assert_eq!(id(Some(&"x".repeat(129))).len(), 36);
    }
}
