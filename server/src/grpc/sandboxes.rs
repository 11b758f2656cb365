//! `auralink.v1.Sandboxes`: a thin face on the sandboxes' service. Streams are in [`streams`], words in [`convert`].

mod convert;
mod streams;

use std::pin::Pin;
use std::time::Duration;

use auralink_infrastructure::vm::service::{Followed, Sandboxes as Service};
use auralink_proto::v1::sandboxes_server::Sandboxes as SandboxesApi;
use auralink_proto::v1::*;
use futures_util::StreamExt;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::api::ApiError;
use crate::caller::{Caller, Callers, Scope};
use crate::grpc::refuse::Drained;
use crate::sandboxes::Sandboxes;

/// How long a sandbox is asked to end unless its caller says otherwise.
const GRACE_MS: u32 = 10_000;

/// The service.
pub struct SandboxesService {
    /// The application layer.
    pub sandboxes: Sandboxes,
    /// Who calls.
    pub callers: Callers,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One code for one error, on both faces.
fn status(error: impl Into<ApiError>) -> Status {
    error.into().into()
}

impl SandboxesService {
    async fn asked(&self, metadata: &MetadataMap, scope: Scope) -> Result<(&Service, Caller), Status> {
        let caller = self.callers.of_metadata(metadata).await?;
        caller.require(scope)?;
        Ok((self.sandboxes.service().map_err(status)?, caller))
    }
}

/// A unary call: scope, request, what is done with it.
macro_rules! answered {
    ($self:ident, $request:ident, $scope:ident, |$service:ident, $caller:ident, $message:ident| $work:expr) => {{
        let ($service, $caller) = $self.asked($request.metadata(), Scope::$scope).await?;
        let $message = $request.into_inner();
        Ok(Response::new($work))
    }};
}

#[tonic::async_trait]
impl SandboxesApi for SandboxesService {
    async fn create(&self, request: Request<CreateSandboxRequest>) -> Result<Response<Sandbox>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            let wanted = convert::request(message)?;
            convert::sandbox(service.create(&caller.tenant, wanted).await.map_err(status)?)
        })
    }

    async fn get(&self, request: Request<SandboxRequest>) -> Result<Response<Sandbox>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, message| {
            convert::sandbox(service.get(&caller.tenant, &message.sandbox).map_err(status)?)
        })
    }

    async fn list(&self, request: Request<ListSandboxesRequest>) -> Result<Response<ListSandboxesResponse>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, message| {
            let size = if message.page_size == 0 { 100 } else { message.page_size.min(1_000) as usize };
            let after = Some(message.page_token.as_str()).filter(|token| !token.is_empty());
            let page = service.list(&caller.tenant, &message.labels.into_iter().collect(), after, size);
            let next_page_token = page.last().filter(|_| page.len() == size).map(|last| last.id.to_string()).unwrap_or_default();
            ListSandboxesResponse { sandboxes: page.into_iter().map(convert::sandbox).collect(), next_page_token }
        })
    }

    async fn start(&self, request: Request<SandboxRequest>) -> Result<Response<Sandbox>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            convert::sandbox(service.start(&caller.tenant, &message.sandbox).await.map_err(status)?)
        })
    }

    async fn stop(&self, request: Request<StopSandboxRequest>) -> Result<Response<Sandbox>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            let grace = Duration::from_millis(message.grace_ms.unwrap_or(GRACE_MS).into());
            convert::sandbox(service.stop(&caller.tenant, &message.sandbox, grace).await.map_err(status)?)
        })
    }

    async fn pause(&self, request: Request<SandboxRequest>) -> Result<Response<Sandbox>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            convert::sandbox(service.pause(&caller.tenant, &message.sandbox).await.map_err(status)?)
        })
    }

    async fn resume(&self, request: Request<SandboxRequest>) -> Result<Response<Sandbox>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            convert::sandbox(service.resume(&caller.tenant, &message.sandbox).await.map_err(status)?)
        })
    }

    async fn delete(&self, request: Request<SandboxRequest>) -> Result<Response<DeleteSandboxResponse>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            service.delete(&caller.tenant, &message.sandbox).await.map_err(status)?;
            DeleteSandboxResponse {}
        })
    }

    async fn snapshot(&self, request: Request<SnapshotSandboxRequest>) -> Result<Response<SandboxSnapshot>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            let labels = message.labels.into_iter().collect();
            convert::snapshot(service.snapshot(&caller.tenant, &message.sandbox, labels).await.map_err(status)?)
        })
    }

    async fn list_snapshots(&self, request: Request<ListSnapshotsRequest>) -> Result<Response<ListSnapshotsResponse>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, _message| {
            ListSnapshotsResponse { snapshots: service.snapshots(&caller.tenant).into_iter().map(convert::snapshot).collect() }
        })
    }

    async fn delete_snapshot(&self, request: Request<DeleteSnapshotRequest>) -> Result<Response<DeleteSnapshotResponse>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            service.delete_snapshot(&caller.tenant, &message.snapshot).await.map_err(status)?;
            DeleteSnapshotResponse {}
        })
    }

    type ExecStream = Answer<SandboxExecResponse>;

    async fn exec(&self, request: Request<Streaming<SandboxExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let requests = Drained::from(requests);
        let (service, caller) = self.asked(&metadata, Scope::SandboxesWrite).await?;
        Ok(Response::new(streams::exec(service, &caller.tenant, requests).await?))
    }

    async fn write_file(&self, request: Request<Streaming<WriteSandboxFileRequest>>) -> Result<Response<WriteSandboxFileResponse>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let requests = Drained::from(requests);
        let (service, caller) = self.asked(&metadata, Scope::SandboxesWrite).await?;
        streams::write_file(service, &caller.tenant, requests).await?;
        Ok(Response::new(WriteSandboxFileResponse {}))
    }

    type ReadFileStream = Answer<ReadSandboxFileResponse>;

    async fn read_file(&self, request: Request<ReadSandboxFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| streams::read_file(service, &caller.tenant, message).await?)
    }

    async fn list_folder(&self, request: Request<ListSandboxFolderRequest>) -> Result<Response<ListSandboxFolderResponse>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            let limit = if message.limit == 0 { 1_000 } else { message.limit as usize };
            let entries = service.list_folder(&caller.tenant, &message.sandbox, &message.path, limit).await.map_err(status)?;
            ListSandboxFolderResponse { entries: entries.into_iter().map(convert::file_entry).collect() }
        })
    }

    async fn upload(&self, request: Request<Streaming<UploadToSandboxRequest>>) -> Result<Response<UploadToSandboxResponse>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let requests = Drained::from(requests);
        let (service, caller) = self.asked(&metadata, Scope::SandboxesWrite).await?;
        Ok(Response::new(streams::upload(service, &caller.tenant, requests).await?))
    }

    type DownloadStream = Answer<DownloadFromSandboxResponse>;

    async fn download(&self, request: Request<DownloadFromSandboxRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            let (service, tenant) = (service.clone(), caller.tenant);
            let pieces = streams::piped(move |out| async move { service.download(&tenant, &message.sandbox, &message.path, out).await });
            Box::pin(pieces.map(|piece| piece.map(|archive| DownloadFromSandboxResponse { archive }))) as Self::DownloadStream
        })
    }

    type ForwardStream = Answer<ForwardSandboxResponse>;

    async fn forward(&self, request: Request<Streaming<ForwardSandboxRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let requests = Drained::from(requests);
        let (service, caller) = self.asked(&metadata, Scope::SandboxesWrite).await?;
        Ok(Response::new(streams::forward(service, &caller.tenant, requests).await?))
    }

    async fn logs(&self, request: Request<SandboxLogsRequest>) -> Result<Response<SandboxLogsResponse>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, message| {
            let exec = Some(message.exec).filter(|number| *number > 0);
            let logs = service.logs(&caller.tenant, &message.sandbox, exec).await.map_err(status)?;
            SandboxLogsResponse { logs: logs.into_iter().map(convert::log).collect() }
        })
    }

    type EventsStream = Answer<SandboxEvent>;

    async fn events(&self, request: Request<SandboxEventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, message| {
            let only = Some(message.sandbox.as_str()).filter(|id| !id.is_empty());
            let following = service.follow(&caller.tenant, only).map_err(status)?;
            let events = futures_util::stream::unfold(following, |mut following| async move {
                let told = match following.next().await? {
                    Followed::Event(event) => convert::event(event),
                    Followed::Missed(number) => SandboxEvent { number, kind: "missed".into(), ..SandboxEvent::default() },
                };
                Some((Ok(told), following))
            });
            Box::pin(events) as Self::EventsStream
        })
    }

    async fn usage(&self, request: Request<SandboxRequest>) -> Result<Response<SandboxUsage>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, message| {
            convert::usage(service.usage(&caller.tenant, &message.sandbox).await.map_err(status)?)
        })
    }

    async fn engines(&self, request: Request<ListEnginesRequest>) -> Result<Response<ListEnginesResponse>, Status> {
        answered!(self, request, SandboxesRead, |service, _caller, _message| {
            ListEnginesResponse { engines: service.engines().await.into_iter().map(convert::engine).collect() }
        })
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, _message| {
            let images = service.list_images(&caller.tenant).await.map_err(status)?;
            ListImagesResponse { images: images.into_iter().map(convert::image).collect() }
        })
    }

    async fn import_image(&self, request: Request<Streaming<ImportImageRequest>>) -> Result<Response<SandboxImage>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let requests = Drained::from(requests);
        let (service, caller) = self.asked(&metadata, Scope::SandboxesWrite).await?;
        Ok(Response::new(streams::import_image(service, &caller, requests).await?))
    }

    type ExportImageStream = Answer<ExportImageResponse>;

    async fn export_image(&self, request: Request<ExportImageRequest>) -> Result<Response<Self::ExportImageStream>, Status> {
        answered!(self, request, SandboxesRead, |service, caller, message| {
            service.find_image(&caller.tenant, &message.name).await.map_err(status)?;
            let (service, tenant) = (service.clone(), caller.tenant);
            let pieces = streams::piped(move |out| async move { service.export_image(&tenant, &message.name, message.gzip, out).await });
            Box::pin(pieces.map(|piece| piece.map(|archive| ExportImageResponse { archive }))) as Self::ExportImageStream
        })
    }

    async fn delete_image(&self, request: Request<DeleteImageRequest>) -> Result<Response<DeleteImageResponse>, Status> {
        answered!(self, request, SandboxesWrite, |service, caller, message| {
            if message.shared {
                caller.require_operator()?;
            }
            service.delete_image(&caller.tenant, &message.name, message.shared).await.map_err(status)?;
            DeleteImageResponse {}
        })
    }
}
