//! `auralink.v1.Rooms`: a thin face on the same room layer that LiveKit's RoomService stands on.

use std::pin::Pin;
use std::sync::Arc;

use auralink_proto::livekit;
use auralink_proto::v1::rooms_server::Rooms as RoomsApi;
use auralink_proto::v1::{
    CreateRequest, EndRequest, EndResponse, FollowRequest, ListRequest, ListResponse, PublishRequest, PublishResponse, Room,
    TranscriptEvent, publish_request::Request as Part,
};
use auralink_signaling::access::Claims;
use auralink_signaling::rooms::Rooms;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::authorize::{captions_status, granted, joins, publishes, rooms_status};
use super::refuse::{drain, first};
use crate::caller::Callers;
use crate::captions::{By, Captions};
use crate::publish;

/// The service.
pub struct RoomsService {
    /// The room layer.
    pub rooms: Rooms,
    /// The transcripts.
    pub captions: Captions,
    /// Who calls.
    pub callers: Callers,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RoomsApi for RoomsService {
    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Room>, Status> {
        let claims = self.callers.claims_of_metadata(request.metadata())?;
        granted(&[claims.require_room_create()])?;
        let CreateRequest { name, max_participants, empty_timeout_s, metadata, captions } = request.into_inner();
        let wanted = livekit::CreateRoomRequest { name, max_participants, empty_timeout: empty_timeout_s, metadata, ..Default::default() };
        let room = self.rooms.create(wanted).await.map_err(|error| rooms_status(&error))?;
        if let Some(enabled) = captions {
            self.captions.set_enabled(&room.name, enabled, By::from(&claims)).await.map_err(|error| captions_status(&error))?;
        }
        Ok(Response::new(self.described(room).await))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let claims = self.callers.claims_of_metadata(request.metadata())?;
        granted(&[claims.require_room_list()])?;
        let mut rooms = Vec::new();
        for room in self.rooms.list(&request.into_inner().names) {
            rooms.push(self.described(room).await);
        }
        Ok(Response::new(ListResponse { rooms }))
    }

    async fn end(&self, request: Request<EndRequest>) -> Result<Response<EndResponse>, Status> {
        let claims = self.callers.claims_of_metadata(request.metadata())?;
        granted(&[claims.require_room_create()])?;
        self.rooms.delete(&request.into_inner().name).await.map_err(|error| rooms_status(&error))?;
        Ok(Response::new(EndResponse {}))
    }

    type FollowStream = Answer<TranscriptEvent>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let claims = self.callers.claims_of_metadata(request.metadata())?;
        let FollowRequest { room, interim, passive } = request.into_inner();
        granted(&[claims.require_room_admin(&room), joins(&claims, &room)])?;
        let transcript = self.captions.follow(&room).await.map_err(|error| captions_status(&error))?;
        if !passive && !self.captions.is_enabled(&room).await {
            // Who may only watch does not decide for those who speak.
            granted(&[claims.require_room_admin(&room), publishes(&claims, &room)])?;
            self.captions.set_enabled(&room, true, By::from(&claims)).await.map_err(|error| captions_status(&error))?;
        }
        let (events, stream) = mpsc::channel(64);
        tokio::spawn(forward(transcript, events, interim).in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type PublishStream = Answer<PublishResponse>;

    async fn publish(&self, request: Request<Streaming<PublishRequest>>) -> Result<Response<Self::PublishStream>, Status> {
        let claims = self.callers.claims_of_metadata(request.metadata());
        let mut audio = request.into_inner();
        let entered = match claims {
            Ok(claims) => self.enter(&claims, &mut audio).await,
            Err(status) => Err(status),
        };
        match entered {
            Ok(player) => {
                let (progress, stream) = mpsc::channel(16);
                tokio::spawn(player.play(audio, progress).in_current_span());
                Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
            }
            Err(status) => {
                drain(audio);
                Err(status)
            }
        }
    }
}

impl RoomsService {
    async fn enter(&self, claims: &Claims, audio: &mut Streaming<PublishRequest>) -> Result<publish::Player, Status> {
        let config = match first(audio).await? {
            Some(PublishRequest { request: Some(Part::Config(config)) }) => config,
            _ => return Err(Status::invalid_argument("the first message must hold `config`")),
        };
        granted(&[claims.require_room_admin(&config.room), publishes(claims, &config.room)])?;
        publish::Player::enter(&self.rooms, &config).await.map_err(|error| rooms_status(&error))
    }

    async fn described(&self, room: livekit::Room) -> Room {
        let captions = self.captions.is_enabled(&room.name).await;
        Room {
            sid: room.sid,
            name: room.name,
            participants: room.num_participants,
            max_participants: room.max_participants,
            created_at_ms: room.creation_time_ms,
            captions,
            metadata: room.metadata,
        }
    }
}

/// From the room's transcript to one follower. A follower that reads too slowly is told that it lost events.
async fn forward(
    mut transcript: broadcast::Receiver<Arc<TranscriptEvent>>,
    events: mpsc::Sender<Result<TranscriptEvent, Status>>,
    interim: bool,
) {
    loop {
        let event = tokio::select! {
            event = transcript.recv() => event,
            () = events.closed() => return,
        };
        let event = match event {
            Ok(event) if event.r#final || interim || !event.notice.is_empty() => event.as_ref().clone(),
            Ok(_) => continue,
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                TranscriptEvent { notice: format!("{lost} events were lost: this follower reads too slowly"), ..Default::default() }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if events.send(Ok(event)).await.is_err() {
            return;
        }
    }
}
