//! A client's session as its signal connection holds it.

use std::sync::Arc;

use auralink_media::ids::ParticipantKey;
use auralink_proto::livekit;

use super::participant::ConnectionId;
use super::registry::RoomEntry;
use super::signal::{self, Outgoing, SignalReceiver};
use super::state::{Join, Joined, Resume};
use super::{RoomRef, Rooms, RoomsError};
use crate::access::Claims;

/// Who wants to join; signature and `roomJoin` of its token were checked.
#[derive(Debug, Clone, Default)]
pub struct JoinParams {
    /// Room name.
    pub room: String,
    /// The key that issued the token; refreshed tokens are signed with it too.
    pub api_key: String,
    /// Identity, name, grants, metadata, attributes.
    pub claims: Claims,
    /// What the client says of itself.
    pub client: livekit::ClientInfo,
    /// One peer connection for both directions.
    pub single_connection: bool,
    /// Tracks are received without being asked for.
    pub auto_subscribe: bool,
    /// Tracks announced with the join.
    pub add_tracks: Vec<livekit::AddTrackRequest>,
    /// Offer sent with the join.
    pub publisher_offer: Option<livekit::SessionDescription>,
}

/// Who wants its session back.
#[derive(Debug, Clone, Default)]
pub struct ResumeParams {
    /// Room name.
    pub room: String,
    /// `PA_...` of the session.
    pub participant_sid: String,
    /// Identity that the token names.
    pub identity: String,
    /// What the client believes of its session, when it came with the request.
    pub sync_state: Option<livekit::SyncState>,
}

/// A participant's signal connection. Dropping it is losing the connection: the participant may resume for a while.
#[derive(Debug)]
pub struct Session {
    entry: Arc<RoomEntry>,
    participant: ParticipantKey,
    sid: Arc<str>,
    connection: ConnectionId,
    outgoing: SignalReceiver,
}

impl Rooms {
    /// Joins a room, which is made when it is missing.
    pub async fn join(&self, params: JoinParams) -> Result<Session, RoomsError> {
        let config = &self.shared.config;
        config.limits.check_room_name(&params.room)?;
        if let Some(room) = &params.claims.room_config {
            config.limits.check_metadata(&room.metadata)?;
        }
        let (sender, receiver) = signal::queue(config.limits.queue_messages, config.limits.queue_bytes);
        let request = params.claims.room_config.as_ref().map(|room| livekit::CreateRoomRequest {
            name: params.room.clone(),
            empty_timeout: room.empty_timeout,
            departure_timeout: room.departure_timeout,
            max_participants: room.max_participants,
            metadata: room.metadata.clone(),
            ..Default::default()
        });
        let join = Join {
            api_key: params.api_key,
            claims: params.claims,
            client: params.client,
            single_connection: params.single_connection,
            auto_subscribe: params.auto_subscribe,
            add_tracks: params.add_tracks,
            publisher_offer: params.publisher_offer,
            link: Some(sender),
        };
        let joined = self.enter(&params.room, request.as_ref(), config.auto_create, join).await?;
        Ok(Session::new(joined, receiver))
    }

    pub(super) async fn enter(
        &self,
        room: &str,
        request: Option<&livekit::CreateRoomRequest>,
        create: bool,
        join: Join,
    ) -> Result<(Arc<RoomEntry>, Joined), RoomsError> {
        let joined = self.shared.in_room(room, request, create, move |state, now| {
            let joined = state.join(now, join)?;
            Ok((state.room.key, joined))
        });
        let (key, joined) = joined.await?;
        let entry = self.shared.find(room)?;
        if entry.room.key != key {
            return Err(RoomsError::Closed(room.to_owned()));
        }
        Ok((entry, joined))
    }

    /// Takes a session up again over a new connection; the old one is closed.
    pub async fn resume(&self, params: ResumeParams) -> Result<Session, RoomsError> {
        let limits = &self.shared.config.limits;
        let (sender, receiver) = signal::queue(limits.queue_messages, limits.queue_bytes);
        let unknown = RoomsError::UnknownSession(params.participant_sid.chars().take(64).collect());
        let entry = self.shared.find(&params.room).map_err(|_| unknown.clone())?;
        let resume =
            Resume { participant_sid: params.participant_sid, identity: params.identity, sync_state: params.sync_state, link: sender };
        let joined = entry.call(move |state, now| state.resume(now, resume)).await.map_err(|error| match error {
            RoomsError::Closed(_) => unknown,
            error => error,
        })?;
        Ok(Session::new((entry, joined), receiver))
    }
}

impl Session {
    fn new((entry, joined): (Arc<RoomEntry>, Joined), outgoing: SignalReceiver) -> Self {
        Self { entry, participant: joined.participant, sid: joined.sid, connection: joined.connection, outgoing }
    }

    /// The room.
    pub fn room(&self) -> &RoomRef {
        &self.entry.room
    }

    /// For media commands.
    pub fn participant(&self) -> ParticipantKey {
        self.participant
    }

    /// `PA_...`.
    pub fn sid(&self) -> &str {
        &self.sid
    }

    /// The next thing to write to the client; `None` when the room has let go of this connection. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Outgoing> {
        self.outgoing.recv().await
    }

    /// Takes a client's request to the room. Waits when the room is busy.
    ///
    /// # Errors
    /// [`RoomsError::Closed`] when the room has ended.
    pub async fn request(&self, message: livekit::signal_request::Message) -> Result<(), RoomsError> {
        let (participant, connection) = (self.participant, self.connection);
        self.entry.post(move |state, now| state.request(now, participant, connection, message)).await
    }

    /// Ends the session for good because of what the client did (a malformed message).
    pub async fn end(&self, reason: livekit::DisconnectReason) -> Result<(), RoomsError> {
        let (participant, connection) = (self.participant, self.connection);
        self.entry.post(move |state, now| state.end_session(now, participant, connection, reason)).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (participant, connection) = (self.participant, self.connection);
        self.entry.tell(move |state, now| state.signal_lost(now, participant, connection));
    }
}
