//! Packs a folder into a tar stream: files, folders, symbolic and hard links; nothing is followed, nothing of another mount is entered.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Folders above an entry; the importer has the same bound.
const DEPTH: usize = 128;

/// Writes `folder` as a tar archive, paths relative to it, in the order of names: the same tree makes the same bytes. Devices, pipes and
/// sockets are left out.
///
/// # Errors
/// When something cannot be read, changes while it is read, or lies deeper than 128 folders.
pub fn folder(folder: &Path, out: impl Write) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    let device = folder.metadata()?.dev();
    let mut packing = Packing { out: tar::Builder::new(io::BufWriter::with_capacity(64 << 10, out)), device, linked: HashMap::new() };
    packing.folder(&folder, Path::new(""), 0)?;
    packing.out.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.flush()
}

struct Packing<W: Write> {
    out: tar::Builder<W>,
    device: u64,
    /// Files of several names, by inode: the name that came first.
    linked: HashMap<u64, std::path::PathBuf>,
}

impl<W: Write> Packing<W> {
    fn folder(&mut self, host: &Path, inner: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other(format!("{} lies deeper than {DEPTH} folders", host.display())));
        }
        let mut names = std::fs::read_dir(host)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            let (host, inner) = (host.join(&name), inner.join(&name));
            let about = host.symlink_metadata()?;
            if about.is_dir() && about.dev() == self.device {
                let mut header = header(&about, tar::EntryType::Directory, 0);
                self.out.append_data(&mut header, &inner, io::empty())?;
                self.folder(&host, &inner, depth + 1)?;
            } else if about.is_symlink() {
                let mut header = header(&about, tar::EntryType::Symlink, 0);
                self.out.append_link(&mut header, &inner, std::fs::read_link(&host)?)?;
            } else if about.is_file() {
                self.file(&host, &inner, &about)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, host: &Path, inner: &Path, about: &Metadata) -> io::Result<()> {
        if about.nlink() > 1 {
            if let Some(first) = self.linked.get(&about.ino()) {
                let mut header = header(about, tar::EntryType::Link, 0);
                return self.out.append_link(&mut header, inner, first);
            }
            self.linked.insert(about.ino(), inner.to_owned());
        }
        let file = std::fs::File::from(rustix::fs::open(
            host,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?);
        let mut header = header(about, tar::EntryType::Regular, about.len());
        self.out.append_data(&mut header, inner, Exactly { inner: file, left: about.len() })
    }
}

fn header(about: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(about.mode() & 0o7777);
    header.set_size(size);
    header.set_mtime(u64::try_from(about.mtime()).unwrap_or(0));
    header
}

/// Reads exactly as many bytes as the header promised: a file that grows is cut, one that shrinks is an error.
pub struct Exactly<R> {
    /// Where they come from.
    pub inner: R,
    /// How many are still to come.
    pub left: u64,
}

impl<R: io::Read> io::Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
