//! Unpacks a root filesystem from a `.tar` or `.tar.gz` stream that nobody vouches for.
//!
//! Place: [`super::Images`] alone calls it, with an empty folder. Rule: each path is opened by the kernel beneath that folder without
//! passing a link (`openat2`), so no name in an archive, and no order of its entries, can write elsewhere; everything that can grow is
//! counted against [`Bounds`] while it grows. Owners are not kept: all belongs to the server's user, as engines expect it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::headers::{Extended, broken};
use crate::vm::VmError;

/// What an archive may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, folders and links, the folders that no entry names too.
    pub entries: u64,
    /// Bytes of all paths and link targets: they are kept until the archive ends.
    pub name_bytes: u64,
    /// Bytes of one path; components have the file system's own limit of 255.
    pub path_bytes: usize,
    /// Folders above an entry.
    pub depth: usize,
    /// Bytes unpacked for each byte packed, once 64 MiB were unpacked. Root filesystems have 2 to 4; deflate can do 1,032.
    pub ratio: u64,
    /// Whether set-user-id and set-group-id bits are kept.
    pub allow_setuid: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 1_000_000, name_bytes: 256 << 20, path_bytes: 4_096, depth: 128, ratio: 200, allow_setuid: false }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// SHA-256 over kinds, modes, paths, link targets and contents in the order of paths.
    pub digest: String,
    /// Bytes of files.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Devices, pipes and sockets that were left out.
    pub dropped: u64,
    /// Files that lost set-user-id or set-group-id bits.
    pub stripped: u64,
}

/// Ratios are looked at from here on: small files of zeros are no bomb.
const RATIO_FROM: u64 = 64 << 20;

/// Unpacks into `folder`, which is empty.
///
/// # Errors
/// [`VmError::Invalid`] for what an archive must not have, [`VmError::Exhausted`] for what is beyond the bounds, [`VmError::Io`] for a disk that is
/// full. What was written until then is the caller's to remove.
pub fn archive(stream: impl Read, folder: &Path, bounds: &Bounds) -> Result<Unpacked, VmError> {
    let packed = Rc::new(Cell::new(0));
    let mut stream = BufReader::with_capacity(64 << 10, Counted { inner: stream, count: Rc::clone(&packed) });
    let start = stream.fill_buf().map_err(|error| broken(&error))?;
    let root = rustix::fs::openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| write_failed(errno.into(), "the image's folder"))?;
    let mut unpacking = Unpacking {
        root,
        bounds,
        packed,
        unpacked: Rc::default(),
        tree: BTreeMap::new(),
        nodes: 0,
        name_bytes: 0,
        done: Unpacked::default(),
    };
    match start {
        [0x1f, 0x8b, ..] => unpacking.run(flate2::bufread::MultiGzDecoder::new(stream))?,
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return Err(VmError::Invalid("the archive is packed with bzip2, xz or zstd: repack it as .tar or .tar.gz".into()));
        }
        [] => return Err(VmError::Invalid("the archive is empty".into())),
        _ => unpacking.run(stream)?,
    }
    unpacking.finish()
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// What an entry came to be, for the digest and for hard links.
enum Node {
    Folder { mode: u32 },
    File { mode: u32, size: u64, hash: [u8; 32] },
    Link { target: Vec<u8> },
}

struct Unpacking<'a> {
    root: OwnedFd,
    bounds: &'a Bounds,
    /// Bytes of the packed stream so far, and of what came of them.
    packed: Rc<Cell<u64>>,
    unpacked: Rc<Cell<u64>>,
    tree: BTreeMap<String, Node>,
    /// Files, folders and links so far, those that no entry names and those replaced since too; and the bytes of their names and targets.
    nodes: u64,
    name_bytes: u64,
    done: Unpacked,
}

impl Unpacking<'_> {
    fn run(&mut self, stream: impl Read) -> Result<(), VmError> {
        // All that is unpacked counts: headers and names as much as files.
        let mut archive = tar::Archive::new(Counted { inner: stream, count: Rc::clone(&self.unpacked) });
        let mut extended = Extended::default();
        for entry in archive.entries().map_err(|error| broken(&error))?.raw(true) {
            let mut entry = entry.map_err(|error| broken(&error))?;
            self.check_ratio()?;
            if !extended.read(&mut entry)? {
                let (path, link) = extended.take(entry.header());
                self.entry(&mut entry, &path, link)?;
            }
        }
        if self.nodes == 0 {
            return Err(VmError::Invalid("the archive holds no files: it is no tar archive, or an empty one".into()));
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, raw: &[u8], link: Option<Vec<u8>>) -> Result<(), VmError> {
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode().map_err(|error| broken(&error))?);
        let Some(path) = self.path(raw)? else {
            return Ok(()); // the root itself
        };
        let file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        if !file && header.entry_size().map_err(|error| broken(&error))? > 0 {
            return Err(refused(&path, "is no file and has content"));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => self.file(&path, mode, entry),
            EntryType::Directory => self.folder(&path, mode & 0o1777),
            EntryType::Symlink => self.link(&path, link.unwrap_or_default()),
            EntryType::Link => {
                let target = link.unwrap_or_default();
                let Some(target) = self.path(&target)? else {
                    return Err(refused(&path, "is a hard link to the root"));
                };
                self.hard_link(&path, &target)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.done.dropped += 1;
                if self.done.dropped > self.bounds.entries {
                    return Err(VmError::Exhausted(format!("the archive has more than {} devices and pipes", self.bounds.entries)));
                }
                Ok(())
            }
            other => Err(refused(&path, &format!("has the unknown kind {:?}", char::from(other.as_byte())))),
        }
    }

    /// The path without `./` before it and `/` after it; none for the root. Text, relative, without `..`, within the bounds.
    fn path(&self, raw: &[u8]) -> Result<Option<String>, VmError> {
        let shown = || String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
        if raw.len() > self.bounds.path_bytes {
            return Err(VmError::Exhausted(format!(
                "the archive has a path of {} bytes, {:?}…: at most {} are taken",
                raw.len(),
                shown(),
                self.bounds.path_bytes
            )));
        }
        let text = std::str::from_utf8(raw).map_err(|_| refused(&shown(), "is no UTF-8"))?;
        if text.starts_with('/') {
            return Err(refused(&shown(), "is absolute"));
        }
        if text.contains('\0') {
            return Err(refused(&shown(), "holds a zero byte"));
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(refused(&shown(), "leads out of the archive (`..`)"));
        }
        if parts.iter().any(|part| part.len() > 255) {
            return Err(refused(&shown(), "has a name longer than 255 bytes"));
        }
        if parts.len() > self.bounds.depth {
            return Err(VmError::Exhausted(format!(
                "the archive has a path of {} folders, {:?}…: at most {} are taken",
                parts.len(),
                shown(),
                self.bounds.depth
            )));
        }
        Ok((!parts.is_empty()).then(|| parts.join("/")))
    }

    /// Opens the folder that `path` shall stand in, making what is missing, and answers the last name.
    fn parent<'p>(&mut self, path: &'p str) -> Result<(OwnedFd, &'p str), VmError> {
        let Some((folder, name)) = path.rsplit_once('/') else {
            return Ok((self.root.try_clone().map_err(|error| write_failed(error, path))?, path));
        };
        match open_below(&self.root, folder) {
            Ok(open) => Ok((open, name)),
            Err(Errno::NOENT) => {
                for (end, _) in path.match_indices('/') {
                    if !self.tree.contains_key(&path[..end]) {
                        self.folder(&path[..end], 0o755)?;
                    }
                }
                Ok((open_below(&self.root, folder).map_err(|errno| through(errno, path))?, name))
            }
            Err(errno) => Err(through(errno, path)),
        }
    }

    /// Before a node is made: each is held in memory until the end.
    fn count(&mut self, path: &str, target: &[u8]) -> Result<(), VmError> {
        self.nodes += 1;
        if self.nodes > self.bounds.entries {
            return Err(VmError::Exhausted(format!("the archive has more than {} entries", self.bounds.entries)));
        }
        self.name_bytes += (path.len() + target.len()) as u64;
        if self.name_bytes > self.bounds.name_bytes {
            return Err(VmError::Exhausted(format!("the archive's paths and links have more than {} bytes", self.bounds.name_bytes)));
        }
        Ok(())
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<(), VmError> {
        self.count(path, b"")?;
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) if matches!(self.tree.get(path), Some(Node::Folder { .. })) => {}
            Err(Errno::EXIST) => return Err(refused(path, "comes twice, once as something else than a folder")),
            other => other.map_err(|errno| write_failed(errno.into(), path))?,
        }
        self.tree.insert(path.to_owned(), Node::Folder { mode });
        Ok(())
    }

    fn file<R: Read>(&mut self, path: &str, mode: u32, content: &mut tar::Entry<'_, R>) -> Result<(), VmError> {
        let size = content.header().entry_size().map_err(|error| broken(&error))?;
        self.allow(size)?;
        self.count(path, b"")?;
        let kept = if self.bounds.allow_setuid { mode & 0o7777 } else { mode & 0o777 };
        self.done.stripped += u64::from(kept != mode & 0o7777 && mode & 0o6000 != 0);
        let (parent, name) = self.parent(path)?;
        self.make_room(&parent, name, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| write_failed(errno.into(), path))?;
        let mut file = std::fs::File::from(file);
        let (mut hash, mut buffer, mut left) = (Sha256::new(), vec![0; 64 << 10], size);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = content.read(&mut buffer[..want]).map_err(|error| broken(&error))?;
            if read == 0 {
                return Err(refused(path, "ends early: the archive was cut short"));
            }
            hash.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(|error| write_failed(error, path))?;
            left -= read as u64;
            self.done.bytes += read as u64;
            self.check_ratio()?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(kept)).map_err(|errno| write_failed(errno.into(), path))?;
        self.tree.insert(path.to_owned(), Node::File { mode: kept, size, hash: hash.finalize().into() });
        Ok(())
    }

    /// Before anything of a file is read: its header tells how large it will be.
    fn allow(&self, size: u64) -> Result<(), VmError> {
        if self.done.bytes.saturating_add(size) > self.bounds.bytes {
            return Err(VmError::Exhausted(format!("the archive holds more than {} bytes of files", self.bounds.bytes)));
        }
        Ok(())
    }

    fn check_ratio(&self) -> Result<(), VmError> {
        let unpacked = self.unpacked.get();
        if unpacked > RATIO_FROM && unpacked / self.bounds.ratio.max(1) > self.packed.get() {
            return Err(VmError::Exhausted(format!(
                "the archive unpacks to more than {} times its size: that is a bomb, not an image",
                self.bounds.ratio
            )));
        }
        Ok(())
    }

    fn link(&mut self, path: &str, target: Vec<u8>) -> Result<(), VmError> {
        if target.is_empty() || target.len() > self.bounds.path_bytes || target.contains(&0) {
            return Err(refused(path, "is a link to nothing, or to a target that is too long"));
        }
        self.count(path, &target)?;
        let (parent, name) = self.parent(path)?;
        self.make_room(&parent, name, path)?;
        rustix::fs::symlinkat(target.as_slice(), &parent, name).map_err(|errno| write_failed(errno.into(), path))?;
        self.tree.insert(path.to_owned(), Node::Link { target });
        Ok(())
    }

    /// Only to a file that this archive brought: a link to anything else would lead out of it.
    fn hard_link(&mut self, path: &str, target: &str) -> Result<(), VmError> {
        self.count(path, b"")?;
        let Some(Node::File { mode, size, hash }) = self.tree.get(target) else {
            return Err(refused(path, &format!("is a hard link to {target:?}, which is no file that stands before it")));
        };
        let node = Node::File { mode: *mode, size: *size, hash: *hash };
        if path == target {
            return Ok(());
        }
        let (from, from_name) = self.parent(target)?;
        let (parent, name) = self.parent(path)?;
        self.make_room(&parent, name, path)?;
        rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty()).map_err(|errno| write_failed(errno.into(), path))?;
        self.tree.insert(path.to_owned(), node);
        Ok(())
    }

    /// A later entry of the same path replaces an earlier one, as tar has it; a folder is never replaced.
    fn make_room(&mut self, parent: &OwnedFd, name: &str, path: &str) -> Result<(), VmError> {
        match self.tree.remove(path) {
            None => Ok(()),
            Some(Node::Folder { .. }) => Err(refused(path, "comes twice, once as a folder")),
            Some(_) => rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(|errno| write_failed(errno.into(), path)),
        }
    }

    fn finish(mut self) -> Result<Unpacked, VmError> {
        // Folders get their permissions last: one without write permission is filled before.
        for (path, node) in self.tree.iter().rev() {
            let Node::Folder { mode } = node else { continue };
            let folder = open_below(&self.root, path).map_err(|errno| through(errno, path))?;
            // The owner can always enter and write: the server deletes it one day.
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode | 0o700)).map_err(|errno| write_failed(errno.into(), path))?;
        }
        let mut hash = Sha256::new();
        for (path, node) in &self.tree {
            match node {
                Node::Folder { mode } => hash.update(format!("d {:o} 0 - {path}\0", mode | 0o700)),
                Node::File { mode, size, hash: content } => hash.update(format!("f {mode:o} {size} {} {path}\0", hex(content))),
                Node::Link { target } => {
                    hash.update(format!("l {path}\0"));
                    hash.update(target);
                    hash.update([0]);
                }
            }
        }
        self.done.digest = hex(&hash.finalize());
        self.done.entries = self.tree.len() as u64;
        rustix::fs::syncfs(&self.root).map_err(|errno| write_failed(errno.into(), "the image"))?;
        Ok(self.done)
    }
}

fn open_below(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(path: &str, why: &str) -> VmError {
    let shown: String = path.chars().take(120).collect();
    VmError::Invalid(format!("the archive's entry {shown:?} {why}"))
}

fn through(errno: Errno, path: &str) -> VmError {
    match errno {
        Errno::LOOP => refused(path, "goes through a symbolic link"),
        Errno::NOTDIR => refused(path, "goes through something that is no folder"),
        errno => write_failed(errno.into(), path),
    }
}

fn write_failed(source: io::Error, path: &str) -> VmError {
    VmError::Io { what: format!("unpacking {path:?}"), source }
}
