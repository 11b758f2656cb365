//! Where a container's files begin: an image that the engine has, a root filesystem that it is given, or a snapshot.
//!
//! Place: before `create`. Rule: nothing is pulled. A root filesystem is imported under a name made of its digest, so the same one is
//! imported once; the name goes when the last sandbox of it goes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex as SyncMutex;

use bollard::query_parameters::{CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveImageOptions};
use futures_util::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

use super::{Condition, ContainerEngine, SandboxId, VmError, condition_of, container, fault};
use crate::vm::Source;
use crate::vm::image::headers::Extended;

/// The repository of imported root filesystems.
const REPOSITORY: &str = "auralink-rootfs";
/// Most entries in a root filesystem.
const ENTRIES: u64 = 2_000_000;
/// Most digests that are remembered.
const REMEMBERED: usize = 64;
/// The files of a snapshot.
const SNAPSHOT_TAR: &str = "rootfs.tar";
const SNAPSHOT_ABOUT: &str = "container.json";

/// What a container is made from.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub name: String,
    /// By this server, and so it may have been removed by another.
    pub imported: bool,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
}

/// What a snapshot keeps beside the files: an import forgets the rest of an image.
#[derive(Debug, Default, Serialize, Deserialize)]
struct About {
    env: Vec<String>,
    user: Option<String>,
    workdir: Option<String>,
}

/// A file at one moment.
type Stamp = (PathBuf, u64, u64, i64, i64);

/// Imports and removals take turns, so that one is not removed while a container is being made from it.
#[derive(Debug, Default)]
pub(super) struct Images {
    turn: Mutex<()>,
    digests: SyncMutex<HashMap<Stamp, String>>,
}

/// Whether a name means this tag: `alpine` means `docker.io/library/alpine:latest`.
fn is_tag(tag: &str, name: &str) -> bool {
    let named = |whole: &str| tag == whole || tag.strip_suffix(whole).is_some_and(|registry| registry.ends_with('/'));
    let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    !tag.contains(REPOSITORY) && if has_tag { named(name) } else { named(&format!("{name}:latest")) }
}

impl ContainerEngine {
    pub(super) async fn image(&self, source: &Source, home: &Path) -> Result<Image, VmError> {
        match source {
            Source::Host => {
                Err(self.unsupported("run on this machine's own files: name an image or a root filesystem, or use the engine `process`"))
            }
            Source::Image(name) => self.named(name).await,
            Source::RootFs(path) => self.imported(path, home).await,
            Source::Snapshot(folder) => {
                let text = tokio::fs::read(folder.join(SNAPSHOT_ABOUT)).await;
                let text = text.map_err(|_| VmError::NotFound(format!("there is no container's snapshot in {}", folder.display())))?;
                let about: About = serde_json::from_slice(&text)
                    .map_err(|e| VmError::Invalid(format!("the snapshot in {} is damaged: {e}", folder.display())))?;
                let image = self.imported(&folder.join(SNAPSHOT_TAR), home).await?;
                Ok(Image { env: about.env, user: about.user, workdir: about.workdir, ..image })
            }
        }
    }

    async fn named(&self, name: &str) -> Result<Image, VmError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        if name.is_empty() || name.len() > 255 || !name.chars().all(plain) || name.contains("..") || name.starts_with(['-', '/', '.']) {
            return Err(VmError::Invalid(format!("{:?} is no name of an image", name.chars().take(64).collect::<String>())));
        }
        // By its tag alone: an id, even a letter of one, would open other tenants' root filesystems and whatever else the engine has.
        let absent = || {
            let engine = self.engine_name();
            VmError::NotFound(format!("{engine} has no image {name:?}: get it first, by `{engine} pull {name}` or `{engine} import`"))
        };
        if name.contains(REPOSITORY) || name.contains('@') {
            return Err(absent());
        }
        match self.api().await?.inspect_image(name).await {
            Ok(found) if !found.repo_tags.iter().flatten().any(|tag| is_tag(tag, name)) => Err(absent()),
            Ok(_) => Ok(Image { name: name.to_owned(), ..Image::default() }),
            Err(error) if fault::status(&error) == Some(404) => Err(absent()),
            Err(error) => Err(self.fault(error, "looking for the image")),
        }
    }

    async fn imported(&self, path: &Path, home: &Path) -> Result<Image, VmError> {
        let metadata = std::fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VmError::NotFound(format!("there is no root filesystem at {}", path.display())),
            _ => VmError::Io { what: format!("opening {}", path.display()), source },
        })?;
        let (from, limit) = (path.to_owned(), self.0.settings.rootfs_limit_bytes);
        let digest = if metadata.is_dir() { blocking(move || survey(&from, limit)).await? } else { self.digest(path).await? };
        let image = Image { name: format!("{REPOSITORY}:{digest}"), imported: true, ..Image::default() };
        let _turn = self.0.images.turn.lock().await;
        let api = self.api().await?;
        match api.inspect_image(&image.name).await {
            Ok(_) => return Ok(image),
            Err(error) if fault::status(&error) == Some(404) => {}
            Err(error) => return Err(self.fault(error, "looking for the root filesystem")),
        }
        let spool = home.join("rootfs.tar.part");
        if metadata.is_dir() {
            let (from, to) = (path.to_owned(), spool.clone());
            blocking(move || pack(&from, &to)).await?;
            let done = self.import(&digest, &spool).await;
            let _ = tokio::fs::remove_file(&spool).await;
            done?;
        } else {
            self.import(&digest, path).await?;
        }
        Ok(image)
    }

    async fn import(&self, digest: &str, tar: &Path) -> Result<(), VmError> {
        let file = tokio::fs::File::open(tar).await.map_err(|source| VmError::Io { what: format!("opening {}", tar.display()), source })?;
        // Podman takes no tag beside the repository.
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(&format!("{REPOSITORY}:{digest}")).build();
        let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 256 << 10));
        let mut progress = self.api().await?.clone().with_timeout(super::CALL * 15).create_image(Some(options), Some(body), None);
        while let Some(step) = progress.next().await {
            step.map_err(|error| self.fault(error, "importing the root filesystem"))?;
        }
        Ok(())
    }

    /// The first 24 letters of the SHA-256 of what the archive holds unpacked; checks on the way that it is one, and no bomb.
    async fn digest(&self, tar: &Path) -> Result<String, VmError> {
        let metadata = std::fs::metadata(tar).map_err(|source| VmError::Io { what: format!("opening {}", tar.display()), source })?;
        let stamp = (tar.to_owned(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let known = self.0.images.digests.lock().unwrap_or_else(|e| e.into_inner()).get(&stamp).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let (path, limit) = (tar.to_owned(), self.0.settings.rootfs_limit_bytes);
        let digest = blocking(move || examine(&path, limit)).await?;
        let mut digests = self.0.images.digests.lock().unwrap_or_else(|e| e.into_inner());
        if digests.len() >= REMEMBERED {
            digests.clear();
        }
        digests.insert(stamp, digest.clone());
        Ok(digest)
    }

    /// Removes an imported image that no container is made of any more.
    pub(super) async fn release_image(&self, image: &str) -> Result<(), VmError> {
        // Podman puts a registry before a name that has none.
        let name = image.trim_start_matches("localhost/").trim_start_matches("docker.io/library/");
        if !name.strip_prefix(REPOSITORY).is_some_and(|rest| rest.starts_with(':')) {
            return Ok(());
        }
        let _turn = self.0.images.turn.lock().await;
        let api = self.api().await?;
        let filters = [("ancestor".to_owned(), vec![image.to_owned()])].into();
        let users = api.list_containers(Some(ListContainersOptionsBuilder::default().all(true).filters(&filters).build())).await;
        if users.is_ok_and(|users| !users.is_empty()) {
            return Ok(());
        }
        match api.remove_image(image, None::<RemoveImageOptions>, None).await {
            Ok(_) => Ok(()),
            // Gone already, or used by a container that came meanwhile.
            Err(error) if matches!(fault::status(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(self.fault(error, "removing an imported root filesystem")),
        }
    }

    /// Writes the files of a sandbox, and what its image said of users and environment, to `folder`.
    pub(super) async fn export(&self, id: &SandboxId, folder: &Path) -> Result<(), VmError> {
        let inspected = self.inspect(id).await?;
        let api = self.api().await?;
        // Files that are written while they are read would tear the snapshot; who sleeps writes nothing.
        let pause = condition_of(&inspected) == Condition::Running;
        if pause {
            api.pause_container(&container(id)).await.map_err(|error| self.fault_of(id, error, "pausing the sandbox for its snapshot"))?;
        }
        let written = self.export_paused(id, folder).await;
        if pause {
            api.unpause_container(&container(id))
                .await
                .map_err(|error| self.fault_of(id, error, "resuming the sandbox after its snapshot"))?;
        }
        written?;
        let config = inspected.config.unwrap_or_default();
        let about = About {
            env: config.env.unwrap_or_default(),
            user: config.user.filter(|u| !u.is_empty()),
            workdir: config.working_dir.filter(|w| !w.is_empty()),
        };
        let text = serde_json::to_vec(&about).map_err(|e| self.failed(format!("describing the snapshot: {e}")))?;
        // Written last: a folder without it is no snapshot.
        write_whole(&folder.join(SNAPSHOT_ABOUT), &text).await
    }

    async fn export_paused(&self, id: &SandboxId, folder: &Path) -> Result<(), VmError> {
        let path = folder.join(SNAPSHOT_TAR);
        let wrong = |source| VmError::Io { what: format!("writing {}", path.display()), source };
        let mut file = tokio::fs::File::create(&path).await.map_err(wrong)?;
        let api = self.api().await?.clone().with_timeout(super::CALL * 15);
        let mut chunks = std::pin::pin!(api.export_container(&container(id)));
        while let Some(chunk) = chunks.try_next().await.map_err(|error| self.fault_of(id, error, "exporting the sandbox's files"))? {
            file.write_all(&chunk).await.map_err(wrong)?;
        }
        file.sync_all().await.map_err(wrong)
    }
}

async fn write_whole(path: &Path, text: &[u8]) -> Result<(), VmError> {
    let wrong = |source| VmError::Io { what: format!("writing {}", path.display()), source };
    let mut file = tokio::fs::File::create(path).await.map_err(wrong)?;
    file.write_all(text).await.map_err(wrong)?;
    file.sync_all().await.map_err(wrong)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, VmError> + Send + 'static) -> Result<T, VmError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(VmError::Io { what: "reading a root filesystem".into(), source: io::Error::other(error) }),
    }
}

/// Reads an archive to its end: it must be one, no entry may leave it, and it may not unpack to more than `limit` bytes.
fn examine(path: &Path, limit: u64) -> Result<String, VmError> {
    let wrong = |source| VmError::Io { what: format!("reading {}", path.display()), source };
    let bad = |why: String| VmError::Invalid(format!("{} is no root filesystem that can be used: {why}", path.display()));
    let mut file = File::open(path).map_err(wrong)?;
    let mut magic = [0_u8; 2];
    let begun = file.read(&mut magic).map_err(wrong)?;
    let packed = begun == 2 && magic == [0x1f, 0x8b];
    let file = File::open(path).map_err(wrong)?;
    let plain: Box<dyn Read> = if packed { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut digesting = Digesting { from: io::BufReader::with_capacity(256 << 10, plain), digest: Sha256::new(), read: 0, limit };
    let mut entries = 0;
    let mut archive = tar::Archive::new(&mut digesting);
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(|e| bad(e.to_string()))?.raw(true) {
        let mut entry = entry.map_err(|e| bad(e.to_string()))?;
        if extended.read(&mut entry).map_err(|e| bad(e.to_string()))? {
            continue;
        }
        let (name, _) = extended.take(entry.header());
        if name.split(|byte| *byte == b'/').any(|part| part == b"..") {
            return Err(bad(format!("its entry {} leaves it", String::from_utf8_lossy(&name[..name.len().min(120)]))));
        }
        entries += 1;
        if entries > ENTRIES {
            return Err(bad(format!("it has more than {ENTRIES} entries")));
        }
    }
    if entries == 0 {
        return Err(bad("it is no tar archive, or an empty one".to_owned()));
    }
    io::copy(&mut digesting, &mut io::sink()).map_err(|e| bad(e.to_string()))?;
    Ok(digesting.digest.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect())
}

struct Digesting<R> {
    from: R,
    digest: Sha256,
    read: u64,
    limit: u64,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.read += read as u64;
        if self.read > self.limit {
            return Err(io::Error::other(format!("it unpacks to more than {} bytes", self.limit)));
        }
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

/// A folder's digest without reading its files: names, kinds, owners, sizes and times of all in it.
fn survey(folder: &Path, limit: u64) -> Result<String, VmError> {
    let mut digest = Sha256::new();
    let mut bytes = 0;
    walk(folder, |name, path, metadata| {
        bytes += metadata.len();
        if metadata.is_file() && bytes > limit {
            return Err(io::Error::other(format!("it holds more than {limit} bytes")));
        }
        let target = if metadata.is_symlink() { std::fs::read_link(path)? } else { PathBuf::new() };
        let about = (metadata.mode(), metadata.uid(), metadata.gid(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        digest.update(format!("{name:?} {target:?} {about:?}\n"));
        Ok(())
    })?;
    Ok(digest.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect())
}

/// Packs a folder: links as links, nothing from another file system, no devices, sockets or pipes.
fn pack(folder: &Path, to: &Path) -> Result<(), VmError> {
    let wrong = |source| VmError::Io { what: format!("packing {}", folder.display()), source };
    let mut archive = tar::Builder::new(io::BufWriter::new(File::create(to).map_err(wrong)?));
    archive.follow_symlinks(false);
    walk(folder, |name, path, metadata| match () {
        () if metadata.is_dir() => archive.append_dir(name, path),
        () if metadata.is_file() || metadata.is_symlink() => archive.append_path_with_name(path, name),
        () => Ok(()),
    })?;
    archive
        .into_inner()
        .and_then(|inner| inner.into_inner().map_err(io::IntoInnerError::into_error))
        .and_then(|file| file.sync_data())
        .map_err(wrong)
}

/// Visits all in a folder in the order of names, each with its name from there; what is mounted in it is not entered, links are not followed.
fn walk(folder: &Path, mut visit: impl FnMut(&Path, &Path, &std::fs::Metadata) -> io::Result<()>) -> Result<(), VmError> {
    let wrong = |source| VmError::Io { what: format!("reading the root filesystem {}", folder.display()), source };
    let device = std::fs::metadata(folder).map_err(wrong)?.dev();
    let mut left = vec![PathBuf::new()];
    let mut entries = 0;
    while let Some(inside) = left.pop() {
        let mut names: Vec<_> = std::fs::read_dir(folder.join(&inside)).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            entries += 1;
            if entries > ENTRIES {
                return Err(VmError::Invalid(format!("{} has more than {ENTRIES} entries", folder.display())));
            }
            let (path, name) = (entry.path(), inside.join(entry.file_name()));
            let metadata = entry.metadata().map_err(wrong)?;
            visit(&name, &path, &metadata).map_err(wrong)?;
            if metadata.is_dir() && metadata.dev() == device {
                left.push(name);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_tag_and_no_id() {
        for (tag, name) in [
            ("alpine:latest", "alpine"),
            ("docker.io/library/alpine:3", "alpine:3"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("localhost/mine:latest", "mine"),
        ] {
            assert!(is_tag(tag, name), "{tag} {name}");
        }
        for (tag, name) in [
            ("alpine:latest", "a"),
            ("alpine:latest", "pine"),
            ("alpine:3", "alpine"),
            ("auralink-rootfs:abc", "auralink-rootfs:abc"),
            ("x/alpine:latest", ""),
        ] {
            assert!(!is_tag(tag, name), "{tag} {name}");
        }
    }

    fn archive(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
        let path = folder.join("a.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
        tar.finish().unwrap();
        path
    }

    #[test]
    fn archives_that_leave_themselves_or_grow_too_large_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let good = archive(folder.path(), "bin/sh", b"x");
        assert_eq!(examine(&good, 1 << 20).unwrap().len(), 24);
        let bad = archive(folder.path(), "../../etc/passwd", b"x");
        assert!(examine(&bad, 1 << 20).unwrap_err().to_string().contains("leaves it"));
        let large = archive(folder.path(), "zeros", &vec![0; 1 << 20]);
        assert!(examine(&large, 1 << 16).unwrap_err().to_string().contains("more than 65536"));
        let packed = folder.path().join("bomb.tar.gz");
        let mut gz = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::best());
        io::copy(&mut File::open(&large).unwrap(), &mut gz).unwrap();
        gz.finish().unwrap();
        assert!(packed.metadata().unwrap().len() < 1 << 14);
        assert!(examine(&packed, 1 << 16).unwrap_err().to_string().contains("more than 65536"));
        let mut name = tar::Header::new_gnu();
        name.set_entry_type(tar::EntryType::GNULongName);
        name.set_size(1 << 20);
        name.set_cksum();
        let named = folder.path().join("named.tar");
        std::fs::write(&named, [name.as_bytes().as_slice(), &vec![b'x'; 1 << 20]].concat()).unwrap();
        assert!(examine(&named, 4 << 20).unwrap_err().to_string().contains("name or header of more than"));
        std::fs::write(folder.path().join("text"), "no archive").unwrap();
        assert!(matches!(examine(&folder.path().join("text"), 1 << 20), Err(VmError::Invalid(_))));
    }

    #[test]
    fn a_folder_is_packed_with_links_as_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", root.join("a/link")).unwrap();
        let tar = folder.path().join("out.tar");
        pack(&root, &tar).unwrap();
        let mut archive = tar::Archive::new(File::open(&tar).unwrap());
        let kinds: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.path().unwrap().display().to_string(), e.header().entry_type()))
            .collect();
        assert!(kinds.iter().any(|(name, kind)| name == "a/link" && kind.is_symlink()), "{kinds:?}");
        assert!(kinds.iter().any(|(name, kind)| name == "a/b/file" && kind.is_file()), "{kinds:?}");
    }
}
