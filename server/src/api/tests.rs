use std::sync::Arc;

use auralink_signaling::access::{Claims, KeySet};
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::api_keys::ApiKeys;
use crate::api_keys::tests::Memory;
use crate::caller::{Grant, Rate, Scope, Scopes};

const SECRET: &str = "a-secret-of-some-thirty-six-letters!";

/// The API without rooms, which need media.
fn api(rate: Rate) -> Router {
    let callers = Callers::new(KeySet::new([("devkey", SECRET)]), ApiKeys::new(Arc::new(Memory::default())), rate);
    let (router, mut description) =
        OpenApiRouter::with_openapi(docs::about()).merge(keys::routes().with_state(callers.api_keys().clone())).split_for_parts();
    docs::complete(&mut description);
    router
        .merge(docs::router(description))
        .layer(DefaultBodyLimit::max(2_000))
        .layer(axum::middleware::from_fn_with_state(callers, admission::admit))
}

fn free() -> Router {
    api(Rate { per_second: 0.0, burst: 0.0 })
}

fn token(scopes: &[Scope], tenant: &str) -> String {
    let mut claims = Claims { identity: "ana".into(), ..Claims::default() };
    Grant { scopes: scopes.iter().copied().collect::<Scopes>(), tenant: tenant.parse().unwrap() }.put(&mut claims);
    KeySet::new([("devkey", SECRET)]).mint("devkey", &claims, std::time::Duration::from_secs(60)).unwrap()
}

async fn ask(api: &Router, method: Method, path: &str, token: Option<&str>, body: Option<&str>) -> (StatusCode, Response, Value) {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = api.clone().oneshot(request.body(Body::from(body.unwrap_or_default().to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 4 << 20).await.unwrap();
    (parts.status, Response::from_parts(parts, Body::empty()), serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn keys_are_made_listed_used_and_revoked_by_their_tenant_alone() {
    let api = free();
    let (acme, other) = (token(&[Scope::KeysAdmin], "acme"), token(&[Scope::KeysAdmin], "other"));
    let wanted = json!({"name": "robot", "scopes": ["keys:admin", "vectors:read"], "expires_in_s": 60}).to_string();
    let (status, _, made) = ask(&api, Method::POST, "/api/v1/keys", Some(&acme), Some(&wanted)).await;
    assert_eq!((status, &made["key"]["tenant"]), (StatusCode::CREATED, &json!("acme")));
    let (key, id) = (made["token"].as_str().unwrap(), made["key"]["id"].as_str().unwrap());
    let (status, _, list) = ask(&api, Method::GET, "/api/v1/keys", Some(key), None).await;
    assert_eq!((status, list["keys"].as_array().unwrap().len()), (StatusCode::OK, 1));
    assert!(!list.to_string().contains(key.rsplit('_').next().unwrap()), "no secret is listed");
    let (_, _, theirs) = ask(&api, Method::GET, "/api/v1/keys", Some(&other), None).await;
    assert_eq!(theirs["keys"], json!([]));
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(ask(&api, Method::DELETE, &path, Some(&other), None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask(&api, Method::DELETE, &path, Some(&acme), None).await.0, StatusCode::NO_CONTENT);
    let (status, response, body) = ask(&api, Method::GET, "/api/v1/keys", Some(key), None).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthenticated")));
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn who_may_not_is_told_which_scope_is_missing() {
    let api = free();
    let reader = token(&[Scope::VectorsRead], "acme");
    for (method, path) in [(Method::GET, "/api/v1/keys"), (Method::DELETE, "/api/v1/keys/x")] {
        let (status, _, body) = ask(&api, method.clone(), path, Some(&reader), None).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        assert!(body["error"]["message"].as_str().unwrap().contains("keys:admin"), "{body}");
        assert_eq!(ask(&api, method, path, None, None).await.0, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn whatever_is_wrong_the_answer_is_json_in_our_form() {
    let api = free();
    let admin = token(&[Scope::KeysAdmin], "acme");
    let long = format!("{{\"name\":\"{}\"", "x".repeat(3_000));
    for (method, path, body, status, code) in [
        (Method::PUT, "/api/v1/keys", "", 405, "method_not_allowed"),
        (Method::GET, "/api/v1/keys/x", "", 405, "method_not_allowed"),
        (Method::GET, "/api/v1/docs/nothing.js", "", 404, "not_found"),
        (Method::POST, "/api/v1/keys", "{", 400, "request_invalid"),
        (Method::POST, "/api/v1/keys", "[]", 422, "request_invalid"),
        (Method::POST, "/api/v1/keys", r#"{"name":"a","scopes":[],"tenant":"other"}"#, 422, "request_invalid"),
        (Method::POST, "/api/v1/keys", r#"{"name":"a","scopes":["*"]}"#, 400, "invalid_argument"),
        (Method::POST, "/api/v1/keys", r#"{"name":"","scopes":["jobs:read"]}"#, 400, "invalid_argument"),
        (Method::POST, "/api/v1/keys", &long, 413, "request_invalid"),
        (Method::DELETE, "/api/v1/keys/%ff", "", 400, "request_invalid"),
    ] {
        let (found, response, answer) = ask(&api, method.clone(), path, Some(&admin), Some(body)).await;
        assert_eq!((found.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{method} {path} {body:.40}: {answer}");
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{method} {path}");
    }
    assert!(owns("/api") && owns("/api/v1/x") && owns("/api/v2") && !owns("/apis") && !owns("/assets/api/x"));
    assert_eq!(nothing(&"/api/v1/nothing".parse().unwrap()).status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_caller_over_its_limit_waits_and_others_do_not() {
    let api = api(Rate { per_second: 0.01, burst: 2.0 });
    let (ana, ben) = (token(&[Scope::KeysAdmin], "acme"), token(&[Scope::KeysAdmin], "other"));
    for _ in 0..2 {
        assert_eq!(ask(&api, Method::GET, "/api/v1/keys", Some(&ana), None).await.0, StatusCode::OK);
    }
    let (status, response, body) = ask(&api, Method::GET, "/api/v1/keys", Some(&ana), None).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("resource_exhausted")));
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait}");
    assert_eq!(ask(&api, Method::GET, "/api/v1/keys", Some(&ben), None).await.0, StatusCode::OK);
    let answers =
        [ask(&api, Method::GET, "/api/v1/keys", None, None).await.0, ask(&api, Method::GET, "/api/v1/keys", Some("alk_x"), None).await.0];
    assert_eq!(answers, [StatusCode::UNAUTHORIZED; 2]);
    assert_eq!(ask(&api, Method::GET, "/api/v1/keys", None, None).await.0, StatusCode::TOO_MANY_REQUESTS, "strangers have a bucket too");
}

#[tokio::test]
async fn the_description_names_every_route_its_credential_and_its_refusals() {
    let (status, _, description) = ask(&free(), Method::GET, "/api/v1/openapi.json", None, None).await;
    assert_eq!((status, &description["openapi"]), (StatusCode::OK, &json!("3.1.0")));
    assert_eq!(description["security"], json!([{"bearer": []}]));
    assert_eq!(description["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let post = &description["paths"]["/api/v1/keys"]["post"];
    assert_eq!(post["requestBody"]["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/CreateKey");
    assert_eq!(post["responses"]["201"]["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/CreatedKey");
    assert_eq!(post["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/ErrorBody");
    for reference in description.to_string().split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"][name].is_object(), "{name} is described");
    }
}

#[tokio::test]
async fn the_page_is_guarded() {
    let (status, response, _) = ask(&free(), Method::GET, "/api/v1/docs/", None, None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("script-src 'self';"));
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(ask(&free(), Method::GET, "/api/v1/docs", None, None).await.0, StatusCode::SEE_OTHER);
}
