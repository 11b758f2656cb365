//! Files in and out of a container, by the engine's archive call, in a container that runs or does not.
//!
//! Place: under [`super::ContainerEngine`]. Rule: an archive that comes out of a sandbox is the sandbox's word: one header is read, with
//! bounds, and nothing of it is unpacked on this machine. One that goes in is made here and has one entry. Links are followed by the daemon,
//! within the container.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bollard::query_parameters::{ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, ReadBuf};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Condition, ContainerEngine, FileEntry, SandboxId, VmError, condition_of, container, exec, fault, watch};

/// Files up to this are gathered in memory before they are sent; larger ones in a file of the sandbox's home.
const IN_MEMORY: u64 = 4 << 20;
/// Longest path.
const LONGEST: usize = 4_096;
/// Most entries of a folder that are listed.
const MOST: usize = 100_000;
/// Largest extended header of an archive.
const EXTENDED: u64 = 64 << 10;

impl ContainerEngine {
    /// The content is gathered first, so that one that ends too early leaves nothing; the daemon then writes it in one go.
    pub(super) async fn put(
        &self,
        id: &SandboxId,
        home: &Path,
        path: &str,
        mode: u32,
        size: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), VmError> {
        let name = checked(path)?.trim_start_matches('/').to_owned();
        if name.is_empty() || path.ends_with('/') {
            return Err(VmError::Invalid(format!("{path:?} is no path of a file")));
        }
        if let Some(kernels) =
            ["proc", "sys", "dev"].into_iter().find(|top| name.split('/').find(|part| !part.is_empty() && *part != ".") == Some(*top))
        {
            return Err(VmError::Invalid(format!("/{kernels} is the kernel's: no file can be kept in it")));
        }
        let inspected = self.inspect(id).await?;
        let limit = watch::limit_of(&inspected);
        if limit != 0 && size > limit {
            return Err(VmError::Exhausted(format!("a file of {size} bytes is larger than the sandbox's disk limit of {limit}")));
        }
        self.no_folder_there(id, path).await?;
        let user = inspected.config.and_then(|c| c.user).unwrap_or_default();
        let head = head(&name, mode, size, &user)?;
        let padding = Bytes::from(vec![0_u8; usize::try_from((512 - size % 512) % 512).unwrap_or(0) + 1_024]);
        let gathered = gather(home, size, content).await?;
        let body = stream::iter([Ok(head)]).chain(gathered).chain(stream::iter([Ok(padding)]));
        let options = UploadToContainerOptionsBuilder::default().path("/").no_overwrite_dir_non_dir("true").build();
        // A gibibyte at 10 MB/s, and the usual time on top.
        let patient = self.api().await?.clone().with_timeout(super::CALL + Duration::from_secs(size / 10_000_000));
        let sent = patient.upload_to_container(&container(id), Some(options), bollard::body_try_stream(body)).await;
        sent.map_err(|error| self.fault_of(id, error, "writing a file into the sandbox"))
    }

    /// The daemon would put the file in a folder's place: Docker refuses when asked to, Podman deletes the folder.
    async fn no_folder_there(&self, id: &SandboxId, path: &str) -> Result<(), VmError> {
        let options = ContainerArchiveInfoOptionsBuilder::default().path(path).build();
        match self.api().await?.get_container_archive_info(&container(id), Some(options)).await {
            Ok(found) if is_folder(found.file_mode) => Err(VmError::Invalid(format!("{path} is a folder"))),
            Ok(_) => Ok(()),
            Err(error) if fault::status(&error) == Some(404) => Ok(()),
            Err(error) => Err(self.fault(error, "looking at a file in the sandbox")),
        }
    }

    pub(super) async fn get(&self, id: &SandboxId, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        checked(path)?;
        let mut at = path.to_owned();
        for _ in 0..2 {
            let options = DownloadFromContainerOptionsBuilder::default().path(&at).build();
            let chunks = self.api().await?.clone().with_timeout(super::CALL).download_from_container(&container(id), Some(options));
            let mut chunks = Box::pin(chunks).peekable();
            if Pin::new(&mut chunks).peek().await.is_some_and(Result::is_err) {
                let error = match chunks.next().await {
                    Some(Err(error)) => error,
                    _ => return Err(self.failed("its answer changed while it was read")),
                };
                return Err(match fault::status(&error) {
                    Some(404) if self.inspect(id).await.is_ok() => VmError::NotFound(format!("there is no file {path} in the sandbox")),
                    _ => self.fault_of(id, error, "reading a file of the sandbox"),
                });
            }
            let mut reader = StreamReader::new(chunks.map_err(io::Error::other));
            match entry(&mut reader).await.map_err(|error| self.failed(format!("reading {path} from the sandbox: {error}")))? {
                Found::File(size) => return Ok((size, Box::new(Exactly { from: reader, left: size }))),
                Found::Folder => return Err(VmError::Invalid(format!("{path} is a folder"))),
                Found::Other => return Err(VmError::Invalid(format!("{path} is no regular file"))),
                Found::Link => at = self.target(id, &at).await?,
            }
        }
        Err(VmError::NotFound(format!("{path} is a link that leads to no file in the sandbox")))
    }

    /// Where a link leads in the end: the daemon follows it within the container.
    async fn target(&self, id: &SandboxId, path: &str) -> Result<String, VmError> {
        let options = ContainerArchiveInfoOptionsBuilder::default().path(path).build();
        let found = self.api().await?.get_container_archive_info(&container(id), Some(options)).await;
        let target = found.map_err(|error| self.fault(error, "following a link in the sandbox"))?.link_target;
        if target.is_empty() {
            return Err(VmError::NotFound(format!("{path} is a link that leads to no file in the sandbox")));
        }
        Ok(if target.starts_with('/') { target } else { format!("{}/{target}", path.rsplit_once('/').map_or("", |(folder, _)| folder)) })
    }

    /// By the agent: an archive of a folder would bring all that is in it.
    pub(super) async fn list(&self, id: &SandboxId, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
        checked(path)?;
        match condition_of(&self.inspect(id).await?) {
            Condition::Running => exec::listed(self, id, path, limit.min(MOST)).await,
            Condition::Paused => Err(VmError::Condition { is: "paused", what: "resume it before a folder is listed".into() }),
            Condition::Stopped | Condition::Gone => {
                Err(VmError::Condition { is: "stopped", what: "start it before a folder is listed".into() })
            }
        }
    }
}

/// Go's bit for folders in a mode; every engine of this API is written in it.
fn is_folder(mode: u32) -> bool {
    mode & 0x8000_0000 != 0
}

fn checked(path: &str) -> Result<&str, VmError> {
    let short: String = path.chars().take(100).collect();
    if !path.starts_with('/') || path.len() > LONGEST || path.contains('\0') {
        return Err(VmError::Invalid(format!("{short:?} is no path in a sandbox: it begins with / and has at most {LONGEST} bytes")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(VmError::Invalid(format!("{short:?} has a `..`: say where it leads")));
    }
    Ok(path)
}

/// The archive up to the content. A user who is a number owns the file; a name is known only in the container, so the file is root's then.
fn head(name: &str, mode: u32, size: u64, user: &str) -> Result<Bytes, VmError> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let user: u64 = user.parse().unwrap_or(0);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode & 0o777);
    header.set_size(size);
    header.set_uid(user);
    header.set_gid(group.parse().unwrap_or(user));
    header.set_mtime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    let mut archive = tar::Builder::new(Vec::new());
    // The builder writes long names as GNU has them, then the header, then the content: none here.
    archive.append_data(&mut header, name, io::empty()).map_err(|source| VmError::Io { what: format!("packing {name:?}"), source })?;
    let mut bytes = archive.into_inner().map_err(|source| VmError::Io { what: format!("packing {name:?}"), source })?;
    bytes.truncate(bytes.len() - 1_024);
    Ok(bytes.into())
}

type Chunks = stream::BoxStream<'static, io::Result<Bytes>>;

/// All of the content, and no byte less.
async fn gather(home: &Path, size: u64, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<Chunks, VmError> {
    let short = |got: u64| VmError::Invalid(format!("the content ended after {got} of {size} bytes: nothing was written"));
    let mut content = content.take(size);
    if size <= IN_MEMORY {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        content.read_to_end(&mut bytes).await.map_err(|source| VmError::Io { what: "receiving a file".into(), source })?;
        if bytes.len() as u64 != size {
            return Err(short(bytes.len() as u64));
        }
        return Ok(stream::iter([Ok(Bytes::from(bytes))]).boxed());
    }
    let wrong = |source| VmError::Io { what: format!("keeping a file in {}", home.display()), source };
    let home = home.to_owned();
    let (mut file, path) = spool(&home).await.map_err(wrong)?;
    // Without a name from the start, so that a crash leaves nothing.
    tokio::fs::remove_file(&path).await.map_err(wrong)?;
    let got = tokio::io::copy(&mut content, &mut file).await.map_err(wrong)?;
    if got != size {
        return Err(short(got));
    }
    file.flush().await.map_err(wrong)?;
    file.rewind().await.map_err(wrong)?;
    Ok(ReaderStream::with_capacity(file, 256 << 10).boxed())
}

async fn spool(home: &Path) -> io::Result<(tokio::fs::File, std::path::PathBuf)> {
    let path = home.join(format!("upload-{}.part", uuid::Uuid::new_v4()));
    let file = tokio::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).await?;
    Ok((file, path))
}

/// What the first entry of an archive is.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    File(u64),
    Folder,
    Link,
    Other,
}

/// Reads headers up to the first entry's content.
async fn entry(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Found> {
    let mut size_said = None;
    for _ in 0..8 {
        let mut block = [0_u8; 512];
        from.read_exact(&mut block).await?;
        let header = tar::Header::from_byte_slice(&block);
        // Its checksum counts itself as eight spaces.
        let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
        if header.cksum()? != sum {
            return Err(io::Error::other("not an archive's header"));
        }
        let size = header.entry_size()?;
        match header.entry_type() {
            tar::EntryType::XHeader | tar::EntryType::GNULongName | tar::EntryType::GNULongLink | tar::EntryType::XGlobalHeader => {
                if size > EXTENDED {
                    return Err(io::Error::other(format!("an extended header of {size} bytes")));
                }
                let mut text = vec![0; usize::try_from(size.div_ceil(512) * 512).unwrap_or(0)];
                from.read_exact(&mut text).await?;
                let pax = header.entry_type() == tar::EntryType::XHeader;
                size_said = size_said.or_else(|| pax.then(|| pax_size(&text)).flatten());
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => return Ok(Found::File(size_said.unwrap_or(size))),
            tar::EntryType::Directory => return Ok(Found::Folder),
            tar::EntryType::Symlink | tar::EntryType::Link => return Ok(Found::Link),
            _ => return Ok(Found::Other),
        }
    }
    Err(io::Error::other("an archive of extended headers alone"))
}

/// The size of a file of 8 GiB or more stands in the extended header: lines of `LENGTH KEY=VALUE`.
fn pax_size(text: &[u8]) -> Option<u64> {
    let lines = text.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.split_once(' ')?.1.strip_prefix("size=")).find_map(|value| value.parse().ok())
}

/// Exactly so many bytes: an end before that is an error, not an end.
struct Exactly<R> {
    from: R,
    left: u64,
}

impl<R: AsyncRead + Unpin> AsyncRead for Exactly<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Ok(()));
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(length));
        ready!(Pin::new(&mut self.from).poll_read(context, &mut part))?;
        let read = part.filled().len();
        if read == 0 && length > 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ended {} bytes early", self.left))));
        }
        buffer.advance(read);
        self.left -= read as u64;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_sandbox() {
        for good in ["/a", "/a/b.txt", "/a/..b"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a/../b", "/..", "/a\0b"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn one_entry_is_read_back_as_it_was_made() {
        for (name, size) in [("short", 5_u64), (&"long/".repeat(60)[..299], 0), ("nine-gib", 9 << 30)] {
            let bytes = head(name, 0o640, size, "1000:100").unwrap();
            assert_eq!(bytes.len() % 512, 0);
            assert_eq!(entry(&mut &bytes[..]).await.unwrap(), Found::File(size), "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_no_archive_is_an_error() {
        assert!(entry(&mut &b"no archive"[..]).await.is_err());
        assert!(entry(&mut &[0xff_u8; 1024][..]).await.is_err());
        let mut huge = tar::Header::new_ustar();
        huge.set_entry_type(tar::EntryType::XHeader);
        huge.set_size(1 << 40);
        huge.set_cksum();
        assert!(entry(&mut &huge.as_bytes()[..]).await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_an_error() {
        let mut out = Vec::new();
        assert!(Exactly { from: &b"abc"[..], left: 5 }.read_to_end(&mut out).await.is_err());
        out.clear();
        Exactly { from: &b"abcde"[..], left: 3 }.read_to_end(&mut out).await.unwrap();
        assert_eq!(out, b"abc");
    }
}
