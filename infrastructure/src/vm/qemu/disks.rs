//! Disk images, made without mounting anything.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::vm::VmError;

/// In errors: the engines of microVMs share this.
const ENGINE: &str = "microvm";

/// Beside the files themselves: inodes, directories, slack.
const ROOM: u64 = 32 << 20;

/// Most files of an image.
const MAX_FILES: u64 = 2_000_000;

/// Whether the tools are there.
pub async fn check() -> Result<(), VmError> {
    run(Command::new("mkfs.ext4").arg("-V"), "mkfs.ext4 (apt-get install e2fsprogs)").await
}

/// A read-only disk with the files of a root filesystem's folder.
pub async fn from_root(root: &Path, image: &Path) -> Result<(), VmError> {
    if !root.is_dir() {
        return Err(VmError::NotFound(format!("there is no folder {} to make a disk of", root.display())));
    }
    let (folder, found) = (root.to_owned(), tokio::task::spawn_blocking);
    let (bytes, files) = found(move || size_of(&folder)).await.map_err(|e| VmError::Engine { engine: ENGINE, reason: e.to_string() })??;
    let size = bytes + bytes / 8 + files * 512 + ROOM;
    allocate(image, size)?;
    let inodes = (files + 1024).to_string();
    run(
        Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-N", &inodes, "-d"]).arg(root).arg(image),
        "mkfs.ext4 (apt-get install e2fsprogs)",
    )
    .await
}

/// The disk of a folder that never changes: made once, kept beside it, read by every machine that wants it.
pub async fn kept(folder: &Path) -> Result<PathBuf, VmError> {
    let wrong = || VmError::Invalid(format!("{} cannot be made a disk of", folder.display()));
    let (parent, name) = (folder.parent().ok_or_else(wrong)?, folder.file_name().and_then(|name| name.to_str()).ok_or_else(wrong)?);
    let image = parent.join(format!("{name}.ext4"));
    if image.is_file() {
        return Ok(image);
    }
    // Two may make it at once: each beside its place, and both are the same.
    let part = parent.join(format!(".{name}.{}.part", uuid::Uuid::new_v4()));
    let made = from_root(folder, &part).await;
    // Also a machine that runs as another user reads it; nobody writes to it.
    let open = std::fs::Permissions::from_mode(0o444);
    let made =
        made.and_then(|()| std::fs::set_permissions(&part, open).map_err(|source| VmError::Io { what: "keeping a disk".into(), source }));
    let moved = made.and_then(|()| std::fs::rename(&part, &image).map_err(|source| VmError::Io { what: "keeping a disk".into(), source }));
    if moved.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    moved.map(|()| image)
}

/// An empty disk of this size; it takes room only as it is written to.
pub async fn empty(image: &Path, size: u64) -> Result<(), VmError> {
    allocate(image, size.max(8 << 20))?;
    run(
        Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"]).arg(image),
        "mkfs.ext4 (apt-get install e2fsprogs)",
    )
    .await
}

/// Copies a file; holes stay holes, and where the file system can it shares the blocks.
pub async fn copy(from: &Path, to: &Path) -> Result<(), VmError> {
    if !from.is_file() {
        return Err(VmError::NotFound(format!("the snapshot has no {}", from.display())));
    }
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto", "--"]).arg(from).arg(to), "cp").await
}

/// Removes the files that this engine makes; there are no folders among them.
pub fn remove(home: &Path) -> Result<(), VmError> {
    let entries = match std::fs::read_dir(home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(VmError::Io { what: format!("reading {}", home.display()), source }),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|source| VmError::Io { what: format!("removing {}", path.display()), source })?;
        }
    }
    Ok(())
}

fn allocate(image: &Path, size: u64) -> Result<(), VmError> {
    let make = || {
        let file = std::fs::File::create(image)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.set_len(size.next_multiple_of(1 << 20))
    };
    make().map_err(|source| VmError::Io { what: format!("making {}", image.display()), source })
}

/// Bytes and number of the files below a folder, on its own file system, links not followed.
fn size_of(folder: &Path) -> Result<(u64, u64), VmError> {
    let failed = |path: &Path, source| VmError::Io { what: format!("reading {}", path.display()), source };
    let device = std::fs::symlink_metadata(folder).map_err(|e| failed(folder, e))?.dev();
    let (mut bytes, mut files) = (0, 0);
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| failed(&folder, e))? {
            let entry = entry.map_err(|e| failed(&folder, e))?;
            let found = entry.metadata().map_err(|e| failed(&entry.path(), e))?;
            files += 1;
            bytes += found.len().next_multiple_of(4096);
            if found.is_dir() && found.dev() == device {
                left.push(entry.path());
            }
            if files > MAX_FILES {
                return Err(VmError::Exhausted(format!("the image has more than {MAX_FILES} files")));
            }
        }
    }
    Ok((bytes, files))
}

async fn run(command: &mut Command, what: &str) -> Result<(), VmError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| VmError::Unavailable { engine: ENGINE, reason: format!("{what}: {error}") })?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    if said.contains("No space left") {
        return Err(VmError::Exhausted(format!("{what}: {said}")));
    }
    Err(VmError::Engine { engine: ENGINE, reason: format!("{what}: {said}") })
}
