//! Images: root filesystems that sandboxes begin from, imported from tar archives or folders and kept by what they hold.
//!
//! Place: `service` asks for an image by name and gives engines its folder, read-only by agreement. Rule: what comes in is hostile: it is
//! unpacked by [`unpack`], which writes nowhere but below its own folder, and appears under its name whole or not at all (unpacked beside,
//! then renamed).
//!
//! On disk, below the image folder: `blobs/<sha256>/rootfs`, `names/<owner>/<name>.json`, `tmp/`.

pub mod export;
pub(crate) mod headers;
pub mod pack;
pub mod unpack;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::VmError;
use super::remove::remove_tree;
use crate::tenant::Tenant;
use unpack::{Bounds, Unpacked};

/// Longest name, bytes.
const MAX_NAME: usize = 128;

/// The folder of names that every tenant sees; no tenant's name begins so.
const SHARED: &str = "@shared";

/// An image as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Whose it is; none: every tenant may begin sandboxes from it.
    pub owner: Option<Tenant>,
    /// SHA-256 over all that it holds, hexadecimal: equal content has an equal digest, however it was packed.
    pub digest: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Devices, pipes and sockets that were left out.
    pub dropped: u64,
    /// Files that lost set-user-id or set-group-id bits.
    pub stripped: u64,
    /// When it was imported, milliseconds since 1970.
    pub imported_ms: u64,
}

/// The images of one folder.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
    bounds: Bounds,
    /// Names at most, of one owner.
    most: usize,
    /// Held while names or contents come and go, never while something is unpacked.
    naming: Mutex<()>,
}

impl Images {
    /// Opens the folder, makes what is missing, and removes what an import that was cut short left behind.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path, bounds: Bounds, most: usize) -> Result<Self, VmError> {
        // Images are their tenants': no other user of this machine reads or changes them, whatever permissions their files have.
        // The folder above them may be the operator's for other things too: one that was there is left as it is.
        for part in ["blobs", "names", "tmp"] {
            super::disk::private_folder(&folder.join(part)).map_err(at("making the image folder", folder))?;
        }
        let folder = folder.canonicalize().map_err(at("opening the image folder", folder))?;
        let tmp = folder.join("tmp");
        for entry in std::fs::read_dir(&tmp).map_err(at("reading", &tmp))?.flatten() {
            remove_tree(&entry.path()).map_err(at("removing a half-made image", &entry.path()))?;
        }
        Ok(Self { folder, bounds, most, naming: Mutex::new(()) })
    }

    /// Imports a `.tar` or `.tar.gz` stream under `name`; an image of that name is replaced (sandboxes that began from the old one keep it).
    /// It blocks.
    /// `used` says whether a sandbox stands on a digest.
    ///
    /// # Errors
    /// [`VmError::Invalid`] for a bad name or archive, [`VmError::Exhausted`] for one beyond the limits, [`VmError::Io`] for a full disk; nothing
    /// stays behind.
    pub fn import(&self, owner: Option<&Tenant>, name: &str, archive: impl Read, used: &dyn Fn(&str) -> bool) -> Result<Image, VmError> {
        self.fill(owner, name, used, |rootfs| unpack::archive(archive, rootfs, &self.bounds))
    }

    /// Imports a folder of this machine; the caller has checked that it may. It blocks. Links in it are copied, not followed.
    ///
    /// # Errors
    /// As [`Images::import`].
    pub fn import_folder(&self, owner: Option<&Tenant>, name: &str, source: &Path, used: &dyn Fn(&str) -> bool) -> Result<Image, VmError> {
        let source = source.to_owned();
        self.fill(owner, name, used, move |rootfs| {
            let (reader, writer) = io::pipe().map_err(|error| VmError::Io { what: "making a pipe".into(), source: error })?;
            std::thread::scope(|scope| {
                let packing = scope.spawn(move || pack::folder(&source, writer));
                let unpacked = unpack::archive(reader, rootfs, &self.bounds);
                let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing it panicked")));
                match (unpacked, packed) {
                    (Err(error), _) => Err(error),
                    (Ok(_), Err(error)) => Err(VmError::Io { what: "reading the folder to import".into(), source: error }),
                    (Ok(unpacked), Ok(())) => Ok(unpacked),
                }
            })
        })
    }

    fn fill(
        &self,
        owner: Option<&Tenant>,
        name: &str,
        used: &dyn Fn(&str) -> bool,
        unpack: impl FnOnce(&Path) -> Result<Unpacked, VmError>,
    ) -> Result<Image, VmError> {
        check_name(name)?;
        self.room(owner, name)?;
        let work = self.folder.join("tmp").join(uuid::Uuid::new_v4().to_string());
        let rootfs = work.join("rootfs");
        std::fs::create_dir_all(&rootfs).map_err(at("making", &rootfs))?;
        let done = unpack(&rootfs).and_then(|unpacked| {
            let _naming = self.naming();
            let known = self.room(owner, name)?;
            let image = self.keep(owner, name, &work, &unpacked)?;
            if let Some(old) = known {
                self.forget_unnamed(&old.digest, used);
            }
            Ok(image)
        });
        // Gone after the rename of a new image; there still after a failure, or when the same content was here already.
        if let Err(error) = remove_tree(&work) {
            tracing::warn!(%error, folder = %work.display(), "the rest of an import stays until the next start");
        }
        done
    }

    /// The image that has the name already; otherwise there must be room for one more.
    fn room(&self, owner: Option<&Tenant>, name: &str) -> Result<Option<Image>, VmError> {
        let known = self.find_exact(owner, name)?;
        if known.is_none() && self.names(owner)?.len() >= self.most {
            return Err(VmError::Exhausted(format!("there are {} images already, the most there may be: delete one first", self.most)));
        }
        Ok(known)
    }

    fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Content first, then its name: a name always has its content.
    fn keep(&self, owner: Option<&Tenant>, name: &str, work: &Path, unpacked: &Unpacked) -> Result<Image, VmError> {
        let blob = self.folder.join("blobs").join(&unpacked.digest);
        if !blob.exists() {
            match std::fs::rename(work, &blob) {
                Ok(()) => {}
                // The same content came by another import at the same time.
                Err(_) if blob.exists() => {}
                Err(error) => return Err(at("keeping an image", &blob)(error)),
            }
            sync_folder(&self.folder.join("blobs"));
        }
        let image = Image {
            name: name.to_owned(),
            owner: owner.cloned(),
            digest: unpacked.digest.clone(),
            bytes: unpacked.bytes,
            entries: unpacked.entries,
            dropped: unpacked.dropped,
            stripped: unpacked.stripped,
            imported_ms: super::disk::now_ms(),
        };
        let path = self.name_path(owner, name);
        let folder = path.parent().unwrap_or(&self.folder);
        super::disk::private_folder(folder).map_err(at("making", folder))?;
        let text = serde_json::to_vec(&image).map_err(|error| at("writing", &path)(io::Error::other(error)))?;
        super::disk::write_whole(&path, &text).map_err(at("writing", &path))?;
        metrics::counter!("auralink_sandbox_images_imported_total").increment(1);
        Ok(image)
    }

    /// The tenant's image of this name, or the shared one; and the folder of its root filesystem.
    ///
    /// # Errors
    /// [`VmError::NotFound`].
    pub fn find(&self, tenant: &Tenant, name: &str) -> Result<(Image, PathBuf), VmError> {
        check_name(name)?;
        let image = match self.find_exact(Some(tenant), name)? {
            Some(image) => Some(image),
            None => self.find_exact(None, name)?,
        };
        let image = image.ok_or_else(|| not_found(name))?;
        let rootfs = self.folder.join("blobs").join(&image.digest).join("rootfs");
        if !rootfs.is_dir() {
            return Err(VmError::NotFound(format!("the image {name:?} lost its content ({}): import it again", rootfs.display())));
        }
        Ok((image, rootfs))
    }

    fn find_exact(&self, owner: Option<&Tenant>, name: &str) -> Result<Option<Image>, VmError> {
        let path = self.name_path(owner, name);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| at("reading", &path)(io::Error::other(error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("reading", &path)(error)),
        }
    }

    /// The tenant's images and the shared ones, in the order of names.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self, tenant: &Tenant) -> Result<Vec<Image>, VmError> {
        let mut images = self.names(Some(tenant))?;
        images.extend(self.names(None)?);
        images.sort_by(|a, b| (&a.name, &a.owner).cmp(&(&b.name, &b.owner)));
        Ok(images)
    }

    fn names(&self, owner: Option<&Tenant>) -> Result<Vec<Image>, VmError> {
        let folder = self.names_folder(owner);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("reading", &folder)(error)),
        };
        let read = |path: PathBuf| std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .filter_map(read)
            .collect())
    }

    /// Deletes a name, and the content when no other name and no sandbox has it. `used` says whether a sandbox stands on a digest.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::Condition`] while a sandbox uses it.
    pub fn delete(&self, owner: Option<&Tenant>, name: &str, used: &dyn Fn(&str) -> bool) -> Result<(), VmError> {
        check_name(name)?;
        let _naming = self.naming();
        let image = self.find_exact(owner, name)?.ok_or_else(|| not_found(name))?;
        if used(&image.digest) {
            return Err(VmError::Condition {
                is: "in need of its image",
                what: format!("delete the sandboxes that began from {name:?} first"),
            });
        }
        let path = self.name_path(owner, name);
        std::fs::remove_file(&path).map_err(at("deleting", &path))?;
        self.forget_unnamed(&image.digest, used);
        Ok(())
    }

    /// Removes contents that have no name and that no sandbox uses: after a replaced image, and at the server's start.
    pub fn sweep(&self, used: &dyn Fn(&str) -> bool) {
        let _naming = self.naming();
        let blobs = self.folder.join("blobs");
        for entry in std::fs::read_dir(&blobs).into_iter().flatten().flatten() {
            if let Some(digest) = entry.file_name().to_str() {
                self.forget_unnamed(digest, used);
            }
        }
    }

    fn forget_unnamed(&self, digest: &str, used: &dyn Fn(&str) -> bool) {
        if used(digest) || self.is_named(digest) {
            return;
        }
        let (blob, grave) = (self.folder.join("blobs").join(digest), self.folder.join("tmp").join(uuid::Uuid::new_v4().to_string()));
        // Out of sight first: half an image is never found.
        if let Err(error) = std::fs::rename(&blob, &grave).and_then(|()| remove_tree(&grave).map(|_| ())) {
            tracing::warn!(%error, digest, "an image's content cannot be removed; it is tried again at the next start");
        }
    }

    fn is_named(&self, digest: &str) -> bool {
        let owners = std::fs::read_dir(self.folder.join("names")).into_iter().flatten().flatten();
        let names = owners.flat_map(|owner| std::fs::read_dir(owner.path()).into_iter().flatten().flatten());
        let mut images = names.filter_map(|name| serde_json::from_slice::<Image>(&std::fs::read(name.path()).ok()?).ok());
        images.any(|image| image.digest == digest)
    }

    fn names_folder(&self, owner: Option<&Tenant>) -> PathBuf {
        self.folder.join("names").join(owner.map_or(SHARED, Tenant::as_str))
    }

    fn name_path(&self, owner: Option<&Tenant>, name: &str) -> PathBuf {
        self.names_folder(owner).join(format!("{}.json", name.replace('/', "%2F")))
    }
}

/// Letters as Docker has them: `busybox`, `team/python:3.12`.
fn check_name(name: &str) -> Result<(), VmError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-:".contains(&b);
    let part = |part: &str| part.bytes().all(plain) && part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if (1..=MAX_NAME).contains(&name.len()) && name.split('/').all(part) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(VmError::Invalid(format!(
        "{shown:?} cannot name an image: 1 to {MAX_NAME} of a-z, 0-9, '.', '_', '-', ':' in parts divided by '/', each beginning with a letter or digit"
    )))
}

fn not_found(name: &str) -> VmError {
    VmError::NotFound(format!("there is no image {name:?}: import it with `auralink sandbox images import`"))
}

fn at<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> VmError + 'a {
    move |source| VmError::Io { what: format!("{what} {}", path.display()), source }
}

/// A rename is on disk once its folder is; a file system that cannot promise it says nothing.
fn sync_folder(folder: &Path) {
    if let Ok(open) = std::fs::File::open(folder) {
        let _ = open.sync_all();
    }
}
