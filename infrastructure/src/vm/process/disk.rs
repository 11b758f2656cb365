//! The disk limit of a sandbox.
//!
//! Place: the engine keeps one [`Watch`] for each running sandbox. Rule: what a sandbox writes lies on the server's own disk, so that it stays
//! when the sandbox stops, does not count as its memory, and needs neither loop devices nor a file system with quotas, which
//! rootless servers and containers seldom have. The price: the limit is held by looking, not by the kernel. A single file can never
//! grow beyond it (`RLIMIT_FSIZE`, held by the kernel); the whole is measured several times a second, deleted files that are
//! still open included, and who is above the limit and still growing has all its programs killed and told why. Between two looks a
//! program writes what the disk takes; keep as much of it free as the disk writes in a second.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

/// How long between two looks, when a look takes no time.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);
/// A tree deeper than this is made by nobody but to hide something: it counts as more than any limit.
const MAX_DEPTH: usize = 256;

/// What is known of one sandbox's disk.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Bytes at the last look, without what it began with.
    pub(super) used: AtomicU64,
    /// How often its programs were killed for it.
    pub(super) kills: AtomicU64,
}

impl Watch {
    /// Notes a look; whether its programs must be killed: above the limit, and more than last time (so that whoever deletes may).
    pub(super) fn look(&self, bytes: u64, limit: u64) -> bool {
        let before = self.used.swap(bytes, Ordering::Relaxed);
        // One that hides how much there is always counts as growing.
        let over = bytes > limit && (bytes > before || bytes == u64::MAX);
        if over {
            self.kills.fetch_add(1, Ordering::Relaxed);
        }
        over
    }
}

/// What may lie above a limit before nothing more is begun: a burst between two looks, and never the whole disk by many of them.
const EXCESS: u64 = 1 << 30;

impl Watch {
    /// Whether so much more fits below the limit.
    ///
    /// # Errors
    /// The sentence for who asks.
    pub(super) fn has_room(&self, more: u64, limit: u64) -> Result<(), String> {
        let used = self.used.load(Ordering::Relaxed);
        if used.saturating_add(more) <= limit {
            return Ok(());
        }
        Err(format!("the sandbox has written {used} of {limit} bytes, and {more} more are to come: delete files in it, or give it more"))
    }

    /// Whether it is so far above the limit that nothing more is begun in it.
    pub(super) fn is_far_over(&self, limit: u64) -> bool {
        self.used.load(Ordering::Relaxed) > limit.saturating_add(EXCESS.max(limit / 4))
    }
}

/// Bytes that a tree takes on its disk. Links are not followed, other file systems not entered. Every entry counts as a block at least, so
/// that millions of empty files are seen too. Blocks.
pub(super) fn bytes_of(folder: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top: OwnedFd = rustix::fs::open(folder, flags, Mode::empty())?;
    let device = rustix::fs::fstat(&top)?.st_dev;
    let mut total = 0_u64;
    let mut path = vec![Dir::new(top)?];
    while let Some(dir) = path.last_mut() {
        let Some(entry) = dir.next() else {
            path.pop();
            continue;
        };
        // Whatever goes wrong with one entry: it changed meanwhile, and the next look sees it.
        let Ok(entry) = entry else { continue };
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let at = dir.fd()?;
        let Ok(about) = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let blocks = u64::try_from(about.st_blocks).unwrap_or(0) * 512;
        // Each of a file's names carries its part.
        total = total.saturating_add((blocks / u64::from(u32::try_from(about.st_nlink).unwrap_or(1).max(1))).max(4096));
        if FileType::from_raw_mode(about.st_mode) == FileType::Directory && about.st_dev == device {
            if path.len() >= MAX_DEPTH {
                return Ok(u64::MAX);
            }
            let below = rustix::fs::openat(path.last().map(Dir::fd).ok_or(io::ErrorKind::NotFound)??, name, flags, Mode::empty());
            if let Some(below) = below.ok().and_then(|fd| Dir::new(fd).ok()) {
                path.push(below);
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_blocks_and_follows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("a"), vec![1; 100_000]).unwrap();
        std::fs::create_dir_all(path.join("b/c")).unwrap();
        std::os::unix::fs::symlink("/usr", path.join("b/usr")).unwrap();
        std::os::unix::fs::symlink("..", path.join("b/up")).unwrap();
        let bytes = bytes_of(path).unwrap();
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_bottomless_tree_is_over_every_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut path = folder.path().to_path_buf();
        for _ in 0..300 {
            path.push("d");
        }
        std::fs::create_dir_all(&path).unwrap();
        assert_eq!(bytes_of(folder.path()).unwrap(), u64::MAX);
    }

    #[test]
    fn who_deletes_is_left_alone() {
        let watch = Watch::default();
        assert!(!watch.look(50, 100));
        assert!(watch.look(150, 100));
        assert!(!watch.look(150, 100));
        assert!(!watch.look(120, 100));
        assert!(watch.look(130, 100));
        assert!(watch.look(u64::MAX, 100) && watch.look(u64::MAX, 100), "who hides is never left alone");
        assert!(watch.is_far_over(100) && watch.has_room(1, 100).is_err());
        watch.look(60, 100);
        assert!(!watch.is_far_over(100) && watch.has_room(40, 100).is_ok() && watch.has_room(41, 100).is_err());
        assert_eq!(watch.kills.load(Ordering::Relaxed), 4);
    }
}
