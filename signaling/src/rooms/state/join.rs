//! Joining and resuming.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rooms::participant::profile_bytes;
use crate::rooms::sid;
use auralink_media::control::ReceiveState;

/// Protocol version that this server speaks.
pub(crate) const PROTOCOL: i32 = 17;
/// Seconds without an answer to a ping after which a client gives its connection up.
const PING_TIMEOUT_S: i32 = 15;
/// Seconds between a client's pings.
const PING_INTERVAL_S: i32 = 5;

/// Who wants to join, checked by the access layer.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub api_key: String,
    pub claims: Claims,
    pub client: livekit::ClientInfo,
    pub single_connection: bool,
    pub auto_subscribe: bool,
    pub add_tracks: Vec<livekit::AddTrackRequest>,
    pub publisher_offer: Option<livekit::SessionDescription>,
    /// Where signals go; `None` for participants that the server makes.
    pub link: Option<SignalSender>,
}

/// Who wants its session back.
#[derive(Debug)]
pub(crate) struct Resume {
    pub participant_sid: String,
    pub identity: String,
    pub sync_state: Option<livekit::SyncState>,
    pub link: SignalSender,
}

/// A participant is in (again).
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub participant: ParticipantKey,
    pub sid: Arc<str>,
    pub connection: ConnectionId,
}

impl RoomState {
    /// A participant enters. One with the same identity leaves.
    pub fn join(&mut self, now: Now, join: Join) -> Result<Joined, RoomsError> {
        if self.finished {
            return Err(RoomsError::Closed(self.room.name.to_string()));
        }
        let limits = &self.config.limits;
        let identity: Arc<str> = Arc::from(join.claims.identity.as_str());
        limits.check_identity(&identity)?;
        limits.check_name("participant name", &join.claims.name)?;
        limits.check_metadata(&join.claims.metadata)?;
        limits.check_attributes(&join.claims.attributes)?;
        let grant = join.claims.video.clone().unwrap_or_default();
        let replaced = self.by_identity.get(&identity).copied();
        let present = self.participants.len() - usize::from(replaced.is_some());
        let asked_max = match self.info.max_participants {
            0 => usize::MAX,
            max => max as usize,
        };
        if present >= limits.participants_per_room.min(asked_max) {
            return Err(RoomsError::LimitExceeded(format!(
                "room {:?} is full: it takes {} participants",
                self.room.name,
                limits.participants_per_room.min(asked_max)
            )));
        }
        let profile = livekit::ParticipantInfo {
            identity: identity.to_string(),
            name: join.claims.name.clone(),
            metadata: join.claims.metadata.clone(),
            attributes: join.claims.attributes.clone(),
            ..Default::default()
        };
        self.check_profiles(profile_bytes(&profile), replaced)?;
        if let Some(old) = replaced {
            let reason = DisconnectReason::DuplicateIdentity;
            self.remove(now, old, reason, Some(leave(reason, livekit::leave_request::Action::Disconnect)));
        }

        let key = ParticipantKey((self.keys)());
        let sid: Arc<str> = Arc::from(sid::new(sid::PARTICIPANT));
        let connection = self.next_connection();
        let base = livekit::ParticipantInfo {
            sid: sid.to_string(),
            state: State::Joining as i32,
            joined_at: now.unix_ms / 1000,
            joined_at_ms: now.unix_ms,
            permission: Some(grant.to_permission()),
            region: self.config.region.clone(),
            kind: join.claims.participant_kind() as i32,
            kind_details: join.claims.participant_kind_details(),
            client_protocol: join.client.client_protocol,
            capabilities: join.client.capabilities.iter().copied().take(16).collect(),
            ..profile
        };
        let participant = Participant {
            key,
            sid: sid.clone(),
            identity: identity.clone(),
            base,
            grant,
            claims: join.claims,
            api_key: join.api_key,
            single_connection: join.single_connection,
            auto_subscribe: join.auto_subscribe,
            link: if join.link.is_some() { Link::Up(connection) } else { Link::Local },
            tracks: BTreeMap::new(),
            subscriptions: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            wanted: BTreeSet::new(),
            audience: None,
            quality: None,
            candidates: 0,
            last_sequence: 0,
            joined: now.at,
            media_lost: None,
            refreshed: now.at,
        };
        let spec = participant.spec();
        let local = join.link.is_none();
        let joining = participant.info();
        self.participants.insert(key, participant);
        self.by_identity.insert(identity, key);
        if let Some(link) = join.link {
            self.effects.push(Effect::Attach { participant: key, link });
        }
        let response = self.join_response(key, joining, !join.single_connection);
        self.tell(key, Message::Join(response));
        self.count(now);

        // Others hear of it before media can carry anything of it.
        let participant = self.participants.get_mut(&key).expect("inserted above");
        participant.set_state(if local { State::Active } else { State::Joined });
        let (reference, info) = (participant.reference(), participant.info());
        self.media(Command::AddParticipant { room: self.room.key, participant: key, spec });
        for request in join.add_tracks {
            self.add_track(now, key, request);
        }
        self.refresh_token(now, key);
        self.announce(key);
        self.event(What::ParticipantJoined { participant: reference.clone(), info: info.clone() });
        if local {
            self.event(What::ParticipantActive { participant: reference, info });
        }
        if let Some(offer) = join.publisher_offer {
            self.offer(now, key, offer);
        }
        self.subscribe_to_all(key);
        Ok(Joined { participant: key, sid, connection })
    }

    fn join_response(&self, key: ParticipantKey, participant: livekit::ParticipantInfo, subscriber_primary: bool) -> livekit::JoinResponse {
        livekit::JoinResponse {
            room: Some(self.info.clone()),
            participant: Some(participant),
            other_participants: self.others(key),
            server_version: self.config.server_version.clone(),
            ice_servers: self.config.ice_servers.clone(),
            subscriber_primary,
            client_configuration: None,
            server_region: self.config.region.clone(),
            ping_timeout: PING_TIMEOUT_S,
            ping_interval: PING_INTERVAL_S,
            server_info: Some(self.server_info()),
            enabled_publish_codecs: codecs(&self.config),
            fast_publish: true,
            ..Default::default()
        }
    }

    fn server_info(&self) -> livekit::ServerInfo {
        livekit::ServerInfo {
            edition: livekit::server_info::Edition::Standard as i32,
            version: self.config.server_version.clone(),
            protocol: PROTOCOL,
            region: self.config.region.clone(),
            node_id: self.config.node_id.clone(),
            debug_info: String::new(),
            agent_protocol: 1,
        }
    }

    /// Everyone that `key` may know of.
    fn others(&self, key: ParticipantKey) -> Vec<livekit::ParticipantInfo> {
        self.participants.values().filter(|other| other.key != key && !other.hidden()).map(Participant::info).collect()
    }

    /// A client comes back over a new signal connection to the session that it had.
    pub fn resume(&mut self, now: Now, resume: Resume) -> Result<Joined, RoomsError> {
        let unknown = || RoomsError::UnknownSession(resume.participant_sid.chars().take(64).collect());
        let key = self.by_identity.get(resume.identity.as_str()).copied().ok_or_else(unknown)?;
        let connection = self.next_connection();
        let participant = self.participants.get_mut(&key).ok_or_else(unknown)?;
        if *participant.sid != *resume.participant_sid || matches!(participant.link, Link::Local) || self.finished {
            return Err(unknown());
        }
        let before = std::mem::replace(&mut participant.link, Link::Up(connection));
        let departed = match before {
            Link::Down { departed, .. } => departed,
            _ => Vec::new(),
        };
        // The client restarts ICE now; it gets the whole time for it.
        participant.media_lost = participant.media_lost.map(|_| now.at);
        participant.candidates = 0;
        let (single_connection, last_sequence) = (participant.single_connection, participant.last_sequence);
        let (sid, own) = (participant.sid.clone(), participant.info());

        self.effects.push(Effect::Attach { participant: key, link: resume.link });
        self.tell(
            key,
            Message::Reconnect(livekit::ReconnectResponse {
                ice_servers: self.config.ice_servers.clone(),
                client_configuration: None,
                server_info: Some(self.server_info()),
                last_message_seq: last_sequence,
            }),
        );
        // What happened meanwhile: the present state of everyone, and who is gone.
        let mut participants = departed;
        participants.retain(|gone| !self.by_identity.contains_key(gone.identity.as_str()));
        participants.push(own);
        participants.extend(self.others(key));
        self.tell(key, Message::Update(livekit::ParticipantUpdate { participants }));
        let room = self.info.clone();
        self.tell(key, Message::RoomUpdate(livekit::RoomUpdate { room: Some(room) }));
        self.refresh_token(now, key);
        if let Some(state) = resume.sync_state {
            self.sync_state(now, key, state);
        }
        // A client of one connection offers itself, with new credentials.
        if !single_connection {
            self.media(Command::RestartIce { room: self.room.key, participant: key });
        }
        Ok(Joined { participant: key, sid, connection })
    }

    /// What a resuming client believes of its session. A publication that is not known here cannot be mended: the client
    /// starts over and publishes again.
    pub(super) fn sync_state(&mut self, now: Now, key: ParticipantKey, state: livekit::SyncState) {
        let Some(participant) = self.participants.get(&key) else { return };
        let unknown = state
            .publish_tracks
            .iter()
            .filter_map(|published| published.track.as_ref())
            .any(|track| participant.track_by_sid(&track.sid).is_none());
        if unknown {
            let reason = DisconnectReason::StateMismatch;
            self.remove(now, key, reason, Some(leave(reason, livekit::leave_request::Action::Reconnect)));
            return;
        }
        if !state.datachannel_receive_states.is_empty() {
            // A client knows publishers that are here, or were a moment ago.
            let most = 2 * self.config.limits.participants_per_room;
            let states = state.datachannel_receive_states.into_iter().take(most);
            let states = states.map(|state| ReceiveState { publisher_sid: state.publisher_sid, last_sequence: state.last_seq }).collect();
            self.media(Command::ReplayData { room: self.room.key, participant: key, states });
        }
        if let Some(subscription) = state.subscription {
            self.update_subscription(key, &sids(&subscription), subscription.subscribe, false);
        }
        if !state.track_sids_disabled.is_empty() {
            let settings = livekit::UpdateTrackSettings { track_sids: state.track_sids_disabled, disabled: true, ..Default::default() };
            self.track_settings(key, &settings);
        }
    }

    fn next_connection(&mut self) -> ConnectionId {
        self.connections += 1;
        ConnectionId(self.connections)
    }
}

/// The track sids of an UpdateSubscription, both ways of writing them.
pub(super) fn sids(subscription: &livekit::UpdateSubscription) -> Vec<String> {
    let of_participants = subscription.participant_tracks.iter().flat_map(|tracks| &tracks.track_sids);
    subscription.track_sids.iter().chain(of_participants).cloned().collect()
}

/// The codecs that may be used, as a room tells them.
pub(crate) fn codecs(config: &RoomsConfig) -> Vec<livekit::Codec> {
    config.publish_codecs.iter().map(|mime| livekit::Codec { mime: mime.clone(), fmtp_line: String::new() }).collect()
}

/// A new room's description.
pub(crate) fn room_info(
    name: &str,
    sid: &str,
    request: Option<&livekit::CreateRoomRequest>,
    config: &RoomsConfig,
    now: Now,
) -> livekit::Room {
    let seconds = |asked: Option<u32>, default: Duration| match asked {
        None | Some(0) => u32::try_from(default.as_secs()).unwrap_or(u32::MAX),
        Some(asked) => asked,
    };
    livekit::Room {
        sid: sid.to_owned(),
        name: name.to_owned(),
        empty_timeout: seconds(request.map(|r| r.empty_timeout), config.empty_timeout),
        departure_timeout: seconds(request.map(|r| r.departure_timeout), config.departure_timeout),
        max_participants: request.map_or(0, |r| r.max_participants),
        creation_time: now.unix_ms / 1000,
        creation_time_ms: now.unix_ms,
        enabled_codecs: codecs(config),
        metadata: request.map_or_else(String::new, |r| r.metadata.clone()),
        ..Default::default()
    }
}
