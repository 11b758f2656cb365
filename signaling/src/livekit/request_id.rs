//! One id from the first HTTP header to the last log line: taken from `x-request-id` or made, and sent back.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

/// The header.
pub const HEADER: &str = "x-request-id";

/// Longest id that is taken from a client.
const BYTES_MAX: usize = 128;

/// The correlation id of a request, as an extension of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

impl RequestId {
    fn of(request: &Request) -> Self {
        request
            .headers()
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|id| !id.is_empty() && id.len() <= BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()))
            .map_or_else(|| Self(uuid::Uuid::new_v4().to_string()), |id| Self(id.to_owned()))
    }
}

/// Puts the id on the request, on its span and on the answer.
pub async fn correlate(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    let span = tracing::info_span!("request", request_id = %id.0, path = %request.uri().path());
    let header = HeaderValue::from_str(&id.0).ok();
    request.extensions_mut().insert(id);
    let mut response = next.run(request).instrument(span).await;
    if let Some(header) = header {
        response.headers_mut().insert(HEADER, header);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn id(header: Option<&str>) -> String {
        let mut request = Request::new(Body::empty());
        if let Some(header) = header {
            request.headers_mut().insert(HEADER, HeaderValue::from_str(header).unwrap());
        }
        RequestId::of(&request).0
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
