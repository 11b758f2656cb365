//! The files of a sandbox: the folder that becomes its root, and what of the host is seen in it.
//!
//! Place: `create` fills it, `start` checks it. Rule: after the first start its content is the sandbox's own and not to be trusted: before a
//! mount goes onto a name in it, each part of that name is made sure to be a folder, never a link. All of it belongs to the sandbox's user.
//! Images are copied ([`copy`]), not shared by an overlay: bubblewrap of Debian 12 has none, and a kernel without overlays in user
//! namespaces is served the same way.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

mod copy;

use crate::vm::VmError;
use copy::Copying;

/// Folders of the host that every program needs, and the certificates of authorities; never a key.
const HOST_FOLDERS: [&str; 5] = ["/usr", "/etc/alternatives", "/etc/ssl/certs", "/etc/pki/ca-trust", "/etc/pki/tls/certs"];
/// Names that are links to `/usr` on most systems and folders on some.
const HOST_LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Small files of the host without secrets.
const HOST_FILES: [&str; 10] = [
    "ld.so.cache",
    "ld.so.conf",
    "nsswitch.conf",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "os-release",
    "host.conf",
    "debian_version",
];

/// A folder of the host that shows read-only in the sandbox under the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostFolder(pub(super) PathBuf);

/// What of the host is to be bound, for a sandbox whose files begin as the host's own.
pub(super) fn host_folders() -> Vec<HostFolder> {
    let links = HOST_LINKS.iter().map(|name| Path::new("/").join(name));
    let plain = HOST_FOLDERS.iter().map(PathBuf::from).chain(links);
    plain.filter(|path| fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())).map(HostFolder).collect()
}

/// Fills an empty folder so that, with [`host_folders`] bound, the host's programs run in it.
pub(super) fn fill_from_host(root: &Path, user: Option<u32>) -> io::Result<()> {
    for folder in ["etc", "home", "root", "run", "tmp", "var", "var/tmp", "workspace", "proc", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o1777))?;
    }
    for name in HOST_LINKS {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, root.join(name))?;
        }
    }
    for name in HOST_FILES {
        match fs::read(Path::new("/etc").join(name)) {
            Ok(content) if content.len() < 4 << 20 => fs::write(root.join("etc").join(name), content)?,
            _ => {} // not every system has each
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    names(root)?;
    for HostFolder(path) in host_folders() {
        fs::create_dir_all(root.join(path.strip_prefix("/").unwrap_or(&path)))?;
    }
    own(root, user)
}

fn names(root: &Path) -> io::Result<()> {
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")
}

/// Copies a root filesystem (or a snapshot's) into an empty folder, and writes `budget` bytes at most. Devices, sockets and pipes are left
/// out.
///
/// # Errors
/// [`VmError::NotFound`] without it; [`VmError::Invalid`] when it nests without an end; [`VmError::Exhausted`] beyond the budget.
pub(super) fn fill_from_folder(from: &Path, root: &Path, user: Option<u32>, budget: u64) -> Result<(), VmError> {
    if !from.is_dir() {
        return Err(VmError::NotFound(format!("there is no root filesystem {}", from.display())));
    }
    Copying::new(user, budget).folder(from, root, 0)?;
    for folder in ["proc", "dev", "run", "tmp", "etc"] {
        folder_at(root, Path::new(folder), user)?;
    }
    Ok(())
}

/// Gives one entry to the sandbox's user.
fn give(path: &Path, user: Option<u32>) -> io::Result<()> {
    user.map_or(Ok(()), |user| std::os::unix::fs::lchown(path, Some(user), Some(user)))
}

/// Gives a folder that this server just filled to the sandbox's user.
fn own(folder: &Path, user: Option<u32>) -> io::Result<()> {
    if user.is_none() {
        return Ok(());
    }
    give(folder, user)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            own(&entry.path(), user)?;
        } else {
            give(&entry.path(), user)?;
        }
    }
    Ok(())
}

/// Makes sure that `below` is a folder in `root`, each part of it: what is anything else is put out of the way. Only while nothing runs in
/// it. The folder on the host.
pub(super) fn folder_at(root: &Path, below: &Path, user: Option<u32>) -> Result<PathBuf, VmError> {
    let mut path = root.to_path_buf();
    for part in below.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => continue,
            _ => return Err(VmError::Invalid(format!("{} has `..` in it", below.display()))),
        }
        let told = |source| VmError::Io { what: format!("making {}", below.display()), source };
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => continue,
            Ok(_) => fs::remove_file(&path).map_err(told)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(told(e)),
        }
        fs::create_dir(&path).and_then(|()| give(&path, user)).map_err(told)?;
    }
    Ok(path)
}

/// Makes sure that `below` is an empty regular file in `root`, for something to be bound onto.
pub(super) fn file_at(root: &Path, below: &Path, content: &[u8], user: Option<u32>) -> Result<(), VmError> {
    let told = |source| VmError::Io { what: format!("making {}", below.display()), source };
    let folder = folder_at(root, below.parent().unwrap_or(Path::new("")), user)?;
    let path = folder.join(below.file_name().unwrap_or_default());
    match fs::symlink_metadata(&path) {
        // A folder there is in the way of the sandbox alone: bubblewrap says so.
        Ok(about) if about.is_dir() => return Err(told(io::Error::from(io::ErrorKind::IsADirectory))),
        Ok(_) => fs::remove_file(&path).map_err(told)?,
        Err(_) => {}
    }
    fs::write(&path, content).and_then(|()| give(&path, user)).map_err(told)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn mount_points_are_never_links() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("run")).unwrap();
        let made = folder_at(root.path(), Path::new("/run/inner"), None).unwrap();
        assert_eq!(made, root.path().join("run/inner"));
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
        symlink(outside.path().join("file"), root.path().join("run/agent")).unwrap();
        file_at(root.path(), Path::new("run/agent"), b"x", None).unwrap();
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
        assert!(folder_at(root.path(), Path::new("../up"), None).is_err());
    }

    #[test]
    fn copies_files_and_links_as_they_are() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("bin")).unwrap();
        fs::write(from.path().join("bin/run"), "#!").unwrap();
        fs::set_permissions(from.path().join("bin/run"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/etc/shadow", from.path().join("link")).unwrap();
        fill_from_folder(from.path(), to.path(), None, 1 << 20).unwrap();
        assert_eq!(fs::metadata(to.path().join("bin/run")).unwrap().mode() & 0o7777, 0o755, "set-user-id is dropped");
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("/etc/shadow"));
        assert!(matches!(fill_from_folder(Path::new("/no/such"), to.path(), None, 1 << 20), Err(VmError::NotFound(_))));
    }
}
