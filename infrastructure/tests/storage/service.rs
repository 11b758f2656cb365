//! What the stubs of both services share: OAuth as RFC 6749 and 7636 say it, held to strictly, and failures on demand.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use auralink_infrastructure::secret::SecretSource;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A status; with `Retry-After` when there are seconds.
    Status(u16, Option<u64>),
    /// The answer's body breaks off after so many bytes, with the connection.
    Cut(usize),
    /// The answer's body is so much shorter than it says, and ends as if it were whole.
    Short(usize),
    /// The content is altered on its way.
    Damage,
}

#[derive(Default)]
struct Grants {
    /// Code -> (challenge, redirect).
    codes: HashMap<String, (String, String)>,
    access: Vec<String>,
    refresh: Vec<String>,
}

/// A stub that runs.
pub struct Service {
    pub url: String,
    grants: Mutex<Grants>,
    faults: Mutex<VecDeque<(String, Fault)>>,
    pub requests: AtomicU64,
    pub renewals: AtomicU64,
    /// Seconds that an access token is said to live.
    pub token_life: AtomicU64,
    pub refuse_person: std::sync::atomic::AtomicBool,
    scope: Option<&'static str>,
}

impl Service {
    /// Serves `api` (below a bearer's check and the faults) beside the OAuth endpoints.
    pub async fn start(api: Router, scope: Option<&'static str>) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let service = Arc::new(Self {
            url: format!("http://{address}"),
            grants: Mutex::default(),
            faults: Mutex::default(),
            requests: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            token_life: AtomicU64::new(3_600),
            refuse_person: false.into(),
            scope,
        });
        let oauth = Router::new().route("/authorize", get(authorize)).route("/token", post(token)).with_state(service.clone());
        let api = api.layer(axum::middleware::from_fn_with_state(service.clone(), guard)).layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, oauth.merge(api)).await.unwrap() });
        service
    }

    /// The next requests whose path holds `part` go wrong so, in this order.
    pub fn fail(&self, part: &str, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults.into_iter().map(|fault| (part.to_owned(), fault)));
    }

    pub fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }

    /// Access tokens end at once; refresh tokens live.
    pub fn end_access(&self) {
        self.grants.lock().unwrap().access.clear();
    }

    /// The person took access away.
    pub fn revoke(&self) {
        *self.grants.lock().unwrap() = Grants::default();
    }

    pub fn tokens(&self) -> Vec<String> {
        let grants = self.grants.lock().unwrap();
        grants.access.iter().chain(&grants.refresh).cloned().collect()
    }

    fn fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(part, _)| path.contains(part.as_str()))?;
        faults.remove(at).map(|(_, fault)| fault)
    }
}

async fn authorize(State(service): State<Arc<Service>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let expect = |key: &str, value: &str| assert_eq!(query.get(key).map(String::as_str), Some(value), "{key} of {query:?}");
    expect("response_type", "code");
    expect("client_id", "client-1");
    expect("code_challenge_method", "S256");
    match service.scope {
        Some(scope) => {
            expect("scope", scope);
            expect("access_type", "offline");
        }
        None => expect("token_access_type", "offline"),
    }
    let redirect = &query["redirect_uri"];
    assert!(redirect.starts_with("http://127.0.0.1:"), "{redirect}");
    let state = &query["state"];
    assert!(state.len() >= 32, "a state that can be guessed: {state}");
    let to = if service.refuse_person.load(Ordering::Relaxed) {
        format!("{redirect}?error=access_denied&state={state}")
    } else {
        let code = format!("code/{}", uuid::Uuid::new_v4());
        service.grants.lock().unwrap().codes.insert(code.clone(), (query["code_challenge"].clone(), redirect.clone()));
        format!("{redirect}?state={state}&code={}", code.replace('/', "%2F"))
    };
    (StatusCode::FOUND, [("location", to)]).into_response()
}

async fn token(State(service): State<Arc<Service>>, Form(form): Form<HashMap<String, String>>) -> Response {
    if let Some(Fault::Status(status, _)) = service.fault("/token") {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    let refuse =
        |error: &str| (StatusCode::BAD_REQUEST, Json(json!({"error": error, "error_description": "Token has been expired or revoked."})));
    let field = |key: &str| form.get(key).map_or("", String::as_str);
    if field("client_id") != "client-1" || field("client_secret") != "client-secret-1" {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": "invalid_client"}))).into_response();
    }
    let mut grants = service.grants.lock().unwrap();
    let refresh = match field("grant_type") {
        "authorization_code" => {
            // A code is good once, for its redirect, and for who knows the verifier.
            let Some((challenge, redirect)) = grants.codes.remove(field("code")) else { return refuse("invalid_grant").into_response() };
            let proof = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(field("code_verifier")));
            if proof != challenge || redirect != field("redirect_uri") || !(43..=128).contains(&field("code_verifier").len()) {
                return refuse("invalid_grant").into_response();
            }
            let refresh = format!("refresh-{}", uuid::Uuid::new_v4());
            grants.refresh.push(refresh.clone());
            Some(refresh)
        }
        "refresh_token" if grants.refresh.iter().any(|known| known == field("refresh_token")) => {
            service.renewals.fetch_add(1, Ordering::Relaxed);
            None
        }
        "refresh_token" => return refuse("invalid_grant").into_response(),
        _ => return refuse("unsupported_grant_type").into_response(),
    };
    let access = format!("access-{}", uuid::Uuid::new_v4());
    grants.access.push(access.clone());
    let mut answer = json!({"access_token": access, "token_type": "bearer", "expires_in": service.token_life.load(Ordering::Relaxed)});
    if let Some(refresh) = refresh {
        answer["refresh_token"] = refresh.into();
    }
    Json(answer).into_response()
}

/// Nobody without a token; and what was asked to go wrong does.
async fn guard(State(service): State<Arc<Service>>, headers: HeaderMap, request: Request, next: Next) -> Response {
    service.requests.fetch_add(1, Ordering::Relaxed);
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    if !bearer.is_some_and(|bearer| service.grants.lock().unwrap().access.iter().any(|known| known == bearer)) {
        let body = json!({"error": {"code": 401, "message": "Invalid Credentials"}, "error_summary": "expired_access_token/."});
        return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    match service.fault(request.uri().path()) {
        None => next.run(request).await,
        Some(Fault::Status(status, retry_after)) => {
            // The request is read, as a service does that answers late.
            let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            let mut answer = (StatusCode::from_u16(status).unwrap(), "{}").into_response();
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert("retry-after", seconds.into());
            }
            answer
        }
        Some(fault) => {
            let (mut parts, body) = next.run(request).await.into_parts();
            let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            match fault {
                Fault::Cut(after) => {
                    parts.headers.insert("content-length", whole.len().into());
                    let begin = whole.slice(..after.min(whole.len()));
                    let broken = futures_util::stream::iter([Ok(begin), Err(std::io::Error::other("cut"))]);
                    Response::from_parts(
                        parts,
                        Body::from_stream(broken.then(|part| async {
                            // What was sent before the break arrives before it.
                            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                            part
                        })),
                    )
                }
                Fault::Short(by) => {
                    parts.headers.remove("content-length");
                    Response::from_parts(parts, Body::from(whole.slice(..whole.len() - by)))
                }
                Fault::Damage => {
                    let mut bytes = whole.to_vec();
                    bytes[0] ^= 1;
                    Response::from_parts(parts, Body::from(bytes))
                }
                Fault::Status(..) => unreachable!("handled above"),
            }
        }
    }
}

/// `bytes=FROM-TO`, both inclusive, of a content: 206, or 416, or all of it.
pub fn ranged(headers: &HeaderMap, content: &Bytes) -> Response {
    let Some(range) = headers.get("range") else { return content.clone().into_response() };
    let range = range.to_str().unwrap().strip_prefix("bytes=").expect("a range of bytes");
    let (from, to) = range.split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    if from >= content.len() || to < from {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let to = to.min(content.len() - 1);
    let said = format!("bytes {from}-{to}/{}", content.len());
    (StatusCode::PARTIAL_CONTENT, [("content-range", said)], content.slice(from..=to)).into_response()
}

pub fn secret_file(data: &TempDir, name: &str, text: &str) -> SecretSource {
    let file = data.path().join(name);
    std::fs::write(&file, text).unwrap();
    SecretSource::File(file)
}
