//! Copies the tree of a sandbox, which is not to be trusted: the copy takes no more of the disk than the tree does.
//!
//! Rule: a file of several names stays one file, a hole stays a hole, and what is written is counted against a budget before it is written.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::give;
use crate::vm::VmError;

/// Deeper folders are no root filesystem.
const MAX_DEPTH: usize = 128;
/// What an entry takes at least, as the disk limit counts it: names alone fill a disk too.
const BLOCK: u64 = 4096;

/// A copy under way.
pub(super) struct Copying {
    user: Option<u32>,
    budget: u64,
    spent: u64,
    /// Files of several names, by device and inode: the first name in the new tree.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copying {
    pub(super) fn new(user: Option<u32>, budget: u64) -> Self {
        Self { user, budget, spent: 0, linked: HashMap::new() }
    }

    /// Fills `to`, which is empty, with what is in `from`.
    pub(super) fn folder(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), VmError> {
        let told = |what: &Path, source| VmError::Io { what: format!("copying {}", what.display()), source };
        if depth > MAX_DEPTH {
            return Err(VmError::Invalid(format!("{} has folders nested deeper than {MAX_DEPTH}", from.display())));
        }
        for entry in fs::read_dir(from).map_err(|e| told(from, e))? {
            let path = entry.map_err(|e| told(from, e))?.path();
            let about = fs::symlink_metadata(&path).map_err(|e| told(&path, e))?;
            let kind = about.file_type();
            let target = to.join(path.file_name().unwrap_or_default());
            let done = if kind.is_dir() {
                self.spend(BLOCK)?;
                fs::create_dir(&target).map_err(|e| told(&target, e))?;
                self.folder(&path, &target, depth + 1)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(about.mode() & 0o1777 | 0o700))
            } else if kind.is_symlink() {
                self.spend(BLOCK)?;
                fs::read_link(&path).and_then(|link| symlink(link, &target))
            } else if kind.is_file() {
                if self.again(&about, &target).map_err(|e| told(&path, e))? {
                    continue;
                }
                self.file(&path, &target)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(about.mode() & 0o777))
            } else {
                debug_assert!(kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket());
                continue;
            };
            done.and_then(|()| give(&target, self.user)).map_err(|e| told(&path, e))?;
        }
        Ok(())
    }

    /// Whether the file was copied under another name: then it has this one too.
    fn again(&mut self, about: &fs::Metadata, target: &Path) -> io::Result<bool> {
        if about.nlink() < 2 {
            return Ok(false);
        }
        let first = self.linked.entry((about.dev(), about.ino())).or_insert_with(|| target.to_owned());
        if first == target {
            return Ok(false);
        }
        match fs::hard_link(&*first, target) {
            Ok(()) => Ok(true),
            // This file system has fewer names for a file than that one: copied once more, and linked to that from now on.
            Err(error) if error.raw_os_error() == Some(Errno::MLINK.raw_os_error()) => {
                target.clone_into(first);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Its content, range by range of what is no hole. Blocks are shared where the file system can (`io::copy` asks the kernel to).
    fn file(&mut self, path: &Path, target: &Path) -> Result<(), VmError> {
        let told = |source| VmError::Io { what: format!("copying {}", path.display()), source };
        let nothing_else = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut from = OpenOptions::new().read(true).custom_flags(nothing_else).open(path).map_err(told)?;
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(told)?;
        let size = from.metadata().map_err(told)?.len();
        let mut at = 0;
        let mut written = 0;
        while let Some((data, end)) = next_data(&from, at, size).map_err(told)? {
            self.spend(end - data)?;
            from.seek(SeekFrom::Start(data)).map_err(told)?;
            to.seek(SeekFrom::Start(data)).map_err(told)?;
            io::copy(&mut (&from).take(end - data), &mut to).map_err(told)?;
            written += end - data;
            at = end;
        }
        self.spend(BLOCK.saturating_sub(written))?;
        // A hole at the end.
        to.set_len(size).map_err(told)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), VmError> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.budget {
            return Err(VmError::Exhausted(format!(
                "the files to be copied take more than {} bytes, which is what the sandbox began with and its disk limit",
                self.budget
            )));
        }
        Ok(())
    }
}

/// The next range that is no hole, from `at` on. A file system that knows no holes says that all is data.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(data))?;
    // A file that changes meanwhile is copied as far as it was at the beginning.
    Ok((data < size && end > data).then(|| (data, end.min(size))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(from: &Path, budget: u64) -> Result<tempfile::TempDir, VmError> {
        let to = tempfile::tempdir().unwrap();
        Copying::new(None, budget).folder(from, to.path(), 0).map(|()| to)
    }

    #[test]
    fn a_file_of_many_names_is_copied_once() {
        let from = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("one"), vec![1; 100_000]).unwrap();
        for n in 0..50 {
            fs::hard_link(from.path().join("one"), from.path().join(format!("d/{n}"))).unwrap();
        }
        let to = copied(from.path(), 110_000).unwrap();
        let about = |name: &str| fs::metadata(to.path().join(name)).unwrap();
        assert_eq!((about("one").nlink(), about("one").ino()), (51, about("d/7").ino()));
        assert_ne!(about("one").ino(), fs::metadata(from.path().join("one")).unwrap().ino(), "the copy is nobody else's file");
        assert_eq!(fs::read(to.path().join("d/49")).unwrap(), vec![1; 100_000]);
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::FileExt;
        let from = tempfile::tempdir().unwrap();
        let file = File::create(from.path().join("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 5 << 30).unwrap();
        File::create(from.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let to = copied(from.path(), 1 << 20).unwrap();
        let copy = File::open(to.path().join("sparse")).unwrap();
        let (mut begin, mut middle) = ([0; 5], [0; 6]);
        copy.read_exact_at(&mut begin, 0).unwrap();
        copy.read_exact_at(&mut middle, 5 << 30).unwrap();
        assert_eq!((&begin, &middle, copy.metadata().unwrap().len()), (b"begin", b"middle", 1 << 40));
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(fs::metadata(to.path().join("hole")).unwrap().len(), 1 << 30);
    }

    #[test]
    fn a_copy_beyond_its_budget_ends() {
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join("large"), vec![1; 100_000]).unwrap();
        assert!(matches!(copied(from.path(), 99_999), Err(VmError::Exhausted(_))));
        fs::remove_file(from.path().join("large")).unwrap();
        for n in 0..50 {
            fs::write(from.path().join(format!("{n}")), "").unwrap();
        }
        assert!(matches!(copied(from.path(), 100_000), Err(VmError::Exhausted(_))), "names without content too");
        copied(from.path(), 50 * BLOCK).unwrap();
    }
}
