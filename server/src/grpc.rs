//! The gRPC face: `auralink.v1.Rooms`, `Speech`, `Jobs`, `Sandboxes`, `Vectors` and `Files`, health and reflection.

use auralink_proto::v1::files_server::FilesServer;
use auralink_proto::v1::jobs_server::JobsServer;
use auralink_proto::v1::rooms_server::RoomsServer;
use auralink_proto::v1::sandboxes_server::SandboxesServer;
use auralink_proto::v1::speech_server::SpeechServer;
use auralink_proto::v1::vectors_server::VectorsServer;
use auralink_signaling::rooms::Rooms;
use tonic::service::Routes;

use crate::caller::Callers;
use crate::captions::Captions;
use crate::files::Files;
use crate::jobs::Jobs;
use crate::sandboxes::Sandboxes;
use crate::schedules::Schedules;
use crate::vector_imports::VectorImports;
use crate::vectors::VectorStore;

mod authorize;
mod files;
mod jobs;
mod refuse;
mod rooms;
mod sandboxes;
mod speech;
mod vectors;

/// What the services stand on.
pub struct Parts {
    /// Rooms.
    pub rooms: Rooms,
    /// Captions, and the engine of speech.
    pub captions: Captions,
    /// Who calls.
    pub callers: Callers,
    /// Long work.
    pub jobs: Jobs,
    /// Sandboxes.
    pub sandboxes: Sandboxes,
    /// Files and the pipeline.
    pub files: Files,
    /// Collections of vectors.
    pub vectors: VectorStore,
    /// Records from files.
    pub imports: VectorImports,
    /// Long work that comes again.
    pub schedules: Schedules,
}

/// Every service, ready to be served.
pub async fn routes(parts: Parts) -> Result<Routes, tonic_reflection::server::Error> {
    let Parts { rooms, captions, callers, jobs, sandboxes, files, vectors: store, imports, schedules } = parts;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RoomsServer<rooms::RoomsService>>().await;
    health.set_serving::<SpeechServer<speech::SpeechService>>().await;
    health.set_serving::<JobsServer<jobs::JobsService>>().await;
    health.set_serving::<SandboxesServer<sandboxes::SandboxesService>>().await;
    health.set_serving::<FilesServer<files::FilesService>>().await;
    health.set_serving::<VectorsServer<vectors::VectorsService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(auralink_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = Routes::new(RoomsServer::new(rooms::RoomsService { rooms, captions: captions.clone(), callers: callers.clone() }))
        .add_service(
            SpeechServer::new(speech::SpeechService { captions, callers: callers.clone() })
                .max_decoding_message_size(2 * crate::audio_in::MAX_MESSAGE_BYTES),
        )
        .add_service(JobsServer::new(jobs::JobsService { jobs, schedules, callers: callers.clone() }))
        .add_service(SandboxesServer::new(sandboxes::SandboxesService { sandboxes, callers: callers.clone() }))
        .add_service(FilesServer::new(files::FilesService { files, callers: callers.clone() }))
        .add_service(
            VectorsServer::new(vectors::VectorsService { store, imports, callers }).max_decoding_message_size(vectors::MAX_MESSAGE_BYTES),
        )
        .add_service(health_service)
        .add_service(reflection);
    Ok(routes)
}
