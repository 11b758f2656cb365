//! Why something asked of a room was refused; one mapping to HTTP and Twirp for every face.

use http::StatusCode;

/// A refusal, with a sentence for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomsError {
    /// No such room.
    #[error("requested room does not exist: {0:?}")]
    NotFound(String),
    /// The room has no such participant.
    #[error("participant does not exist: no {identity:?} in room {room:?}")]
    ParticipantNotFound {
        /// Room name.
        room: String,
        /// Identity asked for.
        identity: String,
    },
    /// The room has no such track.
    #[error("track is not found: {0:?}")]
    TrackNotFound(String),
    /// A value that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// A limit of this server was hit.
    #[error("{0}")]
    LimitExceeded(String),
    /// Not allowed.
    #[error("{0}")]
    Denied(String),
    /// A session to resume is not known (any more).
    #[error("no session {0:?} to resume: join anew")]
    UnknownSession(String),
    /// The room ended while it was asked.
    #[error("the room {0:?} has ended")]
    Closed(String),
    /// The media plane is full or stopped.
    #[error("the media plane refused: {0}; try again later or on another node")]
    Media(String),
    /// The server is shutting down.
    #[error("the server is shutting down; connect again in a moment")]
    ShuttingDown,
}

impl RoomsError {
    /// Twirp's code; gRPC has the same names.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::ParticipantNotFound { .. } | Self::TrackNotFound(_) => "not_found",
            Self::Invalid(_) => "invalid_argument",
            Self::LimitExceeded(_) => "resource_exhausted",
            Self::Denied(_) => "permission_denied",
            Self::UnknownSession(_) => "failed_precondition",
            Self::Closed(_) => "not_found",
            Self::Media(_) | Self::ShuttingDown => "unavailable",
        }
    }

    /// The HTTP status that Twirp gives the code.
    pub fn status(&self) -> StatusCode {
        match self.code() {
            "not_found" => StatusCode::NOT_FOUND,
            "invalid_argument" => StatusCode::BAD_REQUEST,
            "resource_exhausted" => StatusCode::TOO_MANY_REQUESTS,
            "permission_denied" => StatusCode::FORBIDDEN,
            "failed_precondition" => StatusCode::PRECONDITION_FAILED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
