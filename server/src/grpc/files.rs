//! `auralink.v1.Files`: a thin face on [`crate::files`].

use std::pin::Pin;

use auralink_infrastructure::storage::{Checksum, Entry, EntryKind};
use auralink_proto::v1::files_server::Files as Service;
use auralink_proto::v1::store_read_response::Response as ReadPart;
use auralink_proto::v1::store_write_request::Request as WritePart;
use auralink_proto::v1::{
    FileStore, FoundSpeech, PipelineReport, PipelineStep, PipelinesRequest, PipelinesResponse, RunPipelineRequest, SearchSpeechRequest,
    SearchSpeechResponse, StartedFileJob, StoreBrowseRequest, StoreBrowseResponse, StoreDeleteRequest, StoreDeleteResponse, StoreEntry,
    StoreImportRequest, StoreReadInfo, StoreReadRequest, StoreReadResponse, StoreStatRequest, StoreWriteRequest, StoreWriteResponse,
    StoresRequest, StoresResponse,
};
use bytes::Bytes;
use clap::ValueEnum as _;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::refuse::{drain, first};
use crate::caller::Callers;
use crate::files::{Export, Files, FilesError, Place};
use crate::pipeline::Report;
use crate::pipeline::export::Format;

/// Bytes of one message: below the 4 MiB that clients take.
const MESSAGE: usize = 256 * 1024;

/// The service.
pub struct FilesService {
    /// What can be done.
    pub files: Files,
    /// Who may.
    pub callers: Callers,
}

#[tonic::async_trait]
impl Service for FilesService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<StoreReadResponse, Status>> + Send>>;

    async fn stores(&self, request: Request<StoresRequest>) -> Result<Response<StoresResponse>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let stores = self.files.stores(&caller)?;
        let stores = stores.iter().map(|store| FileStore {
            name: store.name().to_owned(),
            kind: store.kind().to_owned(),
            shared: store.is_shared(),
            max_file_bytes: store.max_file_bytes(),
        });
        Ok(Response::new(StoresResponse { stores: stores.collect() }))
    }

    async fn browse(&self, request: Request<StoreBrowseRequest>) -> Result<Response<StoreBrowseResponse>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let StoreBrowseRequest { store, path, page, limit } = request.into_inner();
        let page = Some(page).filter(|page| !page.is_empty());
        let found = self.files.browse(&caller, &Place { store, path }, page.as_deref(), limit).await?;
        let entries = found.entries.into_iter().map(entry).collect();
        Ok(Response::new(StoreBrowseResponse { entries, next: found.next.unwrap_or_default() }))
    }

    async fn stat(&self, request: Request<StoreStatRequest>) -> Result<Response<StoreEntry>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let StoreStatRequest { store, path } = request.into_inner();
        Ok(Response::new(entry(self.files.stat(&caller, &Place { store, path }).await?)))
    }

    async fn read(&self, request: Request<StoreReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let StoreReadRequest { store, path, from, to, version } = request.into_inner();
        let version = Some(version).filter(|version| !version.is_empty());
        let reading = self.files.read(&caller, &Place { store, path }, from, to, version.as_deref()).await?;
        let info = StoreReadInfo { size: reading.size, from: reading.from, length: reading.length, version: reading.version };
        let first = StoreReadResponse { response: Some(ReadPart::Info(info)) };
        let data = reading.stream.flat_map(|part| {
            let messages: Vec<_> = match part {
                Ok(bytes) => {
                    bytes.chunks(MESSAGE).map(|data| Ok(StoreReadResponse { response: Some(ReadPart::Data(data.to_vec())) })).collect()
                }
                Err(error) => vec![Err(Status::from(FilesError::from(error)))],
            };
            futures_util::stream::iter(messages)
        });
        Ok(Response::new(Box::pin(futures_util::stream::iter([Ok(first)]).chain(data))))
    }

    async fn write(&self, request: Request<Streaming<StoreWriteRequest>>) -> Result<Response<StoreWriteResponse>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await;
        let mut parts = request.into_inner();
        let begun = match caller {
            Ok(caller) => first(&mut parts).await.map(|part| (caller, part)),
            Err(status) => Err(status),
        };
        let (caller, info) = match begun {
            Ok((caller, Some(StoreWriteRequest { request: Some(WritePart::Info(info)) }))) => (caller, info),
            Ok(_) => {
                drain(parts);
                return Err(Status::invalid_argument("the first message must hold `info`"));
            }
            Err(status) => {
                drain(parts);
                return Err(status);
            }
        };
        let sha256 = Some(info.sha256).filter(|sha256| !sha256.is_empty());
        let content = parts.map(|part| match part {
            Ok(StoreWriteRequest { request: Some(WritePart::Data(data)) }) => Ok(Bytes::from(data)),
            Ok(_) => Err("after the first message only `data` is taken".to_owned()),
            Err(status) => Err(format!("the sender went away: {}", status.message())),
        });
        let place = Place { store: info.store, path: info.path };
        let written = self.files.write(&caller, &place, content, sha256).await?;
        Ok(Response::new(StoreWriteResponse { size: written.size, sha256: written.sha256, version: written.version }))
    }

    async fn delete(&self, request: Request<StoreDeleteRequest>) -> Result<Response<StoreDeleteResponse>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let StoreDeleteRequest { store, path } = request.into_inner();
        let deleted = self.files.delete(&caller, &Place { store, path }).await?;
        Ok(Response::new(StoreDeleteResponse { deleted }))
    }

    async fn import(&self, request: Request<StoreImportRequest>) -> Result<Response<StartedFileJob>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let StoreImportRequest { from_store, from_path, to_store, to_path } = request.into_inner();
        let (from, to) = (Place { store: from_store, path: from_path }, Place { store: to_store, path: to_path });
        let job = self.files.import(&caller, from, to).await?;
        Ok(Response::new(StartedFileJob { job_id: job.into() }))
    }

    async fn run_pipeline(&self, request: Request<RunPipelineRequest>) -> Result<Response<StartedFileJob>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let RunPipelineRequest { store, path, export_store, export_folder, formats } = request.into_inner();
        let formats = formats.iter().map(|text| {
            Format::from_str(text, false)
                .map_err(|_| Status::invalid_argument(format!("{text:?} is no format: txt, srt, vtt and json are")))
        });
        let formats = formats.collect::<Result<Vec<_>, _>>()?;
        let export = (!export_store.is_empty()).then_some(Export { store: export_store, folder: export_folder, formats });
        let job = self.files.run_pipeline(&caller, Place { store, path }, export).await?;
        Ok(Response::new(StartedFileJob { job_id: job.into() }))
    }

    async fn pipelines(&self, request: Request<PipelinesRequest>) -> Result<Response<PipelinesResponse>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let PipelinesRequest { after, limit } = request.into_inner();
        let after = Some(after).filter(|after| !after.is_empty());
        let (reports, next) = self.files.pipelines(&caller, after.as_deref(), limit).await?;
        Ok(Response::new(PipelinesResponse { reports: reports.into_iter().map(report).collect(), next: next.unwrap_or_default() }))
    }

    async fn search_speech(&self, request: Request<SearchSpeechRequest>) -> Result<Response<SearchSpeechResponse>, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        let SearchSpeechRequest { words, limit } = request.into_inner();
        let found = self.files.search(&caller, &words, limit).await?.into_iter().map(|found| FoundSpeech {
            source: found.source,
            text: found.text,
            start_ms: signed(found.start_ms),
            end_ms: signed(found.end_ms),
            score: found.score,
        });
        Ok(Response::new(SearchSpeechResponse { found: found.collect() }))
    }
}

fn entry(entry: Entry) -> StoreEntry {
    let kind = match entry.kind {
        EntryKind::File => "file",
        EntryKind::Folder => "folder",
        EntryKind::Other => "other",
    };
    let sha256 = match entry.checksum {
        Some(Checksum::Sha256(sha256)) => sha256,
        _ => String::new(),
    };
    StoreEntry {
        name: entry.name,
        kind: kind.to_owned(),
        size: entry.size,
        modified_ms: signed(entry.modified_ms),
        version: entry.version,
        sha256,
    }
}

fn report(report: Report) -> PipelineReport {
    let steps = report.steps.into_iter().map(|step| PipelineStep {
        kind: step.kind.as_str().to_owned(),
        state: step.state.as_str().to_owned(),
        reason: step.reason,
        finished_ms: signed(step.finished_ms),
    });
    PipelineReport { source: report.file.source, sha256: report.file.sha256, size: report.file.size, steps: steps.collect() }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
