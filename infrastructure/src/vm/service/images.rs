//! Images for callers: imports bounded in number, deletes refused while a sandbox stands on them.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::VmError;
use super::super::bridge::Bridge;
use super::super::image::Image;
use super::super::spec::Source;
use super::{Inner, Sandboxes, blocking, check, locked};
use crate::tenant::Tenant;

impl Sandboxes {
    /// Imports a `.tar` or `.tar.gz` stream; `shared` makes it everybody's (the face asks for the right to that).
    ///
    /// # Errors
    /// [`VmError::Invalid`] (an archive that stops coming too), [`VmError::Exhausted`], [`VmError::Io`]; nothing stays behind.
    pub async fn import_image(
        &self,
        tenant: &Tenant,
        name: &str,
        shared: bool,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Image, VmError> {
        let (inner, owner, name) = (Arc::clone(&self.inner), (!shared).then(|| tenant.clone()), name.to_owned());
        let held = (self.importing()?, self.inner.places.take(tenant)?);
        let archive = Bridge::new(archive, self.inner.config.archive_stall).paced(self.inner.config.import_pace);
        blocking("importing the image", move || {
            let _held = held;
            let used = |digest: &str| inner.uses_image(digest);
            inner.images.import(owner.as_ref(), &name, archive, &used)
        })
        .await
    }

    /// Imports a folder or archive of the server, below a folder that the configuration allows.
    ///
    /// # Errors
    /// As [`Sandboxes::import_image`].
    pub async fn import_rootfs(&self, tenant: &Tenant, name: &str, shared: bool, path: &Path) -> Result<Image, VmError> {
        let (inner, owner, name, path) = (Arc::clone(&self.inner), (!shared).then(|| tenant.clone()), name.to_owned(), path.to_owned());
        let place = self.importing()?;
        blocking("importing the image", move || {
            let _place = place;
            let Source::RootFs(path) = check::rootfs(&path, &inner.config.rootfs_folders)? else {
                return Err(VmError::Invalid("the path names no root filesystem".into()));
            };
            let used = |digest: &str| inner.uses_image(digest);
            if path.is_dir() {
                return inner.images.import_folder(owner.as_ref(), &name, &path, &used);
            }
            let file = std::fs::File::open(&path).map_err(|source| VmError::Io { what: format!("opening {}", path.display()), source })?;
            inner.images.import(owner.as_ref(), &name, file, &used)
        })
        .await
    }

    /// Goes to the thread that imports: it works on when the caller goes away.
    fn importing(&self) -> Result<tokio::sync::OwnedSemaphorePermit, VmError> {
        Arc::clone(&self.inner.imports)
            .try_acquire_owned()
            .map_err(|_| VmError::Exhausted("other images are being imported: try again in a moment".into()))
    }

    /// The tenant's images and the shared ones.
    ///
    /// # Errors
    /// When the image folder cannot be read.
    pub async fn list_images(&self, tenant: &Tenant) -> Result<Vec<Image>, VmError> {
        let (inner, tenant) = (Arc::clone(&self.inner), tenant.clone());
        blocking("listing images", move || inner.images.list(&tenant)).await
    }

    /// The image that a sandbox of the tenant's would begin from.
    ///
    /// # Errors
    /// [`VmError::NotFound`].
    pub async fn find_image(&self, tenant: &Tenant, name: &str) -> Result<Image, VmError> {
        let (inner, tenant, name) = (Arc::clone(&self.inner), tenant.clone(), name.to_owned());
        blocking("looking for the image", move || inner.images.find(&tenant, &name).map(|(image, _)| image)).await
    }

    /// Deletes an image's name, and its content when nothing else has it.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::Condition`] while a sandbox or snapshot stands on it.
    pub async fn delete_image(&self, tenant: &Tenant, name: &str, shared: bool) -> Result<(), VmError> {
        let (inner, owner, name) = (Arc::clone(&self.inner), (!shared).then(|| tenant.clone()), name.to_owned());
        blocking("deleting the image", move || inner.images.delete(owner.as_ref(), &name, &|digest| inner.uses_image(digest))).await
    }

    /// Writes an image as `.tar`, or `.tar.gz` when `gzip`.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::Exhausted`] with too many archives under way; [`VmError::Io`] when the receiver went away, or takes
    /// nothing for 30 s.
    pub async fn export_image(
        &self,
        tenant: &Tenant,
        name: &str,
        gzip: bool,
        out: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), VmError> {
        let (inner, tenant, name) = (Arc::clone(&self.inner), tenant.clone(), name.to_owned());
        let place = self.inner.places.take(&tenant)?;
        let mut out = Bridge::new(out, self.inner.config.archive_stall);
        blocking("exporting the image", move || {
            let _place = place;
            inner.images.export(&tenant, &name, gzip, &mut out)?;
            let end = out.flush().and_then(|()| out.shutdown());
            end.map_err(|source| VmError::Io { what: "sending the image".into(), source })
        })
        .await
    }
}

impl Inner {
    /// Whether a sandbox or a snapshot stands on it.
    pub(super) fn uses_image(&self, digest: &str) -> bool {
        let sandboxes = locked(&self.table).values().any(|entry| locked(&entry.record).image.as_deref() == Some(digest));
        sandboxes || locked(&self.snapshots).values().any(|record| record.image.as_deref() == Some(digest))
    }
}
