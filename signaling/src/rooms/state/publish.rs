//! Publishing: announce, start, mute, end.

use super::*;
use crate::rooms::publication::Publication;
use livekit::request_response::{Reason, Request};

impl RoomState {
    /// A client announces a track. It is shown to others when its first media arrives.
    pub(super) fn add_track(&mut self, now: Now, key: ParticipantKey, request: livekit::AddTrackRequest) {
        match self.try_add_track(key, &request) {
            Ok(published) => self.tell(key, Message::TrackPublished(published)),
            Err((reason, message)) => {
                tracing::info!(room = &*self.room.name, participant = %key.0, reason = message, "track refused");
                self.refuse(key, 0, reason, message, Some(Request::AddTrack(request)));
            }
        }
        let _ = now;
    }

    fn try_add_track(
        &mut self,
        key: ParticipantKey,
        request: &livekit::AddTrackRequest,
    ) -> Result<livekit::TrackPublishedResponse, (Reason, String)> {
        let Some(participant) = self.participants.get(&key) else {
            return Err((Reason::NotFound, "participant is gone".into()));
        };
        if !request.sid.is_empty() {
            return Err((Reason::UnsupportedType, "a second codec for a published track is not supported".into()));
        }
        let source = livekit::TrackSource::try_from(request.source).unwrap_or_default();
        if !participant.grant.can_publish_source(source) {
            let source = crate::access::source_name(source);
            return Err((Reason::NotAllowed, format!("does not have permission to publish {source}")));
        }
        // Asked again (with the join and after it): the same answer.
        if let Some(known) = participant
            .tracks
            .values()
            .find(|track| !track.started && !request.cid.is_empty() && track.info.codecs.iter().any(|c| c.cid == request.cid))
        {
            return Ok(livekit::TrackPublishedResponse { cid: request.cid.clone(), track: Some(known.info.clone()) });
        }
        let max = self.config.limits.tracks_per_participant;
        if participant.tracks.len() >= max {
            return Err((Reason::LimitExceeded, format!("a participant publishes at most {max} tracks; unpublish one first")));
        }
        let publication = Publication::new(TrackKey((self.keys)()), request, &self.config.limits)
            .map_err(|error| (Reason::InvalidRequest, error.to_string()))?;
        let published = livekit::TrackPublishedResponse { cid: request.cid.clone(), track: Some(publication.info.clone()) };
        self.insert_track(key, publication);
        Ok(published)
    }

    /// The media plane did not take a track that was announced: its client hears why, and that it ended.
    pub(super) fn track_refused(&mut self, now: Now, track: TrackKey, reason: String) {
        let Some(owner) = self.owners.get(&track).copied() else { return };
        tracing::warn!(room = &*self.room.name, participant = %owner.0, reason, "track refused by the media plane");
        self.refuse(owner, 0, Reason::LimitExceeded, reason, None);
        self.unpublish(now, track, true);
    }

    fn insert_track(&mut self, key: ParticipantKey, publication: Publication) {
        let (track, spec) = (publication.key, publication.spec());
        let Some(participant) = self.participants.get_mut(&key) else { return };
        self.owners.insert(track, key);
        self.track_keys.insert(publication.info.sid.clone(), track);
        participant.tracks.insert(track, publication);
        self.media(Command::AddTrack { room: self.room.key, participant: key, track, spec });
    }

    /// A server-made participant publishes: known to the room at once, since its media comes from inside.
    pub fn publish_local(&mut self, key: ParticipantKey, request: &livekit::AddTrackRequest) -> Result<(TrackKey, String), RoomsError> {
        let publication = Publication::new(TrackKey((self.keys)()), request, &self.config.limits)?;
        let Some(participant) = self.participants.get(&key) else {
            return Err(RoomsError::Closed(self.room.name.to_string()));
        };
        if participant.tracks.len() >= self.config.limits.tracks_per_participant {
            return Err(RoomsError::LimitExceeded("the participant has published as many tracks as it may".into()));
        }
        let published = (publication.key, publication.info.sid.clone());
        self.insert_track(key, publication);
        Ok(published)
    }

    /// The ring over which a server-made track's packets come.
    pub fn attach_source(
        &mut self,
        track: TrackKey,
        codec: auralink_media::packet::Codec,
        packets: rtrb::Consumer<auralink_media::tap::SourcePacket>,
    ) {
        self.media(Command::AttachSource { room: self.room.key, track, codec, packets });
    }

    /// Media of a track arrived: the room is told, and who wants it gets it.
    pub(super) fn track_started(&mut self, now: Now, track: TrackKey, codec: auralink_media::packet::Codec) {
        let Some(owner) = self.owners.get(&track).copied() else { return };
        let Some(participant) = self.participants.get_mut(&owner) else { return };
        let Some(publication) = participant.tracks.get_mut(&track) else { return };
        if publication.started {
            return;
        }
        publication.start(codec);
        let info = publication.info.clone();
        participant.changed();
        let reference = participant.reference();
        self.announce(owner);
        self.count(now);
        self.event(What::TrackPublished { participant: reference, track, info });
        self.subscribe_everyone(track);
    }

    /// A publication ends. `told` when the client does not know yet.
    pub(super) fn unpublish(&mut self, now: Now, track: TrackKey, told: bool) {
        let Some(owner) = self.owners.get(&track).copied() else { return };
        let Some(participant) = self.participants.get_mut(&owner) else { return };
        let Some(publication) = participant.tracks.remove(&track) else { return };
        participant.changed();
        let reference = participant.reference();
        self.forget_track(track, &publication.info.sid);
        self.media(Command::RemoveTrack { room: self.room.key, track });
        if told {
            let track_sid = publication.info.sid.clone();
            self.tell(owner, Message::TrackUnpublished(livekit::TrackUnpublishedResponse { track_sid }));
        }
        if publication.started {
            self.announce(owner);
            self.event(What::TrackUnpublished { participant: reference, track, info: publication.info });
        }
        self.count(now);
    }

    /// Mutes or unmutes a track of `key`. `by_server` tells the client too.
    pub(super) fn set_muted(
        &mut self,
        key: ParticipantKey,
        sid: &str,
        muted: bool,
        by_server: bool,
    ) -> Result<livekit::TrackInfo, RoomsError> {
        let not_found = || RoomsError::TrackNotFound(sid.chars().take(64).collect());
        let participant = self.participants.get_mut(&key).ok_or_else(not_found)?;
        let track = participant.track_key(sid).ok_or_else(not_found)?;
        let publication = participant.tracks.get_mut(&track).ok_or_else(not_found)?;
        let changed = publication.info.muted != muted;
        publication.info.muted = muted;
        let (info, started) = (publication.info.clone(), publication.started);
        if !changed {
            return Ok(info);
        }
        participant.changed();
        let reference = participant.reference();
        self.media(Command::SetMuted { room: self.room.key, track, muted });
        if by_server {
            self.tell(key, Message::Mute(livekit::MuteTrackRequest { sid: sid.to_owned(), muted }));
        }
        if started {
            self.announce(key);
            self.event(What::TrackMuted { participant: reference, track, sid: sid.to_owned(), muted });
        }
        Ok(info)
    }
}
