//! Removing a folder that strangers filled: a sandbox's home, a half-unpacked image.
//!
//! Place: everything below a server's sandbox folder is deleted here and nowhere else. Rule: nothing outside the named folder is ever
//! touched. Links are removed, never followed; a mount below it (a bind mount of the same file system included) stops the work before
//! anything of the mounted tree is seen; a tree of any depth needs a bounded number of open files.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Folders held open at once. A folder that lies deeper is first moved up to the top: strangers make trees of a million levels.
const DEPTH: usize = 32;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files, links, sockets and such.
    pub files: u64,
    /// Folders, the named one included.
    pub folders: u64,
}

/// Removes `path` and all below it. A path that is not there is well. It blocks: call it where blocking is allowed.
///
/// # Errors
/// When something is mounted at or below `path` (nothing is removed then), or the system refuses; all else below is removed nevertheless.
pub fn remove_tree(path: &Path) -> io::Result<Removed> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (if parent.as_os_str().is_empty() { Path::new(".") } else { parent }, name),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} cannot be removed: it names no folder", path.display()))),
    };
    let parent = match parent.canonicalize() {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::default()),
        Err(error) => return Err(error),
    };
    let path = parent.join(name);
    if let Some(mounted) = mounts_below(&path)?.first() {
        return Err(mounted_at(mounted));
    }
    let name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?;
    let parent = rustix::fs::openat(CWD, &parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut removal = Removal { removed: Removed::default(), moved: 0, failed: None };
    removal.top(&parent, &name, &path);
    match removal.failed {
        None => Ok(removal.removed),
        Some(error) => Err(error),
    }
}

/// Mount points at or below `path`, which is absolute and has no links in it.
///
/// # Errors
/// When the table of mounts cannot be read.
pub fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped).filter(|point| point.starts_with(path)).collect())
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

fn mounted_at(point: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is a mount: nothing was removed there; unmount it first", point.display()))
}

struct Removal {
    removed: Removed,
    /// Folders moved to the top so far; their names there.
    moved: u64,
    failed: Option<io::Error>,
}

impl Removal {
    /// The named folder (or file) itself, until it is empty: folders from the depth appear in it while it is being emptied.
    fn top(&mut self, parent: &OwnedFd, name: &CStr, path: &Path) {
        match open_folder(parent, name) {
            Ok(folder) => loop {
                let before = self.moved;
                self.empty(&folder, &folder, 0, path);
                if self.moved == before || self.failed.is_some() {
                    break;
                }
            },
            Err(Errno::NOENT) => return,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let done = rustix::fs::unlinkat(parent, name, AtFlags::empty());
                return self.count_file(done, path);
            }
            Err(errno) => return self.fail(errno, path),
        }
        let done = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
        self.count_folder(done, path);
    }

    fn empty(&mut self, folder: &OwnedFd, top: &OwnedFd, depth: usize, path: &Path) {
        let entries = match Dir::read_from(folder) {
            Ok(entries) => entries,
            Err(errno) => return self.fail(errno, path),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => return self.fail(errno, path),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match kind_of(folder, name, entry.file_type()) {
                Ok(FileType::Directory) => self.folder(folder, name, top, depth, path),
                Ok(_) => {
                    let done = rustix::fs::unlinkat(folder, name, AtFlags::empty());
                    self.count_file(done, path);
                }
                Err(Errno::NOENT) => {}
                Err(errno) => self.fail(errno, path),
            }
        }
    }

    fn folder(&mut self, parent: &OwnedFd, name: &CStr, top: &OwnedFd, depth: usize, path: &Path) {
        if depth >= DEPTH {
            let moved = format!(".removing-{}", uuid::Uuid::new_v4());
            match rustix::fs::renameat(parent, name, top, moved.as_str()) {
                Ok(()) => self.moved += 1,
                Err(errno) => self.fail(errno, path),
            }
            return;
        }
        match open_folder(parent, name) {
            Ok(folder) => {
                self.empty(&folder, top, depth + 1, path);
                let done = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
                self.count_folder(done, path);
            }
            Err(Errno::NOENT) => {}
            Err(errno) => self.fail(errno, path),
        }
    }

    fn count_file(&mut self, done: rustix::io::Result<()>, path: &Path) {
        match done {
            Ok(()) => self.removed.files += 1,
            Err(Errno::NOENT) => {}
            Err(errno) => self.fail(errno, path),
        }
    }

    fn count_folder(&mut self, done: rustix::io::Result<()>, path: &Path) {
        match done {
            Ok(()) => self.removed.folders += 1,
            Err(Errno::NOENT) => {}
            Err(errno) => self.fail(errno, path),
        }
    }

    /// The first reason is told: later ones mostly follow from it.
    fn fail(&mut self, errno: Errno, path: &Path) {
        if self.failed.is_none() {
            self.failed = Some(match errno {
                Errno::XDEV | Errno::BUSY => mounted_at(path),
                errno => {
                    let error = io::Error::from(errno);
                    io::Error::new(error.kind(), format!("{} cannot be removed entirely: {error}", path.display()))
                }
            });
        }
    }
}

/// The kernel refuses to open it if it is a link, or if another mount begins there (a bind mount too). A folder that its owner may not
/// read is made readable: sandboxes leave such.
fn open_folder(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    let open =
        |flags| rustix::fs::openat2(parent, name, flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve);
    let readable = |folder: &OwnedFd| rustix::fs::fchmod(folder, Mode::RWXU);
    match open(OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            let handle = open(OFlags::PATH)?;
            // Through /proc: a handle opened with O_PATH takes no fchmod.
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
            rustix::fs::chmod(own.as_str(), Mode::RWXU)?;
            open(OFlags::RDONLY)
        }
        Ok(folder) => {
            // Entries of a folder without write permission could not be removed by an ordinary user.
            if let Ok(stat) = rustix::fs::fstat(&folder)
                && stat.st_mode & 0o700 != 0o700
            {
                readable(&folder)?;
            }
            Ok(folder)
        }
        other => other,
    }
}

fn kind_of(folder: &OwnedFd, name: &CStr, told: FileType) -> rustix::io::Result<FileType> {
    if told != FileType::Unknown {
        return Ok(told);
    }
    let stat = rustix::fs::statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_are_removed_and_what_they_point_at_stays() {
        let place = tempfile::tempdir().unwrap();
        let (tree, outside) = (place.path().join("tree"), place.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        symlink(&outside, tree.join("a/folder-link")).unwrap();
        symlink(outside.join("kept"), tree.join("a/file-link")).unwrap();
        symlink("..", tree.join("a/b/up")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        let removed = remove_tree(&tree).unwrap();
        assert_eq!(removed, Removed { files: 4, folders: 3 });
        assert!(!tree.exists() && outside.join("kept").exists());
        assert_eq!(remove_tree(&tree).unwrap(), Removed::default(), "what is not there is well");
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_removed_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/kept"), "x").unwrap();
        symlink("outside", place.path().join("tree")).unwrap();
        remove_tree(&place.path().join("tree")).unwrap();
        assert!(place.path().join("outside/kept").exists());
        assert!(fs::symlink_metadata(place.path().join("tree")).is_err());
    }

    #[test]
    fn a_tree_of_any_depth_goes_and_so_do_unreadable_folders() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at: OwnedFd = fs::File::open(&tree).unwrap().into();
        for level in 0..2_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::empty()).unwrap();
            if level % 500 == 0 {
                drop(rustix::fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            }
            at = rustix::fs::openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o500)).unwrap();
        let removed = remove_tree(&tree).unwrap();
        assert_eq!((removed.files, removed.folders), (4, 4_001));
        assert!(!tree.exists());
    }

    #[test]
    fn names_of_mounts_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescaped(r"/a\040b/c\134d"), PathBuf::from(r"/a b/c\d"));
        assert!(mounts_below(Path::new("/proc")).unwrap().contains(&PathBuf::from("/proc")));
        assert!(remove_tree(Path::new("/proc")).unwrap_err().to_string().contains("mount"));
        assert!(remove_tree(Path::new("/")).is_err() && remove_tree(Path::new("x/..")).is_err());
    }
}
