//! The gRPC face: `auralink.v1.Rooms` and `auralink.v1.Speech`, health and reflection.

use auralink_proto::v1::rooms_server::RoomsServer;
use auralink_proto::v1::speech_server::SpeechServer;
use auralink_signaling::rooms::Rooms;
use tonic::service::Routes;

use crate::captions::Captions;

mod authorize;
mod refuse;
mod rooms;
mod speech;

/// Every service, ready to be served.
pub async fn routes(rooms: Rooms, captions: Captions) -> Result<Routes, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RoomsServer<rooms::RoomsService>>().await;
    health.set_serving::<SpeechServer<speech::SpeechService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(auralink_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let keys = rooms.keys().clone();
    let routes = Routes::new(RoomsServer::new(rooms::RoomsService { rooms, captions: captions.clone() }))
        .add_service(
            SpeechServer::new(speech::SpeechService { captions, keys }).max_decoding_message_size(2 * crate::audio_in::MAX_MESSAGE_BYTES),
        )
        .add_service(health_service)
        .add_service(reflection);
    Ok(routes)
}
