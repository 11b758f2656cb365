//! An asynchronous stream for code that blocks (`tar`, `flate2`), on a thread where it may: each read or write waits on the runtime.

use std::io::{self, Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;

/// The stream; made inside a runtime, used in `spawn_blocking`.
pub(crate) struct Bridge<T> {
    inner: T,
    runtime: Handle,
}

impl<T> Bridge<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, runtime: Handle::current() }
    }
}

impl<T: AsyncRead + Unpin> Read for Bridge<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.inner.read(buffer))
    }
}

impl<T: AsyncWrite + Unpin> Write for Bridge<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.inner.flush())
    }
}

impl<T: AsyncWrite + Unpin> Bridge<T> {
    /// Ends the stream.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.inner.shutdown())
    }
}
