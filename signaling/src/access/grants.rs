//! What a token says: LiveKit's claims, in LiveKit's JSON spelling, and the rules by which grants are read.

use std::collections::{BTreeMap, HashMap};

use auralink_proto::livekit;
use serde::{Deserialize, Serialize};

use super::AccessError;

/// The claims of an access token. Claims that this server does not know are kept, so that a refreshed token carries them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claims {
    /// API key that signed it.
    pub iss: String,
    /// The identity, as the registered claim.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// Token id; the identity in tokens of old SDKs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// Seconds since 1970 at which it ends.
    pub exp: u64,
    /// Seconds since 1970 from which on it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Who: unique within a room.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Name shown to others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `standard`, `agent`, `sip`, `ingress`, `egress`, `connector` or `bridge`; empty = standard.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Details of the kind, as LiveKit names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kind_details: Vec<String>,
    /// Application data shown to everyone in the room, at most 512 KiB.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// Application data by key, at most 64 KiB together.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub attributes: HashMap<String, String>,
    /// SHA-256 of a body that the token signs (webhooks), base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Room grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoGrant>,
    /// Telephony grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sip: Option<SipGrant>,
    /// Agent grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentGrant>,
    /// How the room is made if this participant is the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_config: Option<livekit::RoomConfiguration>,
    /// Name of a room configuration of the server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub room_preset: String,
    /// Claims that this server does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// LiveKit's `video` grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VideoGrant {
    /// May create and delete rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_create: bool,
    /// May list rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_list: bool,
    /// May record.
    #[serde(skip_serializing_if = "is_false")]
    pub room_record: bool,
    /// May administrate `room`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_admin: bool,
    /// May join `room`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_join: bool,
    /// The room that `room_admin` and `room_join` speak of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub room: String,
    /// May publish; granted when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    /// May subscribe; granted when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// May send data; as `can_publish` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// Sources that may be published; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    /// May change its own name, metadata and attributes; not granted when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// May administrate ingresses.
    #[serde(skip_serializing_if = "is_false")]
    pub ingress_admin: bool,
    /// Not shown to others.
    #[serde(skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// Is a recorder.
    #[serde(skip_serializing_if = "is_false")]
    pub recorder: bool,
    /// May register as an agent worker.
    #[serde(skip_serializing_if = "is_false")]
    pub agent: bool,
    /// May receive metrics of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe_metrics: Option<bool>,
    /// May steer an agent session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_manage_agent_session: Option<bool>,
    /// Room that participants may be forwarded or moved to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_room: String,
}

/// LiveKit's `sip` grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SipGrant {
    /// May administrate trunks and rules.
    #[serde(skip_serializing_if = "is_false")]
    pub admin: bool,
    /// May place calls.
    #[serde(skip_serializing_if = "is_false")]
    pub call: bool,
}

/// LiveKit's `agent` grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentGrant {
    /// May administrate agents.
    #[serde(skip_serializing_if = "is_false")]
    pub admin: bool,
}

impl Claims {
    /// Claims with which `identity` may join `room`.
    pub fn join(identity: impl Into<String>, room: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            video: Some(VideoGrant { room_join: true, room: room.into(), ..VideoGrant::default() }),
            ..Self::default()
        }
    }

    /// Claims of the server itself or of a tool: every room right, for `room` where one is needed.
    pub fn admin(room: impl Into<String>) -> Self {
        Self {
            video: Some(VideoGrant { room_create: true, room_list: true, room_admin: true, room: room.into(), ..VideoGrant::default() }),
            ..Self::default()
        }
    }

    /// The participant kind that `kind` names.
    pub fn participant_kind(&self) -> livekit::participant_info::Kind {
        use livekit::participant_info::Kind;
        match self.kind.as_str() {
            "agent" => Kind::Agent,
            "sip" => Kind::Sip,
            "ingress" => Kind::Ingress,
            "egress" => Kind::Egress,
            "connector" => Kind::Connector,
            "bridge" => Kind::Bridge,
            _ if self.video.as_ref().is_some_and(|video| video.agent) => Kind::Agent,
            _ => Kind::Standard,
        }
    }

    /// The details that `kindDetails` names; unknown ones are left out.
    pub fn participant_kind_details(&self) -> Vec<i32> {
        use livekit::participant_info::KindDetail;
        self.kind_details
            .iter()
            .filter_map(|name| KindDetail::from_str_name(&name.to_ascii_uppercase()))
            .map(|detail| detail as i32)
            .collect()
    }

    /// The grants, or a refusal that says so.
    pub fn require_video(&self) -> Result<&VideoGrant, AccessError> {
        self.video.as_ref().ok_or_else(|| AccessError::Denied("the token has no 'video' grant".into()))
    }

    /// Refuses unless the token lets its holder join a room.
    pub fn require_join(&self) -> Result<&VideoGrant, AccessError> {
        let video = self.require_video()?;
        if !video.room_join {
            return Err(AccessError::Denied("the token does not grant 'roomJoin'".into()));
        }
        Ok(video)
    }

    /// Refuses unless the token lets its holder join `room`. A token that names no room opens none.
    pub fn require_join_of(&self, room: &str) -> Result<&VideoGrant, AccessError> {
        let video = self.require_join()?;
        if room.is_empty() || video.room != room {
            return Err(AccessError::Denied(format!(
                "the token opens the room {:?}, not {:?}",
                super::shorten(&video.room),
                super::shorten(room)
            )));
        }
        Ok(video)
    }

    /// Refuses unless the token administrates `room`.
    pub fn require_room_admin(&self, room: &str) -> Result<(), AccessError> {
        let video = self.require_video()?;
        if !video.room_admin {
            return Err(AccessError::Denied("the token does not grant 'roomAdmin'".into()));
        }
        if video.room != room {
            return Err(AccessError::Denied(format!("the token grants 'roomAdmin' for room {:?} only", video.room)));
        }
        Ok(())
    }

    /// Refuses unless the token may create rooms.
    pub fn require_room_create(&self) -> Result<(), AccessError> {
        if self.require_video()?.room_create {
            return Ok(());
        }
        Err(AccessError::Denied("the token does not grant 'roomCreate'".into()))
    }

    /// Refuses unless the token may list rooms.
    pub fn require_room_list(&self) -> Result<(), AccessError> {
        if self.require_video()?.room_list {
            return Ok(());
        }
        Err(AccessError::Denied("the token does not grant 'roomList'".into()))
    }
}

impl VideoGrant {
    /// Publishing is granted unless it is denied.
    pub fn can_publish(&self) -> bool {
        self.can_publish.unwrap_or(true)
    }

    /// May this source be published?
    pub fn can_publish_source(&self, source: livekit::TrackSource) -> bool {
        self.can_publish()
            && (self.can_publish_sources.is_empty()
                || self.can_publish_sources.iter().any(|allowed| allowed.eq_ignore_ascii_case(source_name(source))))
    }

    /// Subscribing is granted unless it is denied.
    pub fn can_subscribe(&self) -> bool {
        self.can_subscribe.unwrap_or(true)
    }

    /// Data may be sent by who may publish, unless said otherwise.
    pub fn can_publish_data(&self) -> bool {
        self.can_publish_data.unwrap_or_else(|| self.can_publish())
    }

    /// Own metadata may be changed only when granted.
    pub fn can_update_own_metadata(&self) -> bool {
        self.can_update_own_metadata.unwrap_or(false)
    }

    /// The grants as clients are told.
    pub fn to_permission(&self) -> livekit::ParticipantPermission {
        #[allow(deprecated, reason = "old clients read 'recorder' and 'agent'")]
        livekit::ParticipantPermission {
            can_subscribe: self.can_subscribe(),
            can_publish: self.can_publish(),
            can_publish_data: self.can_publish_data(),
            can_publish_sources: self
                .can_publish_sources
                .iter()
                .filter_map(|name| livekit::TrackSource::from_str_name(&name.to_ascii_uppercase()))
                .map(|source| source as i32)
                .collect(),
            hidden: self.hidden,
            recorder: self.recorder,
            can_update_metadata: self.can_update_own_metadata(),
            agent: self.agent,
            can_subscribe_metrics: self.can_subscribe_metrics.unwrap_or(false),
            can_manage_agent_session: self.can_manage_agent_session.unwrap_or(false),
        }
    }

    /// Takes over permissions that an administrator set.
    pub fn update(&mut self, permission: &livekit::ParticipantPermission) {
        self.can_publish = Some(permission.can_publish);
        self.can_subscribe = Some(permission.can_subscribe);
        self.can_publish_data = Some(permission.can_publish_data);
        self.can_publish_sources = permission.can_publish_sources().map(|source| source_name(source).to_owned()).collect();
        self.hidden = permission.hidden;
        self.can_update_own_metadata = Some(permission.can_update_metadata);
        self.can_subscribe_metrics = Some(permission.can_subscribe_metrics);
        self.can_manage_agent_session = Some(permission.can_manage_agent_session);
    }
}

/// How a source is written in `canPublishSources`.
pub fn source_name(source: livekit::TrackSource) -> &'static str {
    match source {
        livekit::TrackSource::Camera => "camera",
        livekit::TrackSource::Microphone => "microphone",
        livekit::TrackSource::ScreenShare => "screen_share",
        livekit::TrackSource::ScreenShareAudio => "screen_share_audio",
        livekit::TrackSource::Unknown => "unknown",
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(json: &str) -> VideoGrant {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_token_opens_its_own_room_and_without_one_none() {
        let claims = Claims::join("ann", "here");
        assert!(claims.require_join_of("here").is_ok());
        assert!(claims.require_join_of("there").unwrap_err().to_string().contains("here"));
        let roomless = Claims::join("ann", "");
        assert!(roomless.require_join_of("here").is_err() && roomless.require_join_of("").is_err());
        assert!(Claims { video: None, ..claims }.require_join_of("here").is_err());
    }

    #[test]
    fn absent_permissions_are_livekits_defaults() {
        let video = grant("{}");
        assert!(video.can_publish() && video.can_subscribe() && video.can_publish_data());
        assert!(!video.can_update_own_metadata() && !video.room_join);
        assert!(!grant(r#"{"canPublish": false}"#).can_publish_data());
        assert!(grant(r#"{"canPublish": false, "canPublishData": true}"#).can_publish_data());
    }

    #[test]
    fn sources_restrict_publishing() {
        let video = grant(r#"{"canPublishSources": ["microphone", "screen_share"]}"#);
        assert!(video.can_publish_source(livekit::TrackSource::Microphone));
        assert!(video.can_publish_source(livekit::TrackSource::ScreenShare));
        assert!(!video.can_publish_source(livekit::TrackSource::Camera));
        assert!(!grant(r#"{"canPublish": false, "canPublishSources": ["camera"]}"#).can_publish_source(livekit::TrackSource::Camera));
        let permission = video.to_permission();
        assert_eq!(permission.can_publish_sources, vec![2, 3]);
        let mut updated = VideoGrant::default();
        updated.update(&permission);
        assert_eq!(updated.can_publish_sources, video.can_publish_sources);
    }

    #[test]
    fn unknown_claims_survive() {
        let claims: Claims = serde_json::from_str(r#"{"iss":"k","exp":1,"inference":{"perform":true}}"#).unwrap();
        assert!(serde_json::to_string(&claims).unwrap().contains(r#""inference":{"perform":true}"#));
    }

    #[test]
    fn room_rights_name_the_room() {
        let mut claims = Claims::admin("r");
        assert!(claims.require_room_admin("r").is_ok());
        assert!(claims.require_room_admin("other").unwrap_err().to_string().contains("\"r\""));
        assert!(claims.require_join().is_err());
        claims.video = None;
        assert!(claims.require_room_list().is_err());
    }
}
