//! `auralink.v1.Vectors`: a thin face on [`crate::vectors`].

use std::pin::Pin;

use auralink_infrastructure::vector::{self as engine, Filter, Selection, Spec};
use auralink_proto::v1::vectors_server::Vectors as VectorsApi;
use auralink_proto::v1::{
    Collection, CreateCollectionRequest, DeleteCollectionRequest, DeleteCollectionResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    ExportRequest, ExportResponse, GetCollectionRequest, GetRecordsRequest, GetRecordsResponse, ImportError, ImportFileRequest,
    ImportFileResponse, ImportRequest, ImportResponse, ListCollectionsRequest, ListCollectionsResponse, Metric, QueryRequest,
    QueryResponse, UpsertRequest, UpsertResponse, VectorMatch, VectorRecord,
};
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::{Request, Response, Status, Streaming};

use crate::api::ApiError;
use crate::caller::{Caller, Callers, Scope};
use crate::files::Place;
use crate::grpc::refuse::{Drained, first};
use crate::vector_imports::VectorImports;
use crate::vectors::{Asked, Given, VectorStore};

/// Largest message: 1,000 records of 4,096 numbers with documents.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Bytes of an export that wait for a reader.
const EXPORT_BUFFER: usize = 256 << 10;

/// The service.
pub struct VectorsService {
    /// The application layer.
    pub store: VectorStore,
    /// Records from files.
    pub imports: VectorImports,
    /// Who calls.
    pub callers: Callers,
}

fn status(error: impl Into<ApiError>) -> Status {
    error.into().into()
}

impl VectorsService {
    async fn caller<T>(&self, request: &Request<T>, scope: Scope) -> Result<Caller, Status> {
        let caller = self.callers.of_metadata(request.metadata()).await?;
        caller.require(scope)?;
        Ok(caller)
    }
}

fn filter_of(json: &str) -> Result<Option<Filter>, Status> {
    let filter = (!json.is_empty()).then(|| Filter::parse_text(json)).transpose();
    filter.map_err(|why| Status::invalid_argument(why.to_string()))
}

fn collection(collection: engine::Collection) -> Collection {
    let metric = match collection.spec.metric {
        engine::Metric::Cosine => Metric::Cosine,
        engine::Metric::Euclidean => Metric::Euclidean,
        engine::Metric::Dot => Metric::Dot,
    };
    Collection {
        name: collection.address.name().to_owned(),
        dimension: collection.spec.dimension,
        metric: metric.into(),
        count: collection.count,
    }
}

fn record(record: engine::Record) -> VectorRecord {
    let metadata_json = match record.metadata.is_empty() {
        true => String::new(),
        false => serde_json::to_string(&record.metadata).unwrap_or_default(),
    };
    VectorRecord { id: record.id, vector: record.vector, metadata_json, document: record.document }
}

fn given(record: VectorRecord) -> Result<Given, Status> {
    let metadata = match record.metadata_json.as_str() {
        "" => engine::Metadata::new(),
        json => serde_json::from_str(json).map_err(|why| {
            Status::invalid_argument(format!("metadata_json of {:?} is no object of texts, numbers and booleans: {why}", record.id))
        })?,
    };
    Ok(Given { id: record.id, vector: Some(record.vector).filter(|vector| !vector.is_empty()), metadata, document: record.document })
}

#[tonic::async_trait]
impl VectorsApi for VectorsService {
    async fn create_collection(&self, request: Request<CreateCollectionRequest>) -> Result<Response<Collection>, Status> {
        let caller = self.caller(&request, Scope::VectorsWrite).await?;
        let CreateCollectionRequest { name, dimension, metric } = request.into_inner();
        let metric = match Metric::try_from(metric).map_err(|_| Status::invalid_argument(format!("{metric} is no metric")))? {
            Metric::Unspecified | Metric::Cosine => engine::Metric::Cosine,
            Metric::Euclidean => engine::Metric::Euclidean,
            Metric::Dot => engine::Metric::Dot,
        };
        let made = self.store.service().create(&caller.tenant, &name, Spec { dimension, metric }).await.map_err(status)?;
        Ok(Response::new(collection(made)))
    }

    async fn delete_collection(&self, request: Request<DeleteCollectionRequest>) -> Result<Response<DeleteCollectionResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsWrite).await?;
        self.store.service().destroy(&caller.tenant, &request.into_inner().name).await.map_err(status)?;
        Ok(Response::new(DeleteCollectionResponse {}))
    }

    async fn list_collections(&self, request: Request<ListCollectionsRequest>) -> Result<Response<ListCollectionsResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsRead).await?;
        let collections = self.store.service().list(&caller.tenant).await.map_err(status)?;
        Ok(Response::new(ListCollectionsResponse { collections: collections.into_iter().map(collection).collect() }))
    }

    async fn get_collection(&self, request: Request<GetCollectionRequest>) -> Result<Response<Collection>, Status> {
        let caller = self.caller(&request, Scope::VectorsRead).await?;
        Ok(Response::new(collection(self.store.service().describe(&caller.tenant, &request.into_inner().name).await.map_err(status)?)))
    }

    async fn upsert(&self, request: Request<UpsertRequest>) -> Result<Response<UpsertResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsWrite).await?;
        let UpsertRequest { collection, records } = request.into_inner();
        let written = records.len() as u64;
        let given = records.into_iter().map(given).collect::<Result<_, _>>()?;
        self.store.upsert(&caller.tenant, &collection, given).await?;
        Ok(Response::new(UpsertResponse { written }))
    }

    async fn delete_records(&self, request: Request<DeleteRecordsRequest>) -> Result<Response<DeleteRecordsResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsWrite).await?;
        let DeleteRecordsRequest { collection, ids, filter_json } = request.into_inner();
        let selection = match (ids.is_empty(), filter_of(&filter_json)?) {
            (false, None) => Selection::Ids(ids),
            (true, Some(filter)) => Selection::Filter(filter),
            _ => return Err(Status::invalid_argument("give `ids` or `filter_json`, one of both")),
        };
        self.store.service().delete(&caller.tenant, &collection, selection).await.map_err(status)?;
        Ok(Response::new(DeleteRecordsResponse {}))
    }

    async fn get_records(&self, request: Request<GetRecordsRequest>) -> Result<Response<GetRecordsResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsRead).await?;
        let GetRecordsRequest { collection, ids } = request.into_inner();
        let records = self.store.service().get(&caller.tenant, &collection, &ids).await.map_err(status)?;
        Ok(Response::new(GetRecordsResponse { records: records.into_iter().map(record).collect() }))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<QueryResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsRead).await?;
        let QueryRequest { collection, vector, text, k, filter_json, with_vectors } = request.into_inner();
        let asked = match (vector.is_empty(), text.is_empty()) {
            (false, true) => Asked::Vector(vector),
            (true, false) => Asked::Text(text),
            _ => return Err(Status::invalid_argument("give `vector` or `text`, one of both")),
        };
        let k = if k == 0 { 10 } else { k as usize };
        let found = self.store.query(&caller.tenant, &collection, asked, k, filter_of(&filter_json)?, with_vectors).await?;
        let matches =
            found.into_iter().map(|found| VectorMatch { record: Some(record(found.record)), score: found.score, distance: found.distance });
        Ok(Response::new(QueryResponse { matches: matches.collect() }))
    }

    async fn import(&self, request: Request<Streaming<ImportRequest>>) -> Result<Response<ImportResponse>, Status> {
        let (metadata, _, messages) = request.into_parts();
        let mut messages = Drained::from(messages);
        let caller = self.callers.of_metadata(&metadata).await?;
        caller.require(Scope::VectorsWrite)?;
        let first =
            first(&mut messages).await?.ok_or_else(|| Status::invalid_argument("no message came: the first names the collection"))?;
        let ImportRequest { collection, from_line, data } = first;
        let parts = stream::once(async { Ok(data) }).chain(stream::unfold(messages, async |mut messages| {
            let next = messages.message().await.transpose()?;
            Some((next.map(|message| message.data), messages))
        }));
        let parts = parts.map_ok(std::io::Cursor::new).map_err(std::io::Error::other);
        let mut lines = StreamReader::new(Box::pin(parts));
        let done = self.store.service().import(&caller.tenant, &collection, &mut lines, from_line, &mut |_| true).await;
        let (progress, stopped) = match done {
            Ok(progress) => (progress, String::new()),
            Err(stopped) if stopped.progress.next_line == from_line => return Err(status(stopped.why)),
            Err(stopped) => (stopped.progress, stopped.why.to_string()),
        };
        let errors = progress.errors.into_iter().map(|error| ImportError { line: error.line, reason: error.reason }).collect();
        let (imported, rejected, next_line) = (progress.imported, progress.rejected, progress.next_line);
        Ok(Response::new(ImportResponse { imported, rejected, errors, next_line, stopped }))
    }

    async fn import_file(&self, request: Request<ImportFileRequest>) -> Result<Response<ImportFileResponse>, Status> {
        let caller = self.caller(&request, Scope::VectorsWrite).await?;
        let ImportFileRequest { collection, store, path } = request.into_inner();
        let job = self.imports.start(&caller, collection, Place { store, path }).await?;
        Ok(Response::new(ImportFileResponse { job_id: job.to_string() }))
    }

    type ExportStream = Pin<Box<dyn Stream<Item = Result<ExportResponse, Status>> + Send>>;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let caller = self.caller(&request, Scope::VectorsRead).await?;
        let collection = request.into_inner().collection;
        self.store.service().describe(&caller.tenant, &collection).await.map_err(status)?;
        let (mut writer, reader) = tokio::io::duplex(EXPORT_BUFFER);
        let store = self.store.clone();
        let task = tokio::spawn(async move { store.service().export(&caller.tenant, &collection, &mut writer).await });
        let data = ReaderStream::new(reader)
            .map(|part| part.map(|data| ExportResponse { data: data.to_vec() }).map_err(|why| Status::internal(why.to_string())));
        // How the export ended is the stream's end.
        let end = stream::once(task).filter_map(|done| async move {
            match done {
                Ok(Ok(_)) => None,
                Ok(Err(why)) => Some(Err(status(why))),
                Err(why) => Some(Err(Status::internal(format!("the export failed: {why}")))),
            }
        });
        Ok(Response::new(Box::pin(data.chain(end))))
    }
}
