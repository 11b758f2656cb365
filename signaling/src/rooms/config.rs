//! What a room is given when nobody says otherwise, and the limits that everything from outside is held to.

use std::time::Duration;

use auralink_proto::livekit;

use super::RoomsError;

/// Defaults and limits of all rooms.
#[derive(Debug, Clone)]
pub struct RoomsConfig {
    /// Rooms are made by the first who joins.
    pub auto_create: bool,
    /// A room that nobody joined ends after this long.
    pub empty_timeout: Duration,
    /// A room that everybody left ends after this long.
    pub departure_timeout: Duration,
    /// A participant whose signal connection was lost is kept this long for a resume.
    pub resume_timeout: Duration,
    /// A participant whose media connection never stood leaves this long after its join. LiveKit's minute, whether or not anything was
    /// negotiated: every client opens its connection for data alone.
    pub join_timeout: Duration,
    /// A participant whose media connection was lost is kept this long for an ICE restart.
    pub media_timeout: Duration,
    /// Lifetime of the tokens that connected clients are given.
    pub token_lifetime: Duration,
    /// How often they are given one; shorter than the lifetime.
    pub token_refresh: Duration,
    /// STUN and TURN servers told to clients.
    pub ice_servers: Vec<livekit::IceServer>,
    /// Codecs that may be published, as mime types.
    pub publish_codecs: Vec<String>,
    /// Told to clients.
    pub server_version: String,
    /// Told to clients.
    pub node_id: String,
    /// Told to clients; may be empty.
    pub region: String,
    /// Limits.
    pub limits: Limits,
}

/// Limits of what a room takes from outside. Each refusal names the limit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rooms on this node.
    pub rooms: usize,
    /// Participants of a room.
    pub participants_per_room: usize,
    /// Publications of a participant.
    pub tracks_per_participant: usize,
    /// Bytes of a room's or a participant's metadata.
    pub metadata_bytes: usize,
    /// Bytes of all keys and values of a participant's attributes.
    pub attributes_bytes: usize,
    /// Bytes of all names, metadata and attributes in a room: everyone who joins is told them at once.
    pub profiles_bytes_per_room: usize,
    /// Bytes of a room name, an identity, a participant's name, a track's name or id.
    pub name_bytes: usize,
    /// Bytes of an SDP.
    pub sdp_bytes: usize,
    /// ICE candidates taken from a participant; further ones are dropped.
    pub candidates_per_participant: u32,
    /// Signal messages waiting for a client that does not read.
    pub queue_messages: usize,
    /// Bytes of signal messages waiting for a client that does not read.
    pub queue_bytes: usize,
}

/// The LiveKit release whose protocol this is. Clients compare it to decide what they may ask for: the native SDKs refuse
/// calls between participants below 1.8.0.
const LIVEKIT_VERSION: &str = "1.13.5";

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            auto_create: true,
            empty_timeout: Duration::from_secs(300),
            departure_timeout: Duration::from_secs(20),
            resume_timeout: Duration::from_secs(15),
            join_timeout: Duration::from_secs(60),
            media_timeout: Duration::from_secs(30),
            token_lifetime: Duration::from_secs(600),
            token_refresh: Duration::from_secs(300),
            ice_servers: Vec::new(),
            publish_codecs: ["video/VP8", "video/H264", "video/VP9", "video/AV1", "audio/opus", "audio/red"].map(String::from).to_vec(),
            server_version: LIVEKIT_VERSION.to_owned(),
            node_id: super::sid::new("ND_"),
            region: String::new(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rooms: 10_000,
            participants_per_room: 3_000,
            tracks_per_participant: 32,
            metadata_bytes: 512 * 1024,
            attributes_bytes: 64 * 1024,
            profiles_bytes_per_room: 16 * 1024 * 1024,
            name_bytes: 256,
            sdp_bytes: 512 * 1024,
            candidates_per_participant: 256,
            queue_messages: 4_096,
            queue_bytes: 8 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// A room name: not empty and not too long.
    pub fn check_room_name(&self, name: &str) -> Result<(), RoomsError> {
        if name.is_empty() {
            return Err(RoomsError::Invalid("no room name".into()));
        }
        self.check_name("room name", name)
    }

    /// An identity: not empty and not too long.
    pub fn check_identity(&self, identity: &str) -> Result<(), RoomsError> {
        if identity.is_empty() {
            return Err(RoomsError::Invalid("identity cannot be empty".into()));
        }
        self.check_name("participant identity", identity)
    }

    /// Any name.
    pub fn check_name(&self, what: &str, name: &str) -> Result<(), RoomsError> {
        if name.len() <= self.name_bytes {
            return Ok(());
        }
        Err(RoomsError::Invalid(format!("{what} length exceeds limits: {} bytes, max length {}", name.len(), self.name_bytes)))
    }

    /// Metadata of a room or participant.
    pub fn check_metadata(&self, metadata: &str) -> Result<(), RoomsError> {
        if metadata.len() <= self.metadata_bytes {
            return Ok(());
        }
        Err(RoomsError::LimitExceeded(format!("metadata exceeds limits: {} bytes, at most {}", metadata.len(), self.metadata_bytes)))
    }

    /// All attributes of a participant together.
    pub fn check_attributes<'a>(&self, attributes: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<(), RoomsError> {
        self.check_attributes_bytes(attributes.into_iter().map(|(key, value)| key.len() + value.len()).sum())
    }

    /// Bytes of all attributes of a participant together.
    pub fn check_attributes_bytes(&self, bytes: usize) -> Result<(), RoomsError> {
        if bytes <= self.attributes_bytes {
            return Ok(());
        }
        Err(RoomsError::LimitExceeded(format!("attributes exceed limits: {bytes} bytes, at most {}", self.attributes_bytes)))
    }
}
