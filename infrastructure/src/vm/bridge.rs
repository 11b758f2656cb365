//! An asynchronous stream for code that blocks (`tar`, `flate2`), on a thread where it may: each read or write waits on the runtime.
//!
//! Rule: nobody's silence holds such a thread for ever. There are some hundreds of them, for all that blocks.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;

/// The stream; made inside a runtime, used in `spawn_blocking`.
pub(crate) struct Bridge<T> {
    inner: T,
    runtime: Handle,
    stall: Duration,
    pace: Option<Pace>,
    begun: Instant,
    /// Time that reads have waited, and what they brought.
    waited: Duration,
    read: u64,
}

/// How fast a stream must come at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes for each second that was waited for them; what the reader does meanwhile is not the sender's.
    pub bytes_per_s: u64,
    /// Waiting that is not yet looked at.
    pub grace: Duration,
    /// From the first to the last byte.
    pub whole: Duration,
}

impl<T> Bridge<T> {
    /// `stall` is the longest that one read or write waits: then it fails with [`io::ErrorKind::TimedOut`].
    pub(crate) fn new(inner: T, stall: Duration) -> Self {
        Self { inner, runtime: Handle::current(), stall, pace: None, begun: Instant::now(), waited: Duration::ZERO, read: 0 }
    }

    /// Reads fail when it comes slower than that.
    pub(crate) fn paced(self, pace: Pace) -> Self {
        Self { pace: Some(pace), ..self }
    }

    fn keeps_pace(&self) -> io::Result<()> {
        let Some(pace) = self.pace else { return Ok(()) };
        if self.begun.elapsed() > pace.whole {
            return Err(late(format!("it took longer than {} s as a whole", pace.whole.as_secs())));
        }
        let least = self.waited.as_millis().saturating_mul(u128::from(pace.bytes_per_s)) / 1_000;
        if self.waited > pace.grace && u128::from(self.read) < least {
            return Err(late(format!("it comes slower than {} bytes a second", pace.bytes_per_s)));
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> Read for Bridge<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.keeps_pace()?;
        let from = Instant::now();
        let read = waiting(&self.runtime, self.stall, self.inner.read(buffer))?;
        self.waited += from.elapsed();
        self.read += read as u64;
        Ok(read)
    }
}

impl<T: AsyncWrite + Unpin> Write for Bridge<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        waiting(&self.runtime, self.stall, self.inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        waiting(&self.runtime, self.stall, self.inner.flush())
    }
}

impl<T: AsyncWrite + Unpin> Bridge<T> {
    /// Ends the stream.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        waiting(&self.runtime, self.stall, self.inner.shutdown())
    }
}

fn waiting<O>(runtime: &Handle, stall: Duration, work: impl Future<Output = io::Result<O>>) -> io::Result<O> {
    // Made inside: a timer needs the runtime around it.
    let done = runtime.block_on(async { tokio::time::timeout(stall, work).await });
    done.unwrap_or_else(|_| Err(late(format!("nothing moved for {} s", stall.as_secs_f32()))))
}

fn late(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    /// On a thread that may block.
    async fn apart<O: Send + 'static>(work: impl FnOnce() -> O + Send + 'static) -> O {
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    #[tokio::test]
    async fn who_sends_nothing_and_who_takes_nothing_is_not_waited_for() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let mut bridge = Bridge::new(ours, SOON);
        let (read, written) = apart(move || (bridge.read(&mut [0; 8]), bridge.write_all(&[0; 9]))).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_trickle_is_ended_and_a_slow_reader_is_not() {
        let pace = Pace { bytes_per_s: 1_000, grace: Duration::from_millis(200), whole: Duration::from_secs(60) };
        let (ours, mut theirs) = tokio::io::duplex(8);
        let sending = tokio::spawn(async move {
            while theirs.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut bridge = Bridge::new(ours, Duration::from_secs(30)).paced(pace);
        let error = apart(move || io::copy(&mut bridge, &mut io::sink())).await.unwrap_err();
        assert!(error.to_string().contains("slower"), "{error}");
        sending.await.unwrap();
        // All is there at once; the reader takes its time.
        let mut bridge = Bridge::new(io::Cursor::new(vec![0; 30]), SOON).paced(Pace { grace: Duration::ZERO, ..pace });
        let read = apart(move || {
            let mut bytes = 0;
            while bridge.read(&mut [0; 1]).unwrap() > 0 {
                bytes += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            bytes
        });
        assert_eq!(read.await, 30);
    }

    #[tokio::test]
    async fn a_stream_ends_when_its_time_is_up() {
        let pace = Pace { bytes_per_s: 0, grace: Duration::ZERO, whole: SOON };
        let mut bridge = Bridge::new(tokio::io::repeat(0), SOON).paced(pace);
        let error = apart(move || io::copy(&mut bridge, &mut io::sink())).await.unwrap_err();
        assert!(error.to_string().contains("as a whole"), "{error}");
    }
}
