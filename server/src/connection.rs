//! A TCP connection of any face, as it is accepted: how many there may be, how long one may say nothing, and how it ends.
//!
//! Ends politely: a socket that is closed over unread bytes is reset by the kernel, and the peer may never read the answer that was sent
//! before (a refusal of a body or a signal message that is too large). So what still comes is read and thrown away for a moment, as
//! nginx's lingering close does. Rule: everything a silent or endless peer can hold is bounded here, before HTTP or TLS begins.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

/// Connections at once, all faces together. A participant needs one.
const CONNECTIONS_MAX: usize = 16_384;
/// Files that the process needs beside connections: sockets of media, models, logs, the database.
const OTHER_FILES: usize = 256;
/// A client that has said nothing for this long after connecting is gone, or never meant to speak.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How long, and how much, a peer that we closed is still listened to.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Takes connections up to the limit. Clones share it.
#[derive(Debug, Clone)]
pub struct Acceptor {
    places: Arc<Semaphore>,
}

impl Acceptor {
    /// As many as the process may have files open, which is raised as far as it goes: the usual 1,024 are meant for programs of `select`.
    pub fn new() -> Self {
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, files) {
            tracing::warn!(%error, "the limit of open files cannot be raised; raise it for the service (ulimit -n)");
        }
        let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        let places = CONNECTIONS_MAX.min(files.saturating_sub(OTHER_FILES)).max(1);
        tracing::debug!(files, places, "connections that are taken at once");
        Self { places: Arc::new(Semaphore::new(places)) }
    }
}

impl<S> Accept<TcpStream, S> for Acceptor {
    type Stream = Connection;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            metrics::counter!("auralink_limit_hits_total", "limit" => "connections").increment(1);
            let error = "a connection was closed at once: as many are open as this server takes (its limit of open files, or 16,384)";
            tracing::warn!("{error}");
            return std::future::ready(Err(io::Error::other(error)));
        };
        // Signal messages are small and answered at once: they must not wait for an acknowledgement.
        let open = stream.set_nodelay(true).map(|()| (Connection::new(stream, place), service));
        std::future::ready(open)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    /// Taken when dropped.
    stream: Option<(TcpStream, OwnedSemaphorePermit)>,
    /// Until the first byte came.
    silent_until: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self { stream: Some((stream, place)), silent_until: Some(Box::pin(sleep(FIRST_BYTE))) }
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.stream.as_mut().expect("taken only when dropped").0)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.stream().poll_read(context, buffer);
        if let Some(silence) = &mut self.silent_until {
            if read.is_ready() {
                self.silent_until = None;
            } else if silence.as_mut().poll(context).is_ready() {
                metrics::counter!("auralink_silent_connections_total").increment(1);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (Some((stream, place)), Ok(runtime)) = (self.stream.take(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(async move {
            // A peer that is gone, or goes on past the limits, is simply closed.
            let _ = timeout(LINGER, discard(stream)).await;
            drop(place);
        });
    }
}

/// Says that nothing more is sent and reads what still comes, until the peer closes too.
async fn discard(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut bytes = vec![0; 16 * 1024];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match stream.read(&mut bytes).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair(acceptor: &Acceptor) -> (TcpStream, io::Result<Connection>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (client, acceptor.accept(stream, ()).await.map(|(connection, ())| connection))
    }

    #[tokio::test]
    async fn an_answer_is_read_although_the_question_was_not_read_whole() {
        let (mut client, connection) = pair(&Acceptor::new()).await;
        let mut connection = connection.unwrap();
        let server = tokio::spawn(async move {
            let mut start = [0; 10];
            connection.read_exact(&mut start).await.unwrap();
            connection.write_all(b"too large").await.unwrap();
        });
        client.write_all(&vec![7; 16 * 1024 * 1024]).await.expect("all of it is taken");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an end, not a reset");
        assert_eq!(answer, b"too large");
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_speaks_is_closed_and_who_spoke_is_not() {
        let acceptor = Acceptor::new();
        let (_silent, connection) = pair(&acceptor).await;
        let error = connection.unwrap().read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut speaker, connection) = pair(&acceptor).await;
        let mut connection = connection.unwrap();
        speaker.write_all(b"x").await.unwrap();
        connection.read_u8().await.unwrap();
        assert!(timeout(10 * FIRST_BYTE, connection.read_u8()).await.is_err(), "what comes later is for HTTP to judge");
    }

    #[tokio::test]
    async fn connections_are_limited_and_places_come_back() {
        let acceptor = Acceptor { places: Arc::new(Semaphore::new(1)) };
        let (client, first) = pair(&acceptor).await;
        assert!(pair(&acceptor).await.1.unwrap_err().to_string().contains("as many"));
        drop((client, first));
        let place = acceptor.places.clone().acquire_owned().await;
        drop(place);
        assert!(pair(&acceptor).await.1.is_ok());
    }
}
