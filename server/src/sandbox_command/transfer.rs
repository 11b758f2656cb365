//! Files in and out, images in, ports forwarded.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use auralink_proto::v1::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, refused};

/// Bytes of one message.
const PIECE: usize = 64 << 10;

/// `SANDBOX:/PATH`.
fn remote(text: &str) -> Option<(String, String)> {
    text.split_once(':').filter(|(_, path)| path.starts_with('/')).map(|(sandbox, path)| (sandbox.to_owned(), path.to_owned()))
}

/// Copies one file in or out.
pub async fn copy(client: &Client, from: &str, to: &str) -> anyhow::Result<()> {
    match (remote(from), remote(to)) {
        (None, Some((sandbox, path))) => put(client, Path::new(from), sandbox, path).await,
        (Some((sandbox, path)), None) => take(client, sandbox, path, Path::new(to)).await,
        _ => bail!("one of the two must be in a sandbox, written SANDBOX:/PATH, and the other a file of this machine"),
    }
}

async fn put(client: &Client, file: &Path, sandbox: String, path: String) -> anyhow::Result<()> {
    use write_sandbox_file_request::Request as Part;
    let content = tokio::fs::File::open(file).await.with_context(|| format!("{} cannot be opened", file.display()))?;
    let about = content.metadata().await?;
    anyhow::ensure!(about.is_file(), "{} is no file", file.display());
    let head = SandboxFile { sandbox, path, mode: Some(about.permissions().mode() & 0o777), size: about.len() };
    let (parts, stream) = mpsc::channel(8);
    let sending =
        tokio::spawn(pieces(parts, Part::File(head), content, Part::Content, |part| WriteSandboxFileRequest { request: Some(part) }));
    let written = client.client.clone().write_file(client.request(ReceiverStream::new(stream))).await;
    written.map_err(refused)?;
    sending.await?
}

/// The first part, then the content. A receiver that ended said why.
async fn pieces<P, M>(
    parts: mpsc::Sender<M>,
    head: P,
    mut content: impl AsyncRead + Unpin,
    piece: fn(Vec<u8>) -> P,
    message: fn(P) -> M,
) -> anyhow::Result<()> {
    if parts.send(message(head)).await.is_err() {
        return Ok(());
    }
    let mut buffer = vec![0; PIECE];
    loop {
        let count = content.read(&mut buffer).await?;
        if count == 0 || parts.send(message(piece(buffer[..count].to_vec()))).await.is_err() {
            return Ok(());
        }
    }
}

async fn take(client: &Client, sandbox: String, path: String, file: &Path) -> anyhow::Result<()> {
    use read_sandbox_file_response::Response as Out;
    let mut come =
        client.client.clone().read_file(client.request(ReadSandboxFileRequest { sandbox, path })).await.map_err(refused)?.into_inner();
    // Beside first: a copy that is cut short replaces nothing.
    let mut name = file.file_name().with_context(|| format!("{} names no file", file.display()))?.to_owned();
    name.push(".part");
    let beside = file.with_file_name(name);
    let mut out = tokio::fs::File::create(&beside).await.with_context(|| format!("{} cannot be written", beside.display()))?;
    let (mut size, mut got) = (None, 0);
    while let Some(answer) = come.message().await.map_err(refused)? {
        match answer.response {
            Some(Out::Size(bytes)) => size = Some(bytes),
            Some(Out::Content(bytes)) => {
                got += bytes.len() as u64;
                out.write_all(&bytes).await?;
            }
            None => {}
        }
    }
    out.flush().await?;
    out.sync_all().await?;
    anyhow::ensure!(size == Some(got), "the file has {size:?} bytes and {got} came");
    tokio::fs::rename(&beside, file).await?;
    Ok(())
}

/// Standard input, read in a thread of its own.
pub fn stdin() -> std::io::Result<tokio::fs::File> {
    let own = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(own.into()))
}

/// Imports an archive; `-`: standard input.
pub async fn import(client: &Client, name: String, shared: bool, file: &Path) -> anyhow::Result<SandboxImage> {
    use import_image_request::Request as Part;
    let content: Box<dyn AsyncRead + Send + Unpin> = match file.to_str() {
        Some("-") => Box::new(stdin()?),
        _ => Box::new(tokio::fs::File::open(file).await.with_context(|| format!("{} cannot be opened", file.display()))?),
    };
    let head = Part::Target(ImportImageTarget { name, shared, rootfs: String::new() });
    let (parts, stream) = mpsc::channel(8);
    let sending = tokio::spawn(pieces(parts, head, content, Part::Archive, |part| ImportImageRequest { request: Some(part) }));
    let image = client.client.clone().import_image(client.request(ReceiverStream::new(stream))).await.map_err(refused)?;
    sending.await??;
    Ok(image.into_inner())
}

/// Listens on 127.0.0.1 until it is ended.
pub async fn forward(client: &Client, sandbox: String, (local, remote): (u16, u16)) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", local)).await.with_context(|| format!("127.0.0.1:{local} cannot be listened on"))?;
    println!("{} -> {sandbox}:{remote}", listener.local_addr()?);
    loop {
        let (connection, _) = listener.accept().await?;
        let (client, sandbox) = (client.clone(), sandbox.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(&client, sandbox, remote, connection).await {
                eprintln!("auralink: {error:#}");
            }
        });
    }
}

async fn carry(client: &Client, sandbox: String, port: u16, connection: TcpStream) -> anyhow::Result<()> {
    use forward_sandbox_request::Request as Part;
    let (read, mut write) = connection.into_split();
    let (parts, stream) = mpsc::channel(8);
    let head = Part::Port(SandboxPort { sandbox, port: port.into() });
    tokio::spawn(pieces(parts, head, read, Part::Data, |part| ForwardSandboxRequest { request: Some(part) }));
    let mut come = client.client.clone().forward(client.request(ReceiverStream::new(stream))).await.map_err(refused)?.into_inner();
    while let Some(answer) = come.message().await.map_err(refused)? {
        write.write_all(&answer.data).await?;
    }
    Ok(write.shutdown().await?)
}
