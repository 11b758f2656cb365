//! REST under `/api/v1`: what the page needs beside LiveKit's own protocol. Errors are `{"error":{"code","message"}}`.

use std::time::Duration;

use auralink_signaling::access::{Claims, VideoGrant, bearer};
use auralink_signaling::rooms::{Rooms, RoomsError};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::captions::{By, Captions, CaptionsError, Model};
use crate::credentials::random_text;

/// Largest request body: all requests are a few short strings.
const BODY_LIMIT: usize = 16 * 1024;

/// Longest room and participant name, as LiveKit's.
const NAME_LIMIT: usize = 256;

/// How long a token of the page is valid; the room refreshes it while the page is there.
const TOKEN_LIFE: Duration = Duration::from_secs(6 * 3_600);

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    /// The room layer.
    pub rooms: Rooms,
    /// Captions.
    pub captions: Captions,
    /// Secret of the printed URL.
    pub invite: String,
}

/// The routes.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/api/v1/info", get(info))
        .route("/api/v1/join", post(join))
        .route("/api/v1/rooms/{room}/captions", put(set_captions))
        .route("/api/v1/rooms/{room}/captions/me", put(set_opt_out))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(state)
}

/// An answer that is not what was asked for.
struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, Json(body)).into_response()
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "request_invalid", rejection.body_text())
    }
}

impl From<RoomsError> for ApiError {
    fn from(error: RoomsError) -> Self {
        Self::new(error.status(), error.code(), error.to_string())
    }
}

impl From<CaptionsError> for ApiError {
    fn from(error: CaptionsError) -> Self {
        match error {
            CaptionsError::Room(error) => error.into(),
            CaptionsError::NoRoom(_) => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            CaptionsError::Unavailable(_) => Self::new(StatusCode::CONFLICT, "captions_unavailable", error.to_string()),
            CaptionsError::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string()),
        }
    }
}

#[derive(Serialize)]
struct Info {
    name: &'static str,
    version: &'static str,
    captions: CaptionsInfo,
    /// What turns speech into text; none without captions.
    model: Option<Model>,
}

#[derive(Serialize)]
struct CaptionsInfo {
    available: bool,
    reason: Option<String>,
    default: bool,
    languages: Vec<String>,
}

async fn info(State(state): State<ApiState>) -> Json<Info> {
    let (languages, reason) = match state.captions.engine() {
        Ok(engine) => (vec![engine.language().to_owned()], None),
        Err(reason) => (Vec::new(), Some(reason.to_owned())),
    };
    let captions = CaptionsInfo { available: reason.is_none(), reason, default: state.captions.default_on(), languages };
    Json(Info { name: "AuraLink", version: env!("CARGO_PKG_VERSION"), captions, model: state.captions.model() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinRequest {
    invite: String,
    room: String,
    name: String,
}

#[derive(Serialize)]
struct JoinResponse {
    token: String,
    room: String,
    identity: String,
    name: String,
}

async fn join(State(state): State<ApiState>, request: Result<Json<JoinRequest>, JsonRejection>) -> Result<Json<JoinResponse>, ApiError> {
    let Json(request) = request?;
    if !bool::from(request.invite.as_bytes().ct_eq(state.invite.as_bytes())) {
        metrics::counter!("auralink_invite_refused_total").increment(1);
        let message = "This link's invitation is not valid any more. Ask for the URL that AuraLink prints when it starts.";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "invite_invalid", message));
    }
    let room = checked_name("room", &request.room)?;
    let name = checked_name("name", &request.name)?;
    let random = || random_text(6).map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()));
    let mut claims = Claims::join(format!("{}-{}", slug(&name), random()?), room.clone());
    claims.name.clone_from(&name);
    if let Some(grant) = &mut claims.video {
        grant.can_update_own_metadata = Some(true);
    }
    let identity = claims.identity.clone();
    // Looked up now: keys rotate.
    let keys = state.rooms.keys();
    let token = keys.mint(&keys.first_key().unwrap_or_default(), &claims, TOKEN_LIFE);
    let token = token.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    Ok(Json(JoinResponse { token, room, identity, name }))
}

fn checked_name(what: &str, text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.is_empty() || text.len() > NAME_LIMIT || text.chars().any(char::is_control) {
        let message = format!("The {what} must have 1 to {NAME_LIMIT} bytes and no control characters.");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "name_invalid", message));
    }
    Ok(text.to_owned())
}

/// The readable part of an identity: letters and digits of the name, at most 32.
fn slug(name: &str) -> String {
    let slug: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).take(32).collect();
    if slug.is_empty() { "guest".into() } else { slug }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetCaptions {
    enabled: bool,
}

async fn set_captions(
    State(state): State<ApiState>,
    Path(room): Path<String>,
    headers: HeaderMap,
    request: Result<Json<SetCaptions>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let claims = authorized(&state, &headers, &room)?;
    // Who may only watch does not decide for those who speak.
    if claims.require_room_admin(&room).is_err() && !claims.require_join_of(&room).is_ok_and(VideoGrant::can_publish) {
        let message = "the token does not grant 'canPublish': captions are turned on and off by those who may speak";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "permission_denied", message));
    }
    state.captions.set_enabled(&room, request?.enabled, By::from(&claims)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetOptOut {
    opted_out: bool,
}

async fn set_opt_out(
    State(state): State<ApiState>,
    Path(room): Path<String>,
    headers: HeaderMap,
    request: Result<Json<SetOptOut>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let claims = authorized(&state, &headers, &room)?;
    state.captions.set_opt_out(&room, &claims.identity, request?.opted_out).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's claims, if its token opens the room.
fn authorized(state: &ApiState, headers: &HeaderMap, room: &str) -> Result<Claims, ApiError> {
    let unauthorized = |message: String| ApiError::new(StatusCode::UNAUTHORIZED, "unauthenticated", message);
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let header = header.ok_or_else(|| unauthorized("send `Authorization: Bearer <token>` with the token of the room".into()))?;
    let verified = bearer(header).and_then(|token| state.rooms.keys().verify(token)).map_err(|error| unauthorized(error.to_string()))?;
    let claims = verified.claims;
    if claims.require_join_of(room).is_ok() || claims.require_room_admin(room).is_ok() {
        Ok(claims)
    } else {
        Err(ApiError::new(StatusCode::FORBIDDEN, "permission_denied", format!("the token does not open the room `{room}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_slugs_are_plain() {
        assert!(checked_name("name", "  ").is_err());
        assert!(checked_name("name", &"x".repeat(257)).is_err());
        assert!(checked_name("name", "a\u{7}b").is_err());
        assert_eq!(checked_name("name", " Ana ").map_err(|e| e.message), Ok("Ana".into()));
        assert_eq!(slug("Ana María!"), "anamaría");
        assert_eq!(slug("!!!"), "guest");
    }
}
