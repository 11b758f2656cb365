//! Files in and out. Paths are those of the sandbox: resolved below its root, whatever links say.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicU64, Ordering};

use auralink_guest::Kind;
use auralink_guest::message::{Entry, ErrorCode, MAX_PATH, Reply};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::connection::{Next, Port, Refusal};

/// Bytes between two syncs to disk, so that the last one is short and others are not kept waiting.
const SYNC_EVERY: u64 = 8 << 20;

/// Most entries that a folder is read for before it is sorted and cut: 100,000 of them are some 30 MB.
const MAX_ENTRIES: usize = 100_000;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A file that is being written, beside its place.
pub struct Upload {
    folder: OwnedFd,
    name: String,
    part: String,
    file: OwnedFd,
    path: String,
    mode: Mode,
    size: u64,
    written: u64,
    synced: u64,
}

impl Upload {
    /// Makes missing folders and the temporary file.
    pub fn begin(path: &str, mode: u32, size: u64) -> Result<Self, Refusal> {
        let (parents, name) = split(path)?;
        let name = name.ok_or_else(|| Refusal(ErrorCode::Invalid, format!("{path:?} names no file")))?;
        let refuse = |error: Errno| Refusal::of(format_args!("cannot write {path}"), &error.into());
        let folder = make_folders(&parents).map_err(refuse)?;
        match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => return Err(refuse(Errno::ISDIR)),
            _ => {}
        }
        let part = format!(".auralink-{}-{}.part", rustix::process::getpid().as_raw_nonzero(), COUNT.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&folder, &part, flags, Mode::from_raw_mode(0o600)).map_err(refuse)?;
        Ok(Self { folder, name, part, file, path: path.to_owned(), mode: Mode::from_raw_mode(mode & 0o7777), size, written: 0, synced: 0 })
    }

    /// Takes content; puts the file into its place when it is whole.
    pub fn content(&mut self, bytes: &[u8], port: &mut Port<'_>) -> Next {
        match self.take(bytes) {
            Ok(false) => {
                port.passed_on(bytes.len());
                Next::Stays
            }
            Ok(true) => {
                port.reply(&Reply::Done);
                Next::Over
            }
            Err(Refusal(code, message)) => {
                port.reply(&Reply::Error { code, message });
                Next::Over
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        if bytes.len() as u64 > self.size - self.written {
            return Err(Refusal(ErrorCode::Invalid, format!("more than the {} bytes that were announced for {}", self.size, self.path)));
        }
        self.store(bytes).map_err(|error| Refusal::of(format_args!("cannot write {}", self.path), &error.into()))
    }

    fn store(&mut self, mut bytes: &[u8]) -> Result<bool, Errno> {
        while !bytes.is_empty() {
            let length = rustix::io::retry_on_intr(|| rustix::io::write(&self.file, bytes))?;
            bytes = &bytes[length..];
            self.written += length as u64;
        }
        if self.written - self.synced >= SYNC_EVERY {
            rustix::fs::fdatasync(&self.file)?;
            self.synced = self.written;
        }
        if self.written < self.size {
            return Ok(false);
        }
        rustix::fs::fchmod(&self.file, self.mode)?;
        rustix::fs::fsync(&self.file)?;
        rustix::fs::renameat(&self.folder, &self.part, &self.folder, &self.name)?;
        self.part.clear();
        let _ = rustix::fs::fsync(&self.folder);
        Ok(true)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.part.is_empty() {
            let _ = rustix::fs::unlinkat(&self.folder, &self.part, AtFlags::empty());
        }
    }
}

/// Content that is being sent.
pub struct Download {
    from: From,
    size: u64,
    mode: u32,
}

enum From {
    File(OwnedFd),
    Memory { bytes: Vec<u8>, sent: usize },
}

impl Download {
    /// A regular file. Devices and pipes are refused: reading one may never end.
    pub fn file(path: &str) -> Result<Self, Refusal> {
        let refuse = |error: Errno| Refusal::of(format_args!("cannot read {path}"), &error.into());
        check(path)?;
        // Non-blocking, since opening a pipe would wait for its writer.
        let file = open_below_root(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY).map_err(refuse)?;
        let found = rustix::fs::fstat(&file).map_err(refuse)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(refuse(Errno::ISDIR)),
            _ => return Err(Refusal(ErrorCode::Invalid, format!("{path} is no regular file"))),
        }
        Ok(Self { from: From::File(file), size: u64::try_from(found.st_size).unwrap_or_default(), mode: found.st_mode & 0o7777 })
    }

    /// The entries of a folder, by name.
    pub fn listing(path: &str, limit: usize) -> Result<Self, Refusal> {
        let refuse = |error: Errno| Refusal::of(format_args!("cannot list {path}"), &error.into());
        check(path)?;
        let folder = open_below_root(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC).map_err(refuse)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(refuse)? {
            let entry = entry.map_err(refuse)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
            if names.len() > MAX_ENTRIES {
                return Err(Refusal(ErrorCode::Exhausted, format!("{path} has more than {MAX_ENTRIES} entries")));
            }
        }
        names.sort_unstable();
        names.truncate(limit);
        let entries: Vec<Entry> = names.iter().filter_map(|name| entry(&folder, name)).collect();
        let bytes = serde_json::to_vec(&entries).unwrap_or_default();
        Ok(Self { size: bytes.len() as u64, mode: 0, from: From::Memory { bytes, sent: 0 } })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// Sends one chunk, so that others have their turn.
    pub fn go_on(&mut self, port: &mut Port<'_>) -> Next {
        let room = port.room();
        if room == 0 {
            return Next::Stays;
        }
        let mut buffer = [0; auralink_guest::frame::CHUNK];
        let read = match &mut self.from {
            From::File(file) => rustix::io::retry_on_intr(|| rustix::io::read(&*file, &mut buffer[..room])),
            From::Memory { bytes, sent } => {
                let length = room.min(bytes.len() - *sent);
                buffer[..length].copy_from_slice(&bytes[*sent..*sent + length]);
                *sent += length;
                Ok(length)
            }
        };
        match read {
            Ok(0) => {
                port.reply(&Reply::Done);
                Next::Over
            }
            Ok(length) => {
                port.content(Kind::Data, &buffer[..length]);
                Next::Stays
            }
            Err(error) => {
                let Refusal(code, message) = Refusal::of("cannot read on", &error.into());
                port.reply(&Reply::Error { code, message });
                Next::Over
            }
        }
    }
}

fn entry(folder: &OwnedFd, name: &std::ffi::CStr) -> Option<Entry> {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "folder",
        FileType::Symlink => "link",
        _ => "other",
    };
    let size = if kind == "file" { u64::try_from(found.st_size).unwrap_or_default() } else { 0 };
    Some(Entry { name: name.to_string_lossy().into_owned(), kind: kind.into(), size, mode: found.st_mode & 0o7777 })
}

fn check(path: &str) -> Result<(), Refusal> {
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return Err(Refusal(ErrorCode::Invalid, format!("a path has 1 to {MAX_PATH} bytes and no zero byte; this one has {}", path.len())));
    }
    Ok(())
}

/// The folders of a path and its last name. `..` goes up, at most to the root.
fn split(path: &str) -> Result<(Vec<String>, Option<String>), Refusal> {
    check(path)?;
    let mut parts: Vec<String> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let name = if path.ends_with('/') { None } else { parts.pop() };
    Ok((parts, name))
}

fn open_below_root(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
        // Where the kernel has no openat2 (gVisor), the sandbox's own root is the boundary all the same.
        Err(Errno::NOSYS) => rustix::fs::openat(&root, path.trim_start_matches('/'), flags, Mode::empty()),
        other => other,
    }
}

fn make_folders(parts: &[String]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut path = String::from("/");
    let mut folder = open_below_root(&path, flags)?;
    for part in parts {
        path.push_str(part);
        folder = match open_below_root(&path, flags) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                open_below_root(&path, flags)?
            }
            other => other?,
        };
        path.push('/');
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_never_go_above_the_root() {
        let parts = |path| split(path).unwrap();
        assert_eq!(parts("/a/b/c"), (vec!["a".into(), "b".into()], Some("c".into())));
        assert_eq!(parts("../../etc/passwd"), (vec!["etc".into()], Some("passwd".into())));
        assert_eq!(parts("a/"), (vec!["a".into()], None));
        assert_eq!(parts("/"), (vec![], None));
        assert!(split("").is_err() && split("a\0b").is_err() && split(&"x".repeat(5000)).is_err());
    }
}
