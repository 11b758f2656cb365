//! What administrators and the server itself do to a room.

use std::collections::HashMap;

use super::*;
use crate::rooms::To;
use auralink_media::control::Command;
use prost::Message as _;

/// What is to be different about a participant; `None` and empty = as it is. An empty attribute value deletes its key.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub name: Option<String>,
    pub metadata: Option<String>,
    pub attributes: HashMap<String, String>,
    pub permission: Option<livekit::ParticipantPermission>,
}

impl RoomState {
    /// Everyone in the room, hidden ones too: administrators see all.
    pub fn participants(&self) -> Vec<livekit::ParticipantInfo> {
        self.participants.values().map(Participant::info).collect()
    }

    /// Says who is here and what is published, to whoever follows the rooms.
    pub fn restate(&mut self) {
        let here = self.participants.values();
        let participants = here.clone().map(|participant| (participant.reference(), participant.info())).collect();
        let tracks = here
            .flat_map(|participant| {
                let started = participant.tracks.values().filter(|track| track.started);
                started.map(|track| (participant.reference(), track.key, track.info.clone()))
            })
            .collect();
        self.event(What::Present { participants, tracks });
    }

    /// One participant.
    pub fn participant(&self, identity: &str) -> Result<livekit::ParticipantInfo, RoomsError> {
        let key = self.participant_by_identity(identity)?;
        Ok(self.participants[&key].info())
    }

    /// Sends a participant away.
    pub fn remove_participant(&mut self, now: Now, identity: &str) -> Result<(), RoomsError> {
        let key = self.participant_by_identity(identity)?;
        let reason = DisconnectReason::ParticipantRemoved;
        self.remove(now, key, reason, Some(leave(reason, livekit::leave_request::Action::Disconnect)));
        Ok(())
    }

    /// A server-made participant goes.
    pub fn leave_local(&mut self, now: Now, key: ParticipantKey) {
        self.remove(now, key, DisconnectReason::ClientInitiated, None);
    }

    /// Changes name, metadata, attributes and permissions by identity.
    pub fn update_participant(&mut self, now: Now, identity: &str, change: Change) -> Result<livekit::ParticipantInfo, RoomsError> {
        let key = self.participant_by_identity(identity)?;
        self.change_participant(now, key, change)
    }

    pub(super) fn change_participant(
        &mut self,
        now: Now,
        key: ParticipantKey,
        change: Change,
    ) -> Result<livekit::ParticipantInfo, RoomsError> {
        let limits = &self.config.limits;
        let Some(participant) = self.participants.get(&key) else {
            return Err(RoomsError::Closed(self.room.name.to_string()));
        };
        if let Some(name) = &change.name {
            limits.check_name("participant name", name)?;
        }
        if let Some(metadata) = &change.metadata {
            limits.check_metadata(metadata)?;
        }
        let kept = participant.base.attributes.iter().filter(|(key, _)| !change.attributes.contains_key(*key));
        let attributes = kept.chain(&change.attributes).map(|(key, value)| key.len() + value.len()).sum();
        limits.check_attributes_bytes(attributes)?;
        let (name, metadata) = (&participant.base.name, &participant.base.metadata);
        let bytes = participant.identity.len()
            + change.name.as_ref().unwrap_or(name).len()
            + change.metadata.as_ref().unwrap_or(metadata).len()
            + attributes;
        // Who shortens its own is never refused for what others have.
        if bytes > participant.profile_bytes() {
            self.check_profiles(bytes, Some(key))?;
        }

        let Some(participant) = self.participants.get_mut(&key) else {
            return Err(RoomsError::Closed(self.room.name.to_string()));
        };
        if let Some(name) = change.name {
            participant.claims.name.clone_from(&name);
            participant.base.name = name;
        }
        if let Some(metadata) = change.metadata {
            participant.claims.metadata.clone_from(&metadata);
            participant.base.metadata = metadata;
        }
        participant.merge_attributes(&change.attributes);
        if let Some(permission) = change.permission {
            self.set_permission(now, key, &permission);
        }
        self.announce_update(now, key);
        let participant = self.participants.get(&key).expect("changed above");
        Ok(participant.info())
    }

    /// New permissions: what is no longer allowed ends, what is allowed now begins.
    fn set_permission(&mut self, now: Now, key: ParticipantKey, permission: &livekit::ParticipantPermission) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.grant.update(permission);
        participant.base.permission = Some(participant.grant.to_permission());
        let permissions = participant.media_permissions();
        let (subscribe, grant) = (participant.grant.can_subscribe(), participant.grant.clone());
        let forbidden: Vec<TrackKey> =
            participant.tracks.values().filter(|track| !grant.can_publish_source(track.info.source())).map(|track| track.key).collect();
        self.media(Command::SetPermissions { room: self.room.key, participant: key, permissions });
        for track in forbidden {
            self.unpublish(now, track, true);
        }
        if subscribe {
            self.subscribe_to_all(key);
        } else {
            self.unsubscribe_from_all(key);
        }
    }

    /// Changes the room's metadata.
    pub fn set_metadata(&mut self, metadata: String) -> Result<livekit::Room, RoomsError> {
        self.config.limits.check_metadata(&metadata)?;
        self.info.metadata = metadata;
        let room = self.info.clone();
        self.broadcast(Message::RoomUpdate(livekit::RoomUpdate { room: Some(room.clone()) }));
        self.event(What::RoomUpdated(room.clone()));
        Ok(room)
    }

    /// A room that exists is created again: what is said anew holds.
    pub fn recreate(&mut self, request: &livekit::CreateRoomRequest) -> Result<livekit::Room, RoomsError> {
        if request.empty_timeout != 0 {
            self.info.empty_timeout = request.empty_timeout;
        }
        if request.departure_timeout != 0 {
            self.info.departure_timeout = request.departure_timeout;
        }
        if request.max_participants != 0 {
            self.info.max_participants = request.max_participants;
        }
        if !request.metadata.is_empty() && request.metadata != self.info.metadata {
            return self.set_metadata(request.metadata.clone());
        }
        Ok(self.info.clone())
    }

    /// Mutes a participant's track. Unmuting is the participant's own to do.
    pub fn mute_track(&mut self, identity: &str, sid: &str, muted: bool) -> Result<livekit::TrackInfo, RoomsError> {
        let key = self.participant_by_identity(identity)?;
        if !muted {
            return Err(RoomsError::Invalid("remote unmuting is not enabled: ask the participant to unmute the track".into()));
        }
        self.set_muted(key, sid, muted, true)
    }

    /// Subscribes or unsubscribes a participant.
    pub fn update_subscriptions(&mut self, identity: &str, sids: &[String], subscribe: bool) -> Result<(), RoomsError> {
        let key = self.participant_by_identity(identity)?;
        if let Some(unknown) = sids.iter().find(|sid| !self.track_keys.contains_key(*sid)) {
            return Err(RoomsError::TrackNotFound(unknown.chars().take(64).collect()));
        }
        self.update_subscription(key, sids, subscribe, false);
        Ok(())
    }

    /// Sends a packet of an administrator to all or some.
    #[allow(deprecated, reason = "old clients read kind and destination sids")]
    pub fn send_data(&mut self, request: livekit::SendDataRequest) -> Result<(), RoomsError> {
        if !request.nonce.is_empty() {
            if request.nonce.len() > 64 {
                return Err(RoomsError::Invalid("a nonce has at most 64 bytes".into()));
            }
            if self.nonces.contains(&request.nonce) {
                return Ok(());
            }
            if self.nonces.len() == NONCES_MAX {
                self.nonces.pop_front();
            }
            self.nonces.push_back(request.nonce.clone());
        }
        let mut identities = request.destination_identities.clone();
        let sids = &request.destination_sids;
        identities.extend(
            self.participants
                .values()
                .filter(|participant| sids.iter().any(|sid| **sid == *participant.sid))
                .map(|participant| participant.identity.to_string()),
        );
        let addressed = !request.destination_identities.is_empty() || !sids.is_empty();
        let reliable = request.kind() == livekit::data_packet::Kind::Reliable;
        let packet = livekit::DataPacket {
            kind: request.kind,
            destination_identities: identities.clone(),
            value: Some(livekit::data_packet::Value::User(livekit::UserPacket {
                payload: request.data,
                topic: request.topic,
                destination_sids: request.destination_sids,
                destination_identities: identities.clone(),
                nonce: request.nonce,
                ..Default::default()
            })),
            ..Default::default()
        };
        let to = if addressed { To::Identities(identities) } else { To::All };
        self.send_packet(&packet, reliable, &to);
        Ok(())
    }

    /// Sends a packet as it is, encoded once. Those who are not there are not sent to.
    pub fn send_packet(&mut self, packet: &livekit::DataPacket, reliable: bool, all_or_some: &To) {
        let to: Vec<ParticipantKey> = match all_or_some {
            To::All => Vec::new(),
            To::Identities(identities) => {
                identities.iter().filter_map(|identity| self.by_identity.get(identity.as_str()).copied()).collect()
            }
            To::Except(identities) => {
                let meant = |(identity, _): &(&Arc<str>, &ParticipantKey)| !identities.iter().any(|other| **other == ***identity);
                self.by_identity.iter().filter(meant).map(|(_, key)| *key).collect()
            }
        };
        // Nobody of those who were meant: an empty list would mean everyone.
        if to.is_empty() && !matches!(all_or_some, To::All) {
            return;
        }
        let packet: Arc<[u8]> = Arc::from(packet.encode_to_vec());
        self.media(Command::SendData { room: self.room.key, reliable, packet, to, except: None });
    }
}
