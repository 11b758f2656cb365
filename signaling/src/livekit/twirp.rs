//! RoomService over HTTP: `POST /twirp/livekit.RoomService/<Method>` with JSON or protobuf, as every LiveKit server SDK
//! and `lk` call it.

use auralink_proto::livekit;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::{API_BYTES_MAX, json};
use crate::access::{self, AccessError, Claims};
use crate::rooms::{Rooms, RoomsError};

const SERVICE: &str = "livekit.RoomService";
const METHODS: [&str; 11] = [
    "CreateRoom",
    "ListRooms",
    "DeleteRoom",
    "ListParticipants",
    "GetParticipant",
    "RemoveParticipant",
    "MutePublishedTrack",
    "UpdateParticipant",
    "UpdateSubscriptions",
    "SendData",
    "UpdateRoomMetadata",
];

/// A Twirp error: status, code, sentence.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl From<RoomsError> for Refusal {
    fn from(error: RoomsError) -> Self {
        Self { status: error.status(), code: error.code(), message: error.to_string() }
    }
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code: "unauthenticated", message: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "code": self.code, "msg": self.message });
        (self.status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

/// One call, read and allowed.
struct Call {
    rooms: Rooms,
    claims: Claims,
    format: Format,
    body: Bytes,
}

/// Answers any call below `/twirp/`.
pub async fn call(
    State(rooms): State<Rooms>,
    Path((service, name)): Path<(String, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = answer(rooms, &service, &name, &method, &uri, &headers, body).await;
    let (label, code) = match &answer {
        Ok(_) => (name.as_str(), "ok"),
        // Unknown names do not become labels: they are as many as a client likes.
        Err(refusal) if refusal.code == "bad_route" => ("unknown", refusal.code),
        Err(refusal) => (name.as_str(), refusal.code),
    };
    metrics::counter!(
        "livekit_node_twirp_request_status_total",
        "service" => "RoomService", "method" => label.to_owned(), "code" => code
    )
    .increment(1);
    answer.unwrap_or_else(|refusal| {
        tracing::info!(method = name, code = refusal.code, reason = refusal.message, "call refused");
        refusal.into_response()
    })
}

async fn answer(
    rooms: Rooms,
    service: &str,
    name: &str,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let bad_route = |message: String| Refusal { status: StatusCode::NOT_FOUND, code: "bad_route", message };
    if service != SERVICE || !METHODS.contains(&name) {
        return Err(bad_route(format!("no handler for path {:?}", uri.path())));
    }
    if method != Method::POST {
        return Err(bad_route(format!("unsupported method {:?} (only POST is allowed)", method.as_str())));
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Format::Json,
        "application/protobuf" => Format::Protobuf,
        _ => return Err(bad_route(format!("unexpected Content-Type: {content_type:?}"))),
    };
    let authorization = headers.get(header::AUTHORIZATION).ok_or(AccessError::Missing)?;
    let token = access::bearer(authorization.to_str().map_err(|_| AccessError::NotBearer)?)?;
    let claims = rooms.keys().verify(token)?.claims;
    let body = axum::body::to_bytes(body, API_BYTES_MAX).await.map_err(|_| Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        code: "resource_exhausted",
        message: format!("the body could not be read, or has more than {API_BYTES_MAX} bytes"),
    })?;
    Call { rooms, claims, format, body }.dispatch(name).await
}

impl Call {
    async fn dispatch(self, name: &str) -> Result<Response, Refusal> {
        let rooms = self.rooms.clone();
        match name {
            "CreateRoom" => {
                self.claims.require_room_create()?;
                let room = rooms.create(self.request()?).await?;
                self.respond("Room", room)
            }
            "ListRooms" => {
                self.claims.require_room_list()?;
                let request: livekit::ListRoomsRequest = self.request()?;
                self.respond("ListRoomsResponse", livekit::ListRoomsResponse { rooms: rooms.list(&request.names) })
            }
            "DeleteRoom" => {
                self.claims.require_room_create()?;
                let request: livekit::DeleteRoomRequest = self.request()?;
                rooms.delete(&request.room).await?;
                self.respond("DeleteRoomResponse", livekit::DeleteRoomResponse {})
            }
            "ListParticipants" => {
                let request: livekit::ListParticipantsRequest = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                let participants = match rooms.participants(&request.room).await {
                    // As LiveKit: a room that is not there has nobody in it.
                    Err(RoomsError::NotFound(_) | RoomsError::Closed(_)) => Vec::new(),
                    participants => participants?,
                };
                self.respond("ListParticipantsResponse", livekit::ListParticipantsResponse { participants })
            }
            "GetParticipant" => {
                let request: livekit::RoomParticipantIdentity = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                let participant = rooms.participant(&request.room, &request.identity).await?;
                self.respond("ParticipantInfo", participant)
            }
            "RemoveParticipant" => {
                let request: livekit::RoomParticipantIdentity = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                rooms.remove_participant(&request.room, &request.identity).await?;
                self.respond("RemoveParticipantResponse", livekit::RemoveParticipantResponse {})
            }
            "MutePublishedTrack" => {
                let request: livekit::MuteRoomTrackRequest = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                let track = rooms.mute_track(request).await?;
                self.respond("MuteRoomTrackResponse", livekit::MuteRoomTrackResponse { track: Some(track) })
            }
            "UpdateParticipant" => {
                let request: livekit::UpdateParticipantRequest = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                let participant = rooms.update_participant(request).await?;
                self.respond("ParticipantInfo", participant)
            }
            "UpdateSubscriptions" => {
                let request: livekit::UpdateSubscriptionsRequest = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                rooms.update_subscriptions(request).await?;
                self.respond("UpdateSubscriptionsResponse", livekit::UpdateSubscriptionsResponse {})
            }
            "SendData" => {
                let request: livekit::SendDataRequest = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                rooms.send_data(request).await?;
                self.respond("SendDataResponse", livekit::SendDataResponse {})
            }
            _ => {
                let request: livekit::UpdateRoomMetadataRequest = self.request()?;
                self.claims.require_room_admin(&request.room)?;
                let room = rooms.update_room_metadata(&request.room, request.metadata).await?;
                self.respond("Room", room)
            }
        }
    }

    fn request<T: prost::Message + Default + DeserializeOwned>(&self) -> Result<T, Refusal> {
        let malformed = |kind: &str, error: String| Refusal {
            status: StatusCode::BAD_REQUEST,
            code: "malformed",
            message: format!("the {kind} request could not be decoded: {error}"),
        };
        match self.format {
            Format::Json => {
                let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
                serde_json::from_slice(body).map_err(|error| malformed("json", error.to_string()))
            }
            Format::Protobuf => T::decode(self.body.clone()).map_err(|error| malformed("protobuf", error.to_string())),
        }
    }

    /// `name` is the type's, without `livekit.`.
    fn respond(&self, name: &'static str, response: impl prost::Message) -> Result<Response, Refusal> {
        Ok(match self.format {
            Format::Json => {
                let value = json::write(name, &response).map_err(|error| Refusal {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    code: "internal",
                    message: format!("the answer has no JSON form: {error}"),
                })?;
                ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
            }
            Format::Protobuf => ([(header::CONTENT_TYPE, "application/protobuf")], response.encode_to_vec()).into_response(),
        })
    }
}
