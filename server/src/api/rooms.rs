//! `/api/v1/info`, `/join` and `/rooms`: what the page needs beside LiveKit's own protocol.

use std::time::Duration;

use auralink_signaling::access::{Claims, VideoGrant, bearer};
use auralink_signaling::rooms::{Rooms, RoomsError};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::{Json, Path};
use crate::api::{ApiError, ErrorBody};
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
pub struct RoomsState {
    /// The room layer.
    pub rooms: Rooms,
    /// Captions.
    pub captions: Captions,
    /// Secret of the printed URL.
    pub invite: String,
}

/// The routes.
pub fn routes() -> OpenApiRouter<RoomsState> {
    OpenApiRouter::new()
        .routes(routes!(info))
        .routes(routes!(join))
        .routes(routes!(set_captions))
        .routes(routes!(set_own_captions))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
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
            CaptionsError::NoRoom(_) | CaptionsError::NoParticipant { .. } => Self::not_found(error.to_string()),
            CaptionsError::Unavailable(_) => Self::new(StatusCode::CONFLICT, "captions_unavailable", error.to_string()),
            CaptionsError::Stopped => Self::unavailable(error.to_string()),
        }
    }
}

/// What this server is and has.
#[derive(Serialize, ToSchema)]
struct Info {
    name: &'static str,
    version: &'static str,
    /// Whether people in rooms are captioned.
    captions: CaptionsInfo,
    /// What turns speech into text; none without captions.
    model: Option<Model>,
}

/// Whether people in rooms are captioned.
#[derive(Serialize, ToSchema)]
struct CaptionsInfo {
    available: bool,
    /// Why not.
    reason: Option<String>,
    /// On in new rooms.
    default: bool,
    /// BCP 47 tags.
    languages: Vec<String>,
    /// BCP 47 tags of languages into which it is translated for those who read them.
    translations: Vec<String>,
}

/// What this server is and has.
#[utoipa::path(get, path = "/api/v1/info", tag = "rooms", security(()), responses((status = OK, body = Info)))]
async fn info(State(state): State<RoomsState>) -> Json<Info> {
    let (languages, reason) = match state.captions.engine() {
        Ok(engine) => (engine.languages().to_vec(), None),
        Err(reason) => (Vec::new(), Some(reason.to_owned())),
    };
    let captions = CaptionsInfo {
        available: reason.is_none(),
        reason,
        default: state.captions.default_on(),
        languages,
        translations: state.captions.translations(),
    };
    Json(Info { name: "AuraLink", version: env!("CARGO_PKG_VERSION"), captions, model: state.captions.model() })
}

/// Who wants into which room.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JoinRequest {
    /// From the URL that the server prints when it starts.
    invite: String,
    /// 1 to 256 bytes.
    room: String,
    /// The name that others see, 1 to 256 bytes.
    name: String,
}

/// How to join.
#[derive(Serialize, ToSchema)]
struct JoinResponse {
    /// LiveKit access token, valid for six hours.
    token: String,
    room: String,
    identity: String,
    name: String,
}

/// Exchanges an invitation for a token of a room.
#[utoipa::path(
    post, path = "/api/v1/join", tag = "rooms", security(()),
    responses((status = OK, body = JoinResponse), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn join(State(state): State<RoomsState>, Json(request): Json<JoinRequest>) -> Result<Json<JoinResponse>, ApiError> {
    if !bool::from(request.invite.as_bytes().ct_eq(state.invite.as_bytes())) {
        metrics::counter!("auralink_invite_refused_total").increment(1);
        let message = "This link's invitation is not valid any more. Ask for the URL that AuraLink prints when it starts.";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "invite_invalid", message));
    }
    let room = checked_name("room", &request.room)?;
    let name = checked_name("name", &request.name)?;
    let random = || random_text(6).map_err(|error| ApiError::internal(error.to_string()));
    let mut claims = Claims::join(format!("{}-{}", slug(&name), random()?), room.clone());
    claims.name.clone_from(&name);
    if let Some(grant) = &mut claims.video {
        grant.can_update_own_metadata = Some(true);
    }
    let identity = claims.identity.clone();
    // Looked up now: keys rotate.
    let keys = state.rooms.keys();
    let token = keys.mint(&keys.first_key().unwrap_or_default(), &claims, TOKEN_LIFE);
    let token = token.map_err(|error| ApiError::internal(error.to_string()))?;
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

/// Captions of a room.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetCaptions {
    enabled: bool,
}

/// Turns a room's captions on or off, for everybody; with a token of the room that may publish.
#[utoipa::path(
    put, path = "/api/v1/rooms/{room}/captions", tag = "rooms", params(("room" = String, Path, description = "Name of the room")),
    request_body = SetCaptions,
    responses((status = NO_CONTENT, description = "Done"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn set_captions(
    State(state): State<RoomsState>,
    Path(room): Path<String>,
    headers: HeaderMap,
    request: Result<Json<SetCaptions>, ApiError>,
) -> Result<StatusCode, ApiError> {
    let claims = authorized(&state, &headers, &room)?;
    // Who may only watch does not decide for those who speak.
    if claims.require_room_admin(&room).is_err() && !claims.require_join_of(&room).is_ok_and(VideoGrant::can_publish) {
        let message = "the token does not grant 'canPublish': captions are turned on and off by those who may speak";
        return Err(ApiError::permission_denied(message));
    }
    state.captions.set_enabled(&room, request?.0.enabled, By::from(&claims)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What oneself wants of captions; what is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OwnCaptions {
    /// Not to be heard.
    opted_out: Option<bool>,
    /// The language in which one reads them (BCP 47); empty: as it was said.
    #[schema(example = "de")]
    language: Option<String>,
}

/// Takes oneself out of a room's captions, or in again, and says in which language one reads them; with one's token of the room.
#[utoipa::path(
    put, path = "/api/v1/rooms/{room}/captions/me", tag = "rooms", params(("room" = String, Path, description = "Name of the room")),
    request_body = OwnCaptions,
    responses((status = NO_CONTENT, description = "Done"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn set_own_captions(
    State(state): State<RoomsState>,
    Path(room): Path<String>,
    headers: HeaderMap,
    request: Result<Json<OwnCaptions>, ApiError>,
) -> Result<StatusCode, ApiError> {
    let claims = authorized(&state, &headers, &room)?;
    let wanted = request?.0;
    if let Some(language) = &wanted.language {
        checked_language(language)?;
        state.captions.set_language(&room, &claims.identity, language).await?;
    }
    if let Some(opted_out) = wanted.opted_out {
        state.captions.set_opt_out(&room, &claims.identity, opted_out).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn checked_language(tag: &str) -> Result<(), ApiError> {
    let plain = tag.len() <= 35 && tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let primary = tag.split('-').next().unwrap_or_default();
    if tag.is_empty() || (plain && (2..=8).contains(&primary.len()) && primary.chars().all(|c| c.is_ascii_alphabetic())) {
        return Ok(());
    }
    Err(ApiError::invalid_argument(format!(
        "`language` is `{}`: a BCP 47 tag such as `de` or `pt-BR` is needed, or nothing",
        tag.escape_debug()
    )))
}

/// The caller's claims, if its token opens the room.
fn authorized(state: &RoomsState, headers: &HeaderMap, room: &str) -> Result<Claims, ApiError> {
    let unauthorized = |message: String| ApiError::unauthenticated(message);
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let header = header.ok_or_else(|| unauthorized("send `Authorization: Bearer <token>` with the token of the room".into()))?;
    let verified = bearer(header).and_then(|token| state.rooms.keys().verify(token)).map_err(|error| unauthorized(error.to_string()))?;
    let claims = verified.claims;
    if claims.require_join_of(room).is_ok() || claims.require_room_admin(room).is_ok() {
        Ok(claims)
    } else {
        Err(ApiError::permission_denied(format!("the token does not open the room `{room}`")))
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
