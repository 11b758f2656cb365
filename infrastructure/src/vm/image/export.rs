//! An image as a `.tar` or `.tar.gz` stream.

use std::io::{self, Write};

use super::{Images, pack};
use crate::tenant::Tenant;
use crate::vm::VmError;

impl Images {
    /// Writes the image to `out`, packed with gzip when `gzip`. It blocks.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::Io`] when it cannot be read or the receiver went away.
    pub fn export(&self, tenant: &Tenant, name: &str, gzip: bool, mut out: impl Write) -> Result<(), VmError> {
        let (_, rootfs) = self.find(tenant, name)?;
        let written = if gzip {
            let mut packer = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
            pack::folder(&rootfs, &mut packer).and_then(|()| packer.finish().map(|_| ()))
        } else {
            pack::folder(&rootfs, &mut out)
        };
        written
            .and_then(|()| out.flush())
            .map_err(|source: io::Error| VmError::Io { what: format!("exporting the image {name:?}"), source })
    }
}
