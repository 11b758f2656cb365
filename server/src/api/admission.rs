//! Before and after every handler of `/api/v1`: who calls is found out once, its requests are counted, and whatever answers with an error
//! answers in our form.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::ApiError;
use crate::api::extract::Identified;
use crate::caller::Callers;

/// Identifies and counts the caller, runs the handler, and gives plain errors of the router our form.
pub async fn admit(State(callers): State<Callers>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_owned());
    let found = callers.of_header(header.as_deref()).await;
    let admitted = match &found {
        Ok(caller) => callers.admit(caller),
        Err(_) => callers.admit_stranger(address(&request)),
    };
    if let Err(limited) = admitted {
        return ApiError::from(limited).into_response();
    }
    request.extensions_mut().insert(Identified(found));
    let path: String = request.uri().path().chars().take(200).collect();
    let method = request.method().clone();
    let response = next.run(request).await;
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            in_form(response, "method_not_allowed", |allow| format!("`{path}` does not take {method}; it takes {allow}"))
        }
        StatusCode::NOT_FOUND => in_form(response, "not_found", |_| nothing_at(&path)),
        _ => response,
    }
}

/// Where the request comes from; tests without a socket come from nowhere.
fn address(request: &Request) -> IpAddr {
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
}

/// The sentence for a path that is none of ours.
pub fn nothing_at(path: &str) -> String {
    let path: String = path.chars().take(200).collect();
    format!("there is nothing at `{path}`; /api/v1/openapi.json describes what there is, /api/v1/docs is a page to try it")
}

/// The router's own answer in our form, with its `Allow` header; an answer of a handler is left as it is.
fn in_form(response: Response, code: &'static str, message: impl FnOnce(&str) -> String) -> Response {
    let json = |value: &axum::http::HeaderValue| value.as_bytes().starts_with(b"application/json");
    if response.headers().get(header::CONTENT_TYPE).is_some_and(json) {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let words = allow.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("no such method").to_owned();
    let mut made = ApiError::new(response.status(), code, message(&words)).into_response();
    if let Some(allow) = allow {
        made.headers_mut().insert(header::ALLOW, allow);
    }
    made
}
