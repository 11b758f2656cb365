//! Files in and out, and connections to ports of a sandbox.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::super::{FileEntry, Stream, VmError};
use super::{QUICK, Sandboxes, check, within};
use crate::tenant::Tenant;

/// Entries of a folder that are listed at most.
const MOST_ENTRIES: usize = 10_000;

impl Sandboxes {
    /// Writes a file of exactly `size` bytes, whole or not at all; missing folders are made.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Invalid`] (path), [`VmError::Exhausted`] (larger than its disk), and what the engine says.
    pub async fn write_file(
        &self,
        tenant: &Tenant,
        id: &str,
        path: &str,
        mode: u32,
        size: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), VmError> {
        check::path(path)?;
        let entry = self.inner.entry(tenant, id)?;
        let most = super::locked(&entry.record).spec.limits.disk_bytes;
        if size > most {
            return Err(VmError::Exhausted(format!("the file has {size} bytes, the sandbox's disk {most}: make one with a larger disk")));
        }
        // No time-out over the whole: the caller's bytes come as they come, and faces have their own.
        self.inner.engine_of(&entry)?.write_file(&entry.id, &self.inner.home(&entry.id), path, mode & 0o777, size, content).await
    }

    /// Opens a file for reading; answers its size.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Invalid`] (path, or no file), and what the engine says.
    pub async fn read_file(&self, tenant: &Tenant, id: &str, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        check::path(path)?;
        let entry = self.inner.entry(tenant, id)?;
        let (engine, home) = (self.inner.engine_of(&entry)?, self.inner.home(&entry.id));
        within("opening the file", QUICK, engine.read_file(&entry.id, &home, path)).await
    }

    /// Lists a folder: at most `limit` entries (1 to 10,000) in the order of names.
    ///
    /// # Errors
    /// As [`Sandboxes::read_file`].
    pub async fn list_folder(&self, tenant: &Tenant, id: &str, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
        check::path(path)?;
        let entry = self.inner.entry(tenant, id)?;
        let (engine, home) = (self.inner.engine_of(&entry)?, self.inner.home(&entry.id));
        within("listing the folder", QUICK, engine.list_folder(&entry.id, &home, path, limit.clamp(1, MOST_ENTRIES))).await
    }

    /// Connects to a TCP port that a program in the sandbox listens on.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Invalid`] (port 0), [`VmError::Exhausted`] (too many at once), and what the engine says.
    pub async fn dial(&self, tenant: &Tenant, id: &str, port: u16) -> Result<Box<dyn Stream>, VmError> {
        if port == 0 {
            return Err(VmError::Invalid("port 0 is no port: 1 to 65535 are taken".into()));
        }
        let entry = self.inner.entry(tenant, id)?;
        let place = Arc::clone(&entry.forwards).try_acquire_owned().map_err(|_| {
            metrics::counter!("auralink_sandbox_refused_total", "limit" => "forwards").increment(1);
            let most = self.inner.config.forwards_per_sandbox;
            VmError::Exhausted(format!("{most} connections go into the sandbox already, the most there may be: close one"))
        })?;
        let (engine, home) = (self.inner.engine_of(&entry)?, self.inner.home(&entry.id));
        let stream = within("connecting", QUICK, engine.dial(&entry.id, &home, port)).await?;
        Ok(Box::new(Counted { stream, _place: place }))
    }
}

/// A stream that holds its place in the limit until it is dropped.
struct Counted {
    stream: Box<dyn Stream>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
