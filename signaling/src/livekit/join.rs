//! What a client says when it connects: query parameters (v0) or a join request (v1, also taken on v0), and its token.
//!
//! Rule: everything is checked here before the WebSocket is opened, so that a refusal has an HTTP status and a sentence.

use std::collections::HashMap;
use std::io::Read as _;

use auralink_proto::livekit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use livekit::wrapped_join_request::Compression;
use prost::Message as _;

use super::SIGNAL_BYTES_MAX;
use crate::access::{self, AccessError, KeySet, Verified};
use crate::rooms::{JoinParams, Limits, ResumeParams, RoomsError};

/// Why a client may not connect.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The join request is not base64.
    #[error("cannot base64 decode wrapped join request")]
    Base64,
    /// The join request is not what it should be.
    #[error("cannot unmarshal {0}")]
    Malformed(&'static str),
    /// Larger than a signal message may be, possibly only after decompression.
    #[error("the join request is larger than {SIGNAL_BYTES_MAX} bytes")]
    TooLarge,
    /// Not gzip although it says so.
    #[error("cannot decompress join request")]
    Compression,
    /// `/rtc/v1` without one.
    #[error("join_request is required")]
    Required,
    /// A parameter of the v0 path.
    #[error("the parameter {0:?} cannot be read: {1}")]
    Parameter(&'static str, String),
    /// The room refuses.
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

impl JoinError {
    /// LiveKit's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Access(_) => StatusCode::UNAUTHORIZED,
            Self::Rooms(error) => error.status(),
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl IntoResponse for JoinError {
    fn into_response(self) -> Response {
        let status = self.status();
        let reason = self.to_string();
        // As text, which is escaped: it may quote what a client wrote.
        tracing::info!(status = status.as_u16(), reason, "connection refused");
        metrics::counter!("auralink_joins_refused_total", "status" => status.as_str().to_owned()).increment(1);
        (status, reason).into_response()
    }
}

/// What a connection is for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per connection, moved twice")]
pub enum Connect {
    /// A new session.
    Join(Box<JoinParams>),
    /// A session is taken up again.
    Resume(ResumeParams),
}

/// Which path was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `/rtc`.
    V0,
    /// `/rtc/v1`: a join request is required.
    V1,
}

/// Reads and checks everything that a connecting client says.
pub fn parse(version: Version, query: &str, headers: &HeaderMap, keys: &KeySet, limits: &Limits) -> Result<Connect, JoinError> {
    let parameters: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let Verified { api_key, mut claims } = keys.verify(&token(&parameters, headers)?)?;
    let grant = claims.require_join()?;
    let room = grant.room.clone();
    let may_update = grant.can_update_own_metadata();
    limits.check_room_name(&room)?;
    limits.check_identity(&claims.identity)?;

    let request = match parameters.get("join_request") {
        Some(encoded) => Some(decode(encoded)?),
        None if version == Version::V1 => return Err(JoinError::Required),
        None => None,
    };
    let single_connection = request.is_some();
    let request = match request {
        Some(request) => request,
        None => from_parameters(&parameters)?,
    };
    if !may_update && (!request.metadata.is_empty() || !request.participant_attributes.is_empty()) {
        return Err(AccessError::Denied(
            "the token does not grant 'canUpdateOwnMetadata', which metadata or attributes in a join need".into(),
        )
        .into());
    }
    if request.reconnect {
        return Ok(Connect::Resume(ResumeParams {
            room,
            participant_sid: request.participant_sid,
            identity: claims.identity,
            sync_state: request.sync_state,
        }));
    }
    if !request.metadata.is_empty() {
        claims.metadata = request.metadata;
    }
    for (key, value) in request.participant_attributes {
        if !value.is_empty() || !claims.attributes.contains_key(&key) {
            claims.attributes.insert(key, value);
        }
    }
    Ok(Connect::Join(Box::new(JoinParams {
        room,
        api_key,
        claims,
        client: request.client_info.unwrap_or_default(),
        single_connection,
        auto_subscribe: request.connection_settings.is_none_or(|settings| settings.auto_subscribe),
        add_tracks: request.add_track_requests,
        publisher_offer: request.publisher_offer,
    })))
}

/// The token of a request: the header first, then the parameter.
fn token(parameters: &HashMap<String, String>, headers: &HeaderMap) -> Result<String, AccessError> {
    if let Some(header) = headers.get(header::AUTHORIZATION) {
        return Ok(access::bearer(header.to_str().map_err(|_| AccessError::NotBearer)?)?.to_owned());
    }
    parameters.get("access_token").filter(|token| !token.is_empty()).cloned().ok_or(AccessError::Missing)
}

/// Base64 of a `WrappedJoinRequest`, in either alphabet, padded or not.
///
/// # Errors
/// When a step fails, or when the request is larger than a signal message may be.
pub fn decode(encoded: &str) -> Result<livekit::JoinRequest, JoinError> {
    const ENGINE: GeneralPurpose =
        GeneralPurpose::new(&alphabet::URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
    if encoded.len() > SIGNAL_BYTES_MAX / 3 * 4 {
        return Err(JoinError::TooLarge);
    }
    // A plus that was not escaped arrives as a space.
    let encoded: String = encoded
        .chars()
        .map(|letter| match letter {
            '+' | ' ' => '-',
            '/' => '_',
            letter => letter,
        })
        .collect();
    let bytes = ENGINE.decode(encoded).map_err(|_| JoinError::Base64)?;
    let wrapped = livekit::WrappedJoinRequest::decode(bytes.as_slice()).map_err(|_| JoinError::Malformed("wrapped join request"))?;
    let request = match Compression::try_from(wrapped.compression) {
        Ok(Compression::None) => wrapped.join_request,
        Ok(Compression::Gzip) => {
            let mut request = Vec::new();
            flate2::read::GzDecoder::new(wrapped.join_request.as_slice())
                .take(SIGNAL_BYTES_MAX as u64 + 1)
                .read_to_end(&mut request)
                .map_err(|_| JoinError::Compression)?;
            request
        }
        Err(_) => return Err(JoinError::Malformed("join request: its compression is unknown")),
    };
    if request.len() > SIGNAL_BYTES_MAX {
        return Err(JoinError::TooLarge);
    }
    livekit::JoinRequest::decode(request.as_slice()).map_err(|_| JoinError::Malformed("join request"))
}

/// The v0 parameters as a join request.
fn from_parameters(parameters: &HashMap<String, String>) -> Result<livekit::JoinRequest, JoinError> {
    let text = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    let flag = |name: &str| parameters.get(name).map(|value| matches!(value.as_str(), "1" | "true"));
    let number = |name: &str| parameters.get(name).and_then(|value| value.parse::<i32>().ok()).unwrap_or_default();
    let participant_attributes = match parameters.get("attributes").filter(|value| !value.is_empty()) {
        None => HashMap::new(),
        Some(encoded) => {
            let wrong = |error: String| JoinError::Parameter("attributes", error);
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(encoded.replace(' ', "+"))
                .or_else(|_| base64::engine::general_purpose::URL_SAFE.decode(encoded))
                .map_err(|error| wrong(error.to_string()))?;
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?
        }
    };
    let sdk = livekit::client_info::Sdk::from_str_name(&text("sdk").to_ascii_uppercase().replace("REACTNATIVE", "REACT_NATIVE"));
    Ok(livekit::JoinRequest {
        client_info: Some(livekit::ClientInfo {
            sdk: sdk.unwrap_or_default() as i32,
            version: text("version"),
            protocol: number("protocol"),
            os: text("os"),
            os_version: text("os_version"),
            device_model: text("device_model"),
            browser: text("browser"),
            browser_version: text("browser_version"),
            network: text("network"),
            client_protocol: number("client_protocol"),
            ..Default::default()
        }),
        connection_settings: Some(livekit::ConnectionSettings {
            auto_subscribe: flag("auto_subscribe").unwrap_or(true),
            adaptive_stream: flag("adaptive_stream").unwrap_or(false),
            subscriber_allow_pause: flag("subscriber_allow_pause"),
            disable_ice_lite: flag("disable_ice_lite").unwrap_or(false),
            ..Default::default()
        }),
        participant_attributes,
        reconnect: flag("reconnect").unwrap_or(false),
        participant_sid: text("sid"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests;
