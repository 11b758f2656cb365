//! Outside protocols in, room commands out: LiveKit's WebSocket and Twirp, its access tokens, and the control state of
//! rooms.
//!
//! Flow: a request reaches [`livekit`] -> [`access`] checks its token -> [`rooms`] decides and keeps the state -> commands
//! go to the media plane, whose events come back to the room they concern. Rule: media facts live in shards, names and
//! rights live here; what comes from outside is bounded before it is understood.

pub mod access;
pub mod livekit;
pub mod rooms;
