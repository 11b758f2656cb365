//! What streams in or out of sandboxes: programs, files, archives, connections. Each way is bounded: who is slow holds the other end back.

use std::io;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vm::service::{Sandboxes as Service, Started};
use auralink_infrastructure::vm::{ExecInput, ExecOutput, VmError};
use auralink_proto::v1::*;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::Status;

use super::{Answer, convert, status};
use crate::caller::Caller;
use crate::grpc::refuse::{Drained, first};

/// Bytes of one message.
const PIECE: usize = 64 << 10;

fn without(what: &str) -> Status {
    Status::invalid_argument(format!("the first message must hold `{what}`"))
}

/// The bytes of later messages as a reader; a message of another kind is an error.
fn reader<T: Send + 'static>(requests: Drained<T>, bytes: fn(T) -> Option<Vec<u8>>) -> impl AsyncRead + Send + Unpin + 'static {
    let pieces = futures_util::stream::unfold(Some(requests), move |requests| async move {
        let mut requests = requests?;
        match requests.message().await {
            Ok(None) => None,
            Ok(Some(message)) => match bytes(message) {
                Some(bytes) => Some((Ok(Bytes::from(bytes)), Some(requests))),
                None => Some((Err(io::Error::new(io::ErrorKind::InvalidData, "a later message holds no bytes")), None)),
            },
            Err(status) => {
                Some((Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the caller went away: {}", status.message()))), None))
            }
        }
    });
    StreamReader::new(Box::pin(pieces))
}

pub async fn exec(
    service: &Service,
    tenant: &Tenant,
    mut requests: Drained<SandboxExecRequest>,
) -> Result<Answer<SandboxExecResponse>, Status> {
    use sandbox_exec_request::Request as Part;
    use sandbox_exec_response::Response as Out;
    let Some(SandboxExecRequest { request: Some(Part::Program(program)) }) = first(&mut requests).await? else {
        return Err(without("program"));
    };
    let (sandbox, spec) = convert::program(program)?;
    let Started { number, exec } = service.exec(tenant, &sandbox, spec).await.map_err(status)?;
    tokio::spawn(async move {
        // It ends with the caller's stream, or with the program.
        while let Ok(Some(message)) = requests.message().await {
            let input = match message.request {
                Some(Part::Stdin(bytes)) => ExecInput::Stdin(bytes.into()),
                Some(Part::CloseStdin(_)) => ExecInput::CloseStdin,
                Some(Part::Resize(size)) => match convert::tty(size) {
                    Ok(size) => ExecInput::Resize(size),
                    Err(_) => continue, // a size that no terminal has changes nothing
                },
                Some(Part::Signal(number)) => ExecInput::Signal(number),
                Some(Part::Program(_)) | None => continue,
            };
            if exec.input.send(input).await.is_err() {
                break;
            }
        }
    });
    let begun = futures_util::stream::iter([Ok(SandboxExecResponse { response: Some(Out::Started(number)) })]);
    let output = futures_util::stream::unfold(exec.output, |mut output| async move {
        let out = match output.recv().await? {
            Ok(ExecOutput::Stdout(bytes)) => Out::Stdout(bytes.into()),
            Ok(ExecOutput::Stderr(bytes)) => Out::Stderr(bytes.into()),
            Ok(ExecOutput::Exited(exit)) => Out::Exit(convert::exit(exit)),
            Err(error) => return Some((Err(status(error)), output)),
        };
        Some((Ok(SandboxExecResponse { response: Some(out) }), output))
    });
    Ok(Box::pin(begun.chain(output)))
}

pub async fn write_file(service: &Service, tenant: &Tenant, mut requests: Drained<WriteSandboxFileRequest>) -> Result<(), Status> {
    use write_sandbox_file_request::Request as Part;
    let Some(WriteSandboxFileRequest { request: Some(Part::File(file)) }) = first(&mut requests).await? else {
        return Err(without("file"));
    };
    let mut content = reader(requests, |message| match message.request {
        Some(Part::Content(bytes)) => Some(bytes),
        _ => None,
    });
    let mode = file.mode.unwrap_or(0o644);
    service.write_file(tenant, &file.sandbox, &file.path, mode, file.size, &mut content).await.map_err(status)
}

pub async fn read_file(
    service: &Service,
    tenant: &Tenant,
    file: ReadSandboxFileRequest,
) -> Result<Answer<ReadSandboxFileResponse>, Status> {
    use read_sandbox_file_response::Response as Out;
    let (size, content) = service.read_file(tenant, &file.sandbox, &file.path).await.map_err(status)?;
    let said = futures_util::stream::iter([Ok(ReadSandboxFileResponse { response: Some(Out::Size(size)) })]);
    let pieces = ReaderStream::with_capacity(content, PIECE).map(|piece| match piece {
        Ok(bytes) => Ok(ReadSandboxFileResponse { response: Some(Out::Content(bytes.into())) }),
        Err(error) => Err(Status::aborted(format!("the file could not be read to its end: {error}"))),
    });
    Ok(Box::pin(said.chain(pieces)))
}

pub async fn upload(
    service: &Service,
    tenant: &Tenant,
    mut requests: Drained<UploadToSandboxRequest>,
) -> Result<UploadToSandboxResponse, Status> {
    use upload_to_sandbox_request::Request as Part;
    let Some(UploadToSandboxRequest { request: Some(Part::Folder(folder)) }) = first(&mut requests).await? else {
        return Err(without("folder"));
    };
    let archive = reader(requests, |message| match message.request {
        Some(Part::Archive(bytes)) => Some(bytes),
        _ => None,
    });
    let uploaded = service.upload(tenant, &folder.sandbox, &folder.path, archive).await.map_err(status)?;
    Ok(UploadToSandboxResponse { files: uploaded.files, bytes: uploaded.bytes, skipped: uploaded.skipped })
}

/// What `work` writes, piece by piece; its error comes last.
pub fn piped<F>(work: impl FnOnce(DuplexStream) -> F) -> impl Stream<Item = Result<Vec<u8>, Status>> + Send + 'static
where
    F: Future<Output = Result<(), VmError>> + Send + 'static,
{
    let (out, come) = tokio::io::duplex(4 * PIECE);
    let working = tokio::spawn(work(out));
    let pieces =
        ReaderStream::with_capacity(come, PIECE).map(|piece| piece.map(Vec::from).map_err(|error| Status::internal(error.to_string())));
    let end = futures_util::stream::once(async move {
        match working.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(status(error))),
            Err(failed) => Some(Err(Status::internal(failed.to_string()))),
        }
    });
    pieces.chain(end.filter_map(|end| async move { end }))
}

pub async fn forward(
    service: &Service,
    tenant: &Tenant,
    mut requests: Drained<ForwardSandboxRequest>,
) -> Result<Answer<ForwardSandboxResponse>, Status> {
    use forward_sandbox_request::Request as Part;
    let Some(ForwardSandboxRequest { request: Some(Part::Port(wanted)) }) = first(&mut requests).await? else {
        return Err(without("port"));
    };
    let port =
        u16::try_from(wanted.port).map_err(|_| Status::invalid_argument(format!("port {} is none: 1 to 65535 are taken", wanted.port)))?;
    let stream = service.dial(tenant, &wanted.sandbox, port).await.map_err(status)?;
    let (read, mut write) = tokio::io::split(stream);
    let (alive, mut gone) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = requests.message() => message,
                // The caller took its last byte, or went away.
                _ = gone.recv() => break,
            };
            match message {
                Ok(Some(ForwardSandboxRequest { request: Some(Part::Data(bytes)) })) => {
                    if write.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    // Half-closed: the answer may still come. A port that is gone is seen by the reader.
                    let _ = write.shutdown().await;
                    let _ = gone.recv().await;
                    break;
                }
                Err(_) => break,
            }
        }
    });
    let pieces = ReaderStream::with_capacity(read, PIECE).map(move |piece| {
        let _alive = &alive;
        match piece {
            Ok(bytes) => Ok(ForwardSandboxResponse { data: bytes.into() }),
            Err(error) => Err(Status::aborted(format!("the connection ended: {error}"))),
        }
    });
    Ok(Box::pin(pieces))
}

pub async fn import_image(service: &Service, caller: &Caller, mut requests: Drained<ImportImageRequest>) -> Result<SandboxImage, Status> {
    use import_image_request::Request as Part;
    let Some(ImportImageRequest { request: Some(Part::Target(target)) }) = first(&mut requests).await? else {
        return Err(without("target"));
    };
    if target.shared {
        caller.require_operator()?;
    }
    let imported = if target.rootfs.is_empty() {
        let archive = reader(requests, |message| match message.request {
            Some(Part::Archive(bytes)) => Some(bytes),
            _ => None,
        });
        service.import_image(&caller.tenant, &target.name, target.shared, archive).await
    } else {
        service.import_rootfs(&caller.tenant, &target.name, target.shared, target.rootfs.as_ref()).await
    };
    Ok(convert::image(imported.map_err(status)?))
}
