//! What an access token's grants allow, and the mapping from the layers' errors to gRPC.

use auralink_signaling::access::{AccessError, Claims};
use auralink_signaling::rooms::RoomsError;
use tonic::{Code, Status};

use crate::captions::CaptionsError;

/// PERMISSION_DENIED with the sentence, unless one of the grants is there.
pub fn granted(grants: &[Result<(), AccessError>]) -> Result<(), Status> {
    match grants.iter().find(|grant| grant.is_ok()).or_else(|| grants.last()) {
        Some(Err(error)) => Err(Status::permission_denied(error.to_string())),
        _ => Ok(()),
    }
}

/// May the caller enter the room as a participant?
pub fn joins(claims: &Claims, room: &str) -> Result<(), AccessError> {
    claims.require_join_of(room).map(drop)
}

/// May the caller enter the room and publish there?
pub fn publishes(claims: &Claims, room: &str) -> Result<(), AccessError> {
    if claims.require_join_of(room)?.can_publish == Some(false) {
        return Err(AccessError::Denied("the token does not grant 'canPublish'".into()));
    }
    Ok(())
}

/// The one mapping from the room layer's errors to gRPC.
pub fn rooms_status(error: &RoomsError) -> Status {
    let code = match error.code() {
        "not_found" => Code::NotFound,
        "invalid_argument" => Code::InvalidArgument,
        "already_exists" => Code::AlreadyExists,
        "permission_denied" => Code::PermissionDenied,
        "resource_exhausted" => Code::ResourceExhausted,
        "failed_precondition" => Code::FailedPrecondition,
        "unavailable" => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The one mapping from the captions' errors to gRPC.
pub fn captions_status(error: &CaptionsError) -> Status {
    match error {
        CaptionsError::Unavailable(_) => Status::failed_precondition(error.to_string()),
        CaptionsError::NoRoom(_) | CaptionsError::NoParticipant { .. } => Status::not_found(error.to_string()),
        CaptionsError::Room(error) => rooms_status(error),
        CaptionsError::Stopped => Status::unavailable(error.to_string()),
    }
}
