//! The control state of one room: who is in it, who publishes what, who receives what.
//!
//! Place in the flow: requests of clients, of the API and events of media go in as method calls with the time; what is to
//! be done comes out as [`Effect`]s. No socket, no clock, no task in here. Rule: after every call, drain
//! [`RoomState::drain`] and carry the effects out in their order: others hear of a participant before media may carry its
//! packets.

mod admin;
mod join;
mod media;
mod publish;
mod request;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_media::control::Command;
use auralink_media::ids::{ParticipantKey, TrackKey};
use auralink_proto::livekit;
use livekit::DisconnectReason;
use livekit::participant_info::State;
use livekit::signal_response::Message;

use super::event::{RoomRef, What};
use super::participant::{ConnectionId, DEPARTED_MAX, Link, Participant};
use super::signal::{Close, SignalMessage, SignalSender};
use super::{RoomsConfig, RoomsError};
use crate::access::Claims;

pub(crate) use admin::Change;
pub(crate) use join::{Join, Joined, Resume, room_info};

/// The time of a call.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For time-outs.
    pub at: Instant,
    /// Milliseconds since 1970, for what clients are told.
    pub unix_ms: i64,
}

/// What is to be done after a call, in this order.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "short-lived; a box for each would cost more than the copy")]
pub(crate) enum Effect {
    /// To the media plane.
    Media(Command),
    /// From now on this queue carries the participant's signals; an earlier one is closed.
    Attach { participant: ParticipantKey, link: SignalSender },
    /// To a client.
    Signal { to: ParticipantKey, message: Arc<SignalMessage> },
    /// A fresh token to a client.
    Refresh { to: ParticipantKey, api_key: String, claims: Box<Claims> },
    /// The end of a client's connection, after everything before.
    Close { participant: ParticipantKey, why: Close },
    /// To whoever follows the rooms.
    Event(What),
    /// The room is over: nothing may be called any more.
    Finished,
}

/// Makes process-unique numbers for media keys.
pub(crate) type KeySource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Nonces of SendData that are remembered, so that a repeated call sends once.
const NONCES_MAX: usize = 256;

pub(crate) struct RoomState {
    pub room: RoomRef,
    info: livekit::Room,
    config: Arc<RoomsConfig>,
    keys: KeySource,
    participants: BTreeMap<ParticipantKey, Participant>,
    by_identity: HashMap<Arc<str>, ParticipantKey>,
    owners: BTreeMap<TrackKey, ParticipantKey>,
    track_keys: HashMap<String, TrackKey>,
    effects: Vec<Effect>,
    connections: u64,
    /// Since when nobody is here that keeps the room open, and whether somebody ever was.
    empty_since: Option<Instant>,
    ever_joined: bool,
    counts_changed: bool,
    simulated_speakers: Vec<(Instant, ParticipantKey)>,
    nonces: VecDeque<Vec<u8>>,
    /// Nothing of the room is left in the media plane.
    media_lost: bool,
    finished: bool,
}

impl RoomState {
    /// A room as `info` says; media hears of it first.
    pub fn new(room: RoomRef, info: livekit::Room, config: Arc<RoomsConfig>, keys: KeySource, now: Now) -> Self {
        let mut state = Self {
            info,
            config,
            keys,
            participants: BTreeMap::new(),
            by_identity: HashMap::new(),
            owners: BTreeMap::new(),
            track_keys: HashMap::new(),
            effects: Vec::new(),
            connections: 0,
            empty_since: Some(now.at),
            ever_joined: false,
            counts_changed: false,
            simulated_speakers: Vec::new(),
            nonces: VecDeque::new(),
            media_lost: false,
            finished: false,
            room,
        };
        state.media(Command::OpenRoom { room: state.room.key });
        let info = state.info.clone();
        state.event(What::RoomStarted(info));
        state
    }

    /// What is to be done after the calls so far.
    pub fn drain(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The room as clients are told.
    pub fn info(&self) -> &livekit::Room {
        &self.info
    }

    /// Time passes: lost connections, tokens, ends. To be called about once a second.
    pub fn tick(&mut self, now: Now) {
        let keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in keys {
            let Some(participant) = self.participants.get_mut(&key) else { continue };
            let signal_lost = matches!(&participant.link, Link::Down { since, .. }
                if now.at.duration_since(*since) >= self.config.resume_timeout);
            let media_lost = participant.media_lost.is_some_and(|since| now.at.duration_since(since) >= self.config.media_timeout);
            let never_connected = matches!(participant.state(), State::Joining | State::Joined)
                && now.at.duration_since(participant.joined) >= self.config.join_timeout;
            let refresh =
                matches!(participant.link, Link::Up(_)) && now.at.duration_since(participant.refreshed) >= self.config.token_refresh;
            if signal_lost {
                self.remove(now, key, DisconnectReason::SignalClose, None);
            } else if never_connected {
                let reason = DisconnectReason::JoinFailure;
                self.remove(now, key, reason, Some(leave(reason, livekit::leave_request::Action::Disconnect)));
            } else if media_lost {
                self.remove(
                    now,
                    key,
                    DisconnectReason::ConnectionTimeout,
                    Some(leave(DisconnectReason::ConnectionTimeout, livekit::leave_request::Action::Reconnect)),
                );
            } else if refresh {
                self.refresh_token(now, key);
            }
        }
        self.end_simulated_speakers(now);
        if std::mem::take(&mut self.counts_changed) {
            let room = self.info.clone();
            self.broadcast(Message::RoomUpdate(livekit::RoomUpdate { room: Some(room) }));
        }
        let timeout = if self.ever_joined { self.info.departure_timeout } else { self.info.empty_timeout };
        if self.empty_since.is_some_and(|since| now.at.duration_since(since) >= Duration::from_secs(timeout.into())) {
            self.finish(now, DisconnectReason::RoomClosed);
        }
    }

    /// Ends the room: everyone is told why and leaves.
    pub fn finish(&mut self, now: Now, reason: DisconnectReason) {
        if self.finished {
            return;
        }
        let keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        let action = match reason {
            DisconnectReason::ServerShutdown => livekit::leave_request::Action::Reconnect,
            _ if self.media_lost => livekit::leave_request::Action::Reconnect,
            _ => livekit::leave_request::Action::Disconnect,
        };
        for key in keys {
            self.remove(now, key, reason, Some(leave(reason, action)));
        }
        self.finished = true;
        self.media(Command::CloseRoom { room: self.room.key });
        let info = self.info.clone();
        self.event(What::RoomFinished(info));
        self.effects.push(Effect::Finished);
    }

    /// The room's media shard has ended by a fault: everyone starts over, and the room is made anew where there is one.
    pub(super) fn lose_media(&mut self, now: Now) {
        self.media_lost = true;
        self.finish(now, DisconnectReason::MediaFailure);
    }

    /// A signal connection ended or its client does not read. A late word of a replaced connection is ignored.
    pub fn signal_lost(&mut self, now: Now, key: ParticipantKey, connection: ConnectionId) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if matches!(participant.link, Link::Up(current) if current == connection) {
            participant.link = Link::Down { since: now.at, departed: Vec::new() };
        }
    }

    /// A client broke the protocol: its session ends for good.
    pub fn end_session(&mut self, now: Now, key: ParticipantKey, connection: ConnectionId, reason: DisconnectReason) {
        if self.connection(key) == Some(connection) {
            self.remove(now, key, reason, Some(leave(reason, livekit::leave_request::Action::Disconnect)));
        }
    }

    /// The connection whose queue is attached now; the actor names it when that queue fails.
    pub fn connection(&self, key: ParticipantKey) -> Option<ConnectionId> {
        match self.participants.get(&key)?.link {
            Link::Up(connection) => Some(connection),
            _ => None,
        }
    }

    /// Media would not take a command about a participant: the client must start over.
    pub fn media_refused(&mut self, now: Now, key: ParticipantKey) {
        let reason = DisconnectReason::MediaFailure;
        self.remove(now, key, reason, Some(leave(reason, livekit::leave_request::Action::Reconnect)));
    }

    /// A participant leaves, told so by `farewell` where there is something to say.
    fn remove(&mut self, now: Now, key: ParticipantKey, reason: DisconnectReason, farewell: Option<livekit::LeaveRequest>) {
        let Some(mut participant) = self.participants.remove(&key) else { return };
        self.by_identity.remove(&participant.identity);
        let why = if farewell.is_some() { Close::Ended } else { Close::Dropped };
        if let (Some(farewell), Link::Up(_)) = (farewell, &participant.link) {
            let message = SignalMessage::new(Message::Leave(farewell));
            self.effects.push(Effect::Signal { to: key, message });
        }
        self.effects.push(Effect::Close { participant: key, why });
        self.media(Command::RemoveParticipant { room: self.room.key, participant: key });
        for (track, publication) in std::mem::take(&mut participant.tracks) {
            self.forget_track(track, &publication.info.sid);
            if publication.started {
                let participant = participant.reference();
                self.event(What::TrackUnpublished { participant, track, info: publication.info });
            }
        }
        participant.set_state(State::Disconnected);
        participant.base.disconnect_reason = reason as i32;
        let info = participant.info();
        if !participant.hidden() {
            // For those who are told later: who, and that it is gone.
            let gone = livekit::ParticipantInfo { metadata: String::new(), attributes: HashMap::new(), ..info.clone() };
            for other in self.participants.values_mut() {
                if let Link::Down { departed, .. } = &mut other.link
                    && departed.len() < DEPARTED_MAX
                {
                    departed.push(gone.clone());
                }
            }
            self.broadcast(Message::Update(livekit::ParticipantUpdate { participants: vec![info.clone()] }));
        }
        self.event(What::ParticipantLeft { participant: participant.reference(), info, reason });
        self.count(now);
    }

    /// A track is no more: nobody is subscribed to it.
    fn forget_track(&mut self, track: TrackKey, sid: &str) {
        self.owners.remove(&track);
        self.track_keys.remove(sid);
        for participant in self.participants.values_mut() {
            participant.subscriptions.remove(&track);
            participant.unwanted.remove(&track);
            participant.wanted.remove(&track);
        }
    }

    /// Brings the room's numbers up to date; clients are told at the next tick.
    fn count(&mut self, now: Now) {
        let shown = self.participants.values().filter(|participant| !participant.hidden());
        let participants = shown.clone().count() as u32;
        let publishers = shown.filter(|participant| participant.tracks.values().any(|track| track.started)).count();
        if (self.info.num_participants, self.info.num_publishers) != (participants, publishers as u32) {
            self.info.num_participants = participants;
            self.info.num_publishers = publishers as u32;
            self.counts_changed = true;
        }
        let open = self.participants.values().any(Participant::keeps_room_open);
        self.ever_joined |= open;
        self.empty_since = match (open, self.empty_since) {
            (true, _) => None,
            (false, None) => Some(now.at),
            (false, since) => since,
        };
    }

    /// Refuses `bytes` of one participant's profile when those of all others leave no room for them.
    fn check_profiles(&self, bytes: usize, except: Option<ParticipantKey>) -> Result<(), RoomsError> {
        let max = self.config.limits.profiles_bytes_per_room;
        let others: usize = self.participants.values().filter(|other| Some(other.key) != except).map(Participant::profile_bytes).sum();
        if others + bytes <= max {
            return Ok(());
        }
        metrics::counter!("auralink_limit_hits_total", "limit" => "profiles").increment(1);
        Err(RoomsError::LimitExceeded(format!(
            "names, metadata and attributes of all participants of room {:?} would have {} bytes, at most {max}; shorten them",
            self.room.name,
            others + bytes
        )))
    }

    fn participant_by_identity(&self, identity: &str) -> Result<ParticipantKey, RoomsError> {
        self.by_identity.get(identity).copied().ok_or_else(|| RoomsError::ParticipantNotFound {
            room: self.room.name.to_string(),
            identity: identity.chars().take(256).collect(),
        })
    }

    fn media(&mut self, command: Command) {
        if !self.media_lost {
            self.effects.push(Effect::Media(command));
        }
    }

    fn event(&mut self, what: What) {
        self.effects.push(Effect::Event(what));
    }

    /// Tells one participant, if it can be reached.
    fn tell(&mut self, to: ParticipantKey, message: Message) {
        if self.participants.get(&to).is_some_and(|participant| matches!(participant.link, Link::Up(_))) {
            self.effects.push(Effect::Signal { to, message: SignalMessage::new(message) });
        }
    }

    /// Tells everyone who can be reached; encoded once.
    fn broadcast(&mut self, message: Message) {
        self.broadcast_except(None, message);
    }

    fn broadcast_except(&mut self, except: Option<ParticipantKey>, message: Message) {
        let message = SignalMessage::new(message);
        for participant in self.participants.values() {
            if matches!(participant.link, Link::Up(_)) && Some(participant.key) != except {
                self.effects.push(Effect::Signal { to: participant.key, message: message.clone() });
            }
        }
    }

    /// Tells everyone how a participant is now; a hidden one is told alone.
    fn announce(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let hidden = participant.hidden();
        let update = Message::Update(livekit::ParticipantUpdate { participants: vec![participant.info()] });
        if hidden { self.tell(key, update) } else { self.broadcast(update) }
    }

    /// Name, metadata, attributes or permissions changed: everyone is told, the participant gets a token that says so.
    fn announce_update(&mut self, now: Now, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.changed();
        let (reference, info) = (participant.reference(), participant.info());
        self.announce(key);
        self.refresh_token(now, key);
        self.event(What::ParticipantUpdated { participant: reference, info });
    }

    fn refresh_token(&mut self, now: Now, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if !matches!(participant.link, Link::Up(_)) {
            return;
        }
        participant.refreshed = now.at;
        let mut claims = participant.claims.clone();
        claims.video = Some(participant.grant.clone());
        self.effects.push(Effect::Refresh { to: key, api_key: participant.api_key.clone(), claims: Box::new(claims) });
    }
}

/// A leave with the flag that clients older than protocol 13 read.
pub(crate) fn leave(reason: DisconnectReason, action: livekit::leave_request::Action) -> livekit::LeaveRequest {
    livekit::LeaveRequest {
        can_reconnect: action != livekit::leave_request::Action::Disconnect,
        reason: reason as i32,
        action: action as i32,
        regions: None,
    }
}
