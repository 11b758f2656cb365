//! Many files at once: a tar stream in, a tar stream out. No program in the sandbox takes part: files pass through the engine one by one.

use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::super::bridge::Bridge;
use super::super::image::headers::{Extended, broken};
use super::super::image::pack::Exactly;
use super::super::{FileKind, VmError};
use super::{Sandboxes, check};
use crate::tenant::Tenant;

/// Files of one archive.
const MOST_FILES: u64 = 100_000;
/// Folders above a file.
const DEPTH: usize = 64;
/// Entries of one folder.
const FOLDER_ENTRIES: usize = 10_000;
/// Bytes of a message between the archive's reader and the engine.
const PIECE: usize = 64 << 10;

/// What was uploaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Links, devices and empty folders, which are not written.
    pub skipped: u64,
}

/// A file of the archive, as its reader hands it on.
struct Incoming {
    path: String,
    mode: u32,
    size: u64,
    content: mpsc::Receiver<io::Result<Bytes>>,
}

impl Sandboxes {
    /// Writes the files of a `.tar` stream below `folder`. Names with `..` and absolute names are refused, links and devices skipped and counted.
    /// What was written before an error stays.
    ///
    /// # Errors
    /// [`VmError::Invalid`] for a bad archive, or one that stops coming; [`VmError::Exhausted`] with too many under way; and as
    /// [`Sandboxes::write_file`].
    pub async fn upload(
        &self,
        tenant: &Tenant,
        id: &str,
        folder: &str,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Uploaded, VmError> {
        check::path(folder)?;
        self.inner.entry(tenant, id)?;
        let place = self.inner.places.take(tenant)?;
        let (files, mut incoming) = mpsc::channel::<Incoming>(1);
        let base = folder.trim_end_matches('/').to_owned();
        let bridge = Bridge::new(archive, self.inner.config.archive_stall);
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            read_archive(bridge, &base, &files)
        });
        let mut uploaded = Uploaded::default();
        let mut failed = None;
        while let Some(file) = incoming.recv().await {
            let stream =
                futures_util::stream::unfold(file.content, |mut content| async move { content.recv().await.map(|piece| (piece, content)) });
            let mut content = StreamReader::new(Box::pin(stream));
            match self.write_file(tenant, id, &file.path, file.mode, file.size, &mut content).await {
                Ok(()) => {
                    uploaded.files += 1;
                    uploaded.bytes += file.size;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(incoming);
        let read = reading.await.map_err(|failed| VmError::Io { what: "reading the archive".into(), source: io::Error::other(failed) })?;
        match (read, failed) {
            // The archive's own fault explains a file that ended early.
            (Err(error), _) | (Ok(_), Some(error)) => Err(error),
            (Ok(skipped), None) => Ok(Uploaded { skipped, ..uploaded }),
        }
    }

    /// Writes the files below `folder` as a `.tar` stream, names relative to it. Links and devices are left out.
    ///
    /// # Errors
    /// As [`Sandboxes::read_file`]; [`VmError::Exhausted`] beyond 100,000 files, 10,000 entries of a folder, or 64 levels, and with too many archives
    /// under way; [`VmError::Io`] when the receiver takes nothing for 30 s.
    pub async fn download(
        &self,
        tenant: &Tenant,
        id: &str,
        folder: &str,
        out: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), VmError> {
        check::path(folder)?;
        // Looked at before the stream begins: a missing folder is an error, not a short archive.
        self.list_folder(tenant, id, folder, 1).await?;
        let (service, tenant, id, folder) = (self.clone(), tenant.clone(), id.to_owned(), folder.trim_end_matches('/').to_owned());
        let runtime = tokio::runtime::Handle::current();
        let place = self.inner.places.take(&tenant)?;
        let packing = tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut builder = tar::Builder::new(Bridge::new(out, service.inner.config.archive_stall));
            let mut packing = Packing { service: &service, tenant: &tenant, id: &id, runtime: &runtime, files: 0 };
            packing.folder(&mut builder, &folder, Path::new(""), 0)?;
            let mut out = builder.into_inner().map_err(|error| sending(&error))?;
            out.shutdown().map_err(|error| sending(&error))
        });
        packing.await.map_err(|failed| VmError::Io { what: "packing the folder".into(), source: io::Error::other(failed) })?
    }
}

fn sending(error: &io::Error) -> VmError {
    VmError::Io { what: "sending the archive".into(), source: io::Error::new(error.kind(), error.to_string()) }
}

fn read_archive(archive: impl Read, base: &str, files: &mpsc::Sender<Incoming>) -> Result<u64, VmError> {
    let mut archive = tar::Archive::new(archive);
    let (mut skipped, mut count, mut extended) = (0, 0, Extended::default());
    for entry in archive.entries().map_err(|error| broken(&error))?.raw(true) {
        let mut entry = entry.map_err(|error| broken(&error))?;
        if extended.read(&mut entry)? {
            continue;
        }
        count += 1;
        if count > MOST_FILES {
            return Err(VmError::Exhausted(format!("the archive has more than {MOST_FILES} entries")));
        }
        let header = entry.header();
        let (name, _) = extended.take(header);
        if !matches!(header.entry_type(), tar::EntryType::Regular | tar::EntryType::Continuous) {
            skipped += u64::from(header.entry_type() != tar::EntryType::Directory);
            continue;
        }
        let mode = header.mode().map_err(|error| broken(&error))?;
        let path = inner_path(base, &name)?;
        let size = entry.size();
        let (pieces, content) = mpsc::channel(4);
        if files.blocking_send(Incoming { path, mode, size, content }).is_err() {
            return Ok(skipped); // the writer failed and says why
        }
        if !hand_on(&mut entry, &pieces) {
            return Ok(skipped);
        }
    }
    Ok(skipped)
}

/// Whether the receiver took all of it.
fn hand_on(content: &mut impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) -> bool {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match content.read(&mut piece) {
            Ok(0) => return true,
            Ok(read) => read,
            Err(error) => {
                let _ = pieces.blocking_send(Err(error));
                return false;
            }
        };
        piece.truncate(read);
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            // The engine has its `size` bytes, or failed: then the next file finds no receiver.
            return true;
        }
    }
}

fn inner_path(base: &str, raw: &[u8]) -> Result<String, VmError> {
    let shown = || String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
    let text = std::str::from_utf8(raw).map_err(|_| VmError::Invalid(format!("the archive's name {:?} is no UTF-8", shown())))?;
    if text.starts_with('/') {
        return Err(VmError::Invalid(format!("the archive's name {:?} is absolute", shown())));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.len() > DEPTH {
        return Err(VmError::Invalid(format!("the archive's name {:?} has {} parts: 1 to {DEPTH} are taken", shown(), parts.len())));
    }
    let path = format!("{base}/{}", parts.join("/"));
    check::path(&path)?;
    Ok(path)
}

struct Packing<'a> {
    service: &'a Sandboxes,
    tenant: &'a Tenant,
    id: &'a str,
    runtime: &'a tokio::runtime::Handle,
    files: u64,
}

impl Packing<'_> {
    fn folder<W: io::Write>(&mut self, builder: &mut tar::Builder<W>, folder: &str, inner: &Path, depth: usize) -> Result<(), VmError> {
        if depth > DEPTH {
            return Err(VmError::Exhausted(format!("{folder} lies deeper than {DEPTH} folders")));
        }
        let shown = if folder.is_empty() { "/" } else { folder };
        let entries = self.runtime.block_on(self.service.list_folder(self.tenant, self.id, shown, FOLDER_ENTRIES))?;
        if entries.len() >= FOLDER_ENTRIES {
            return Err(VmError::Exhausted(format!("{shown} has {FOLDER_ENTRIES} entries or more")));
        }
        for entry in entries {
            // A name comes from the sandbox: an agent that lies must not lead out of the archive.
            if entry.name.is_empty() || entry.name.contains('/') || entry.name == "." || entry.name == ".." {
                return Err(VmError::Invalid(format!("{shown} holds an entry without a proper name")));
            }
            let (path, inner) = (format!("{folder}/{}", entry.name), inner.join(&entry.name));
            match entry.kind {
                FileKind::Folder => {
                    let mut header = header(tar::EntryType::Directory, entry.mode, 0);
                    builder.append_data(&mut header, &inner, io::empty()).map_err(|error| sending(&error))?;
                    self.folder(builder, &path, &inner, depth + 1)?;
                }
                FileKind::File => self.file(builder, &path, &inner, entry.mode)?,
                FileKind::Link | FileKind::Other => {}
            }
        }
        Ok(())
    }

    fn file<W: io::Write>(&mut self, builder: &mut tar::Builder<W>, path: &str, inner: &Path, mode: u32) -> Result<(), VmError> {
        self.files += 1;
        if self.files > MOST_FILES {
            return Err(VmError::Exhausted(format!("there are more than {MOST_FILES} files")));
        }
        let (size, content) = match self.runtime.block_on(self.service.read_file(self.tenant, self.id, path)) {
            Ok(open) => open,
            Err(VmError::NotFound(_)) => return Ok(()), // deleted since it was listed
            Err(error) => return Err(error),
        };
        let mut header = header(tar::EntryType::Regular, mode, size);
        let content = Exactly { inner: Bridge::new(content, self.service.inner.config.archive_stall), left: size };
        builder.append_data(&mut header, inner, content).map_err(|error| sending(&error))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o777);
    header.set_size(size);
    header
}
