//! What every face answers when it does not do what was asked: a code of a small set, and a sentence.
//!
//! REST: `{"error":{"code","message"}}` with the code's HTTP status; gRPC: the code of the same name. A slice writes
//! `impl From<SliceError> for ApiError`, and has both.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::Code;
use utoipa::ToSchema;

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// For programs.
    pub code: &'static str,
    /// For people: what was wrong, with which value, what to do.
    pub message: String,
    /// Seconds to wait before trying again.
    retry_after: Option<u64>,
}

/// The body of every answer that is not what was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For programs.
    #[schema(example = "not_found")]
    code: &'static str,
    /// For people: what was wrong, with which value, what to do.
    #[schema(example = "there is no collection `talks`; `GET /api/v1/vectors/collections` lists them")]
    message: String,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $status:ident $code:ident;)*) => {
        impl ApiError {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self::new(StatusCode::$status, stringify!($name), message)
            })*
        }

        /// The gRPC code of the same name.
        fn grpc_code(error: &ApiError) -> Code {
            match error.code {
                $(stringify!($name) => Code::$code,)*
                _ => match error.status.as_u16() {
                    400..=499 => Code::InvalidArgument,
                    _ => Code::Internal,
                },
            }
        }
    };
}

kinds! {
    /// The request can never succeed as it is.
    invalid_argument BAD_REQUEST InvalidArgument;
    /// No credential, or none that is good.
    unauthenticated UNAUTHORIZED Unauthenticated;
    /// The caller may not do this.
    permission_denied FORBIDDEN PermissionDenied;
    /// There is no such thing, or it is another tenant's.
    not_found NOT_FOUND NotFound;
    /// It is there, or was changed by another in between.
    already_exists CONFLICT AlreadyExists;
    /// Not in this state: something else must be done first.
    failed_precondition PRECONDITION_FAILED FailedPrecondition;
    /// A limit is reached.
    resource_exhausted TOO_MANY_REQUESTS ResourceExhausted;
    /// Not by this server, or not in this version.
    unimplemented NOT_IMPLEMENTED Unimplemented;
    /// The engine is absent, refuses or is slow: later perhaps.
    unavailable SERVICE_UNAVAILABLE Unavailable;
    /// It took too long.
    deadline_exceeded GATEWAY_TIMEOUT DeadlineExceeded;
    /// A fault of ours.
    internal INTERNAL_SERVER_ERROR Internal;
}

impl ApiError {
    /// With a status and a code of its own.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// Says how many seconds to wait.
    pub fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }
}

impl From<ApiError> for ErrorBody {
    fn from(error: ApiError) -> Self {
        Self { error: ErrorDetail { code: error.code, message: error.message } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorDetail { code: self.code, message: self.message } };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        let mut status = Self::new(grpc_code(&error), error.message);
        if let Some(seconds) = error.retry_after {
            status.metadata_mut().insert("retry-after", seconds.into());
        }
        status
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "request_invalid", rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "request_invalid", rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "request_invalid", rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_error_for_both_faces() {
        let error = ApiError::resource_exhausted("too many").retry_after(Some(3));
        let status = tonic::Status::from(error.clone());
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many"));
        assert_eq!(status.metadata().get("retry-after").unwrap(), "3");
        let response = error.into_response();
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "3"));
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        assert_eq!(&body[..], br#"{"error":{"code":"resource_exhausted","message":"too many"}}"#);
        let own = ApiError::new(StatusCode::BAD_REQUEST, "name_invalid", "no");
        assert_eq!(tonic::Status::from(own).code(), Code::InvalidArgument);
        assert_eq!(ApiError::unauthenticated("no").into_response().headers()["www-authenticate"], "Bearer");
    }
}
