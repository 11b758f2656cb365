//! The client of the agent in a sandbox: programs, files, ports and figures over one byte stream.
//!
//! Place: engines whose sandboxes run `auralink-guest` connect here, by a unix socket, a serial port or a vsock. Rule: the other end is
//! the sandbox's own and may be hostile: all that is read is bounded, all that is waited for has an end, and dropping what was begun
//! (an [`Exec`]'s output, a reader, a connection) ends it in the sandbox.

mod files;
mod locate;
mod program;
mod tunnel;
mod wire;

use std::time::Duration;

use auralink_guest::message::{Interface, Reply, Request};
use tokio::io::{AsyncRead, AsyncWrite};

pub use locate::guest_binary;

use super::{Exec, ExecSpec, FileEntry, Stream, Usage, VmError};
use wire::Wire;

/// How long the agent may take to answer. A sandbox with little CPU answers in milliseconds; one that is stopped or overwhelmed does not.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a transfer may stand still.
const STANDSTILL: Duration = Duration::from_secs(60);

/// A connection to an agent. Clones share it. It ends with its last clone and the last thing that was begun on it.
#[derive(Debug, Clone)]
pub struct Agent {
    wire: Wire,
}

impl Agent {
    /// Greets the agent at the other end of a socket; `engine` names the engine in errors.
    ///
    /// # Errors
    /// [`VmError::Late`] when it does not answer in 10 s, [`VmError::Engine`] when it is none, or of another version.
    pub async fn connect(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, engine: &'static str) -> Result<Self, VmError> {
        Self::greet(stream, engine, Vec::new()).await
    }

    /// The same on a serial port, which may still hold parts of an earlier connection; `key` is the one that the machine was started with.
    ///
    /// # Errors
    /// As [`Agent::connect`].
    pub async fn connect_serial(
        mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        engine: &'static str,
        key: [u8; 16],
    ) -> Result<Self, VmError> {
        let rest = late("greeting the sandbox's agent", wire::begin_serial(&mut stream, engine, key)).await?;
        Self::greet(stream, engine, rest).await
    }

    async fn greet(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        engine: &'static str,
        rest: Vec<u8>,
    ) -> Result<Self, VmError> {
        let wire = Wire::new(stream, engine, rest);
        let agent = Self { wire };
        let hello = Request::Hello { version: auralink_guest::message::VERSION, entropy: wire::entropy()?, clock: wire::clock() };
        let mut channel = agent.wire.hello(&hello).await?;
        match late("greeting the sandbox's agent", channel.reply()).await? {
            Reply::Hello { version: auralink_guest::message::VERSION, .. } => Ok(agent),
            other => Err(agent.wire.broken(format!("it answered the greeting with {}", brief(&other)))),
        }
    }

    /// Whether the connection is of no use any more.
    pub fn is_over(&self) -> bool {
        self.wire.is_over()
    }

    /// Waits until the connection is over.
    pub async fn over(&self) {
        self.wire.over().await;
    }

    /// Runs a program; see [`super::Engine::exec`].
    ///
    /// # Errors
    /// [`VmError::NoProgram`], [`VmError::Invalid`] for arguments that are wrong or too long, [`VmError::Exhausted`] when the sandbox has no
    /// process left, [`VmError::Ended`] and [`VmError::Late`].
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, VmError> {
        program::exec(&self.wire, spec).await
    }

    /// Writes a file whole or not at all; see [`super::Engine::write_file`].
    ///
    /// # Errors
    /// As [`super::Engine::write_file`].
    pub async fn write_file(&self, path: &str, mode: u32, size: u64, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(), VmError> {
        files::write(&self.wire, path, mode, size, content).await
    }

    /// Opens a file; answers its size and a reader of exactly so many bytes.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Invalid`] for what is no regular file.
    pub async fn read_file(&self, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        files::read(&self.wire, path).await
    }

    /// Lists a folder by name, at most `limit` entries.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Invalid`] for what is no folder.
    pub async fn list_folder(&self, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
        files::list(&self.wire, path, limit).await
    }

    /// Connects to a TCP port on the sandbox's loopback.
    ///
    /// # Errors
    /// [`VmError::NotFound`] when nothing listens there.
    pub async fn dial(&self, port: u16) -> Result<Box<dyn Stream>, VmError> {
        tunnel::dial(&self.wire, port).await
    }

    /// What the sandbox uses, as it sees itself.
    ///
    /// # Errors
    /// [`VmError::Ended`] and [`VmError::Late`].
    pub async fn usage(&self) -> Result<Usage, VmError> {
        match self.ask(&Request::Usage, "asking the sandbox what it uses").await? {
            Reply::Usage(usage) => Ok(Usage {
                cpu: Duration::from_micros(usage.cpu_us),
                memory_bytes: usage.memory_bytes,
                memory_peak_bytes: usage.memory_peak_bytes,
                processes: usage.processes,
                disk_bytes: usage.disk_bytes,
            }),
            other => Err(self.wire.unexpected(&other)),
        }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`VmError::Ended`] and [`VmError::Late`].
    pub async fn ping(&self) -> Result<(), VmError> {
        self.done(&Request::Ping, "asking the sandbox's agent for a sign of life").await
    }

    /// Has an agent that was begun with `--owned` outlive this connection, and write no file larger than that.
    ///
    /// # Errors
    /// [`VmError::Ended`] and [`VmError::Late`].
    pub async fn keep(&self, file_bytes: u64) -> Result<(), VmError> {
        self.done(&Request::Keep { file_bytes }, "taking a sandbox that was made before").await
    }

    /// Mixes fresh random bytes into the sandbox's generator and sets its clock: after a snapshot was begun from, without fail. True when its
    /// kernel used them at once.
    ///
    /// # Errors
    /// [`VmError::Ended`] and [`VmError::Late`].
    pub async fn reseed(&self) -> Result<bool, VmError> {
        let request = Request::Reseed { entropy: wire::entropy()?, clock: wire::clock() };
        match self.ask(&request, "reseeding the sandbox's random generator").await? {
            Reply::Hello { reseeded, .. } => Ok(reseeded),
            other => Err(self.wire.unexpected(&other)),
        }
    }

    /// Gives a virtual machine its address.
    ///
    /// # Errors
    /// [`VmError::Engine`] when the machine has no such interface.
    pub async fn configure_network(&self, interface: Interface) -> Result<(), VmError> {
        self.done(&Request::Network(interface), "setting up the sandbox's network").await
    }

    /// Asks all programs to end, kills them after `grace`, and ends the agent, with it the machine that it is the first program of. It
    /// answers before that happens: [`Agent::over`] waits for it.
    ///
    /// # Errors
    /// [`VmError::Ended`] and [`VmError::Late`].
    pub async fn shutdown(&self, grace: Duration) -> Result<(), VmError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.done(&Request::Shutdown { grace_ms }, "asking the sandbox to end").await
    }

    async fn ask(&self, request: &Request, what: &str) -> Result<Reply, VmError> {
        late(what, async {
            let mut channel = self.wire.open(request).await?;
            let reply = channel.reply().await?;
            channel.finish();
            Ok(reply)
        })
        .await
    }

    async fn done(&self, request: &Request, what: &str) -> Result<(), VmError> {
        match self.ask(request, what).await? {
            Reply::Done => Ok(()),
            other => Err(self.wire.unexpected(&other)),
        }
    }
}

/// What `work` answers, if it does in time.
async fn late<T>(what: &str, work: impl Future<Output = Result<T, VmError>>) -> Result<T, VmError> {
    within(ANSWER, what, work).await
}

async fn within<T>(after: Duration, what: &str, work: impl Future<Output = Result<T, VmError>>) -> Result<T, VmError> {
    tokio::time::timeout(after, work).await.unwrap_or_else(|_| Err(VmError::Late { what: what.to_owned(), after }))
}

/// A reply for an error message: short, whatever a hostile agent sent.
fn brief(reply: &Reply) -> String {
    format!("{reply:?}").chars().take(200).collect()
}
