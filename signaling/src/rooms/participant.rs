//! A participant of a room as the control plane knows it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use auralink_media::control::{MediaPermissions, ParticipantSpec};
use auralink_media::ids::{ParticipantKey, TrackKey};
use auralink_proto::livekit;
use livekit::participant_info::Kind;

use super::event::ParticipantRef;
use super::publication::Publication;
use crate::access::{Claims, VideoGrant};

/// Which signal connection of a participant: grows with each resume, so that a late word of an old one is known as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// How a participant is reached.
#[derive(Debug)]
pub(crate) enum Link {
    /// Over a signal connection.
    Up(ConnectionId),
    /// Its signal connection was lost; it may resume. What it would not learn from the room's present state is kept.
    Down { since: Instant, departed: Vec<livekit::ParticipantInfo> },
    /// Made by the server itself: there is nobody to tell.
    Local,
}

/// Participants that left while someone's signal was down, kept for the resume; more are told only by their absence.
pub(crate) const DEPARTED_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Participant {
    pub key: ParticipantKey,
    pub sid: Arc<str>,
    pub identity: Arc<str>,
    /// Without tracks: [`Participant::info`] puts them in.
    pub base: livekit::ParticipantInfo,
    pub grant: VideoGrant,
    pub claims: Claims,
    pub api_key: String,
    pub single_connection: bool,
    pub auto_subscribe: bool,
    pub link: Link,
    pub tracks: BTreeMap<TrackKey, Publication>,
    /// What media was told to send to it.
    pub subscriptions: BTreeSet<TrackKey>,
    /// What it said it does not want.
    pub unwanted: BTreeSet<TrackKey>,
    /// What it said it wants without being subscribed automatically.
    pub wanted: BTreeSet<TrackKey>,
    /// Who may subscribe to its tracks; `None` = everyone.
    pub audience: Option<livekit::SubscriptionPermission>,
    /// Last told quality of its connection.
    pub quality: Option<livekit::ConnectionQualityInfo>,
    pub candidates: u32,
    /// The last reliable data packet of its that came, by its own number: what a resuming client is told. It may lag behind (then the
    /// client sends more again than it must, and media drops what it knows), never run ahead.
    pub last_sequence: u32,
    pub joined: Instant,
    pub media_lost: Option<Instant>,
    pub refreshed: Instant,
}

impl Participant {
    /// As others see it.
    pub fn info(&self) -> livekit::ParticipantInfo {
        let mut info = self.base.clone();
        info.tracks = self.tracks.values().filter(|track| track.started).map(|track| track.info.clone()).collect();
        info.is_publisher = !info.tracks.is_empty();
        info
    }

    /// Bytes of what everyone is told of it.
    pub fn profile_bytes(&self) -> usize {
        profile_bytes(&self.base)
    }

    pub fn reference(&self) -> ParticipantRef {
        ParticipantRef { key: self.key, sid: self.sid.clone(), identity: self.identity.clone() }
    }

    pub fn hidden(&self) -> bool {
        self.grant.hidden
    }

    pub fn state(&self) -> livekit::participant_info::State {
        self.base.state()
    }

    pub fn set_state(&mut self, state: livekit::participant_info::State) {
        self.base.state = state as i32;
        self.base.version += 1;
    }

    pub fn changed(&mut self) {
        self.base.version += 1;
    }

    /// Agents, recorders and the like do not keep a room open.
    pub fn keeps_room_open(&self) -> bool {
        !matches!(self.base.kind(), Kind::Agent | Kind::Egress) && !self.grant.recorder
    }

    pub fn media_permissions(&self) -> MediaPermissions {
        MediaPermissions { publish: self.grant.can_publish(), subscribe: self.grant.can_subscribe(), data: self.grant.can_publish_data() }
    }

    pub fn spec(&self) -> ParticipantSpec {
        ParticipantSpec {
            sid: self.sid.to_string(),
            identity: self.identity.to_string(),
            single_connection: self.single_connection,
            permissions: self.media_permissions(),
            agent: self.base.kind() == Kind::Agent,
            hidden: self.grant.hidden,
            connected: !matches!(self.link, Link::Local),
        }
    }

    pub fn track_by_sid(&self, sid: &str) -> Option<&Publication> {
        self.tracks.values().find(|track| track.info.sid == sid)
    }

    pub fn track_key(&self, sid: &str) -> Option<TrackKey> {
        self.track_by_sid(sid).map(|track| track.key)
    }

    /// May `subscriber` have this track, as far as its publisher says?
    pub fn allows(&self, subscriber: &Participant, track_sid: &str) -> bool {
        self.audience.as_ref().is_none_or(|audience| allowed_by(audience, subscriber, track_sid))
    }

    /// Merges attributes: an empty value deletes its key.
    pub fn merge_attributes(&mut self, attributes: &HashMap<String, String>) {
        for (key, value) in attributes {
            if value.is_empty() {
                self.base.attributes.remove(key);
            } else {
                self.base.attributes.insert(key.clone(), value.clone());
            }
        }
        self.claims.attributes = self.base.attributes.clone();
    }
}

/// Bytes of names, metadata and attributes.
pub(crate) fn profile_bytes(info: &livekit::ParticipantInfo) -> usize {
    let attributes: usize = info.attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    info.identity.len() + info.name.len() + info.metadata.len() + attributes
}

/// Does this audience contain the subscriber, for this track?
pub(crate) fn allowed_by(audience: &livekit::SubscriptionPermission, subscriber: &Participant, track_sid: &str) -> bool {
    audience.all_participants
        || audience.track_permissions.iter().any(|permission| {
            (permission.participant_sid == *subscriber.sid || permission.participant_identity == *subscriber.identity)
                && (permission.all_tracks || permission.track_sids.iter().any(|sid| sid == track_sid))
        })
}
