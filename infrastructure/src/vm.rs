//! Sandboxes: a place where somebody's program runs without reaching anything that was not given to it.
//!
//! Place: `service` (limits, records, adoption after a restart, events) stands on [`Engine`]s, one file each. Rule: an engine keeps no
//! state of its own that a crash could lose: what it made can be found again by [`Engine::found`] and removed by [`Engine::delete`].

pub mod agent;
pub(crate) mod bridge;
pub mod container;
pub(crate) mod disk;
pub mod firecracker;
pub mod image;
pub mod network;
pub mod process;
pub mod qemu;
pub mod remove;
pub mod service;
pub mod spec;
mod tap;
pub mod tools;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use spec::{Limits, Network, SandboxId, SharedFolder, Source, Spec};

/// What an engine can do on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Memory can be frozen and go on.
    pub pause: bool,
    /// A running sandbox can be written to disk and begun again from there.
    pub snapshot: bool,
    /// Programs can have a terminal.
    pub tty: bool,
    /// Networks beside none.
    pub nat: bool,
    /// Networks that reach listed destinations alone.
    pub allow_list: bool,
    /// What an operator should know: KVM missing, limits not enforced and why.
    pub notes: Vec<String>,
}

/// What a sandbox uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since its start.
    pub cpu: Duration,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Largest memory so far, bytes; 0 when the engine does not tell.
    pub memory_peak_bytes: u64,
    /// Processes and threads now.
    pub processes: u64,
    /// What it wrote to its own disk, bytes; 0 when the engine does not tell.
    pub disk_bytes: u64,
}

/// How a sandbox is, as its engine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Made, not started, or stopped.
    Stopped,
    /// Programs can run.
    Running,
    /// Frozen.
    Paused,
    /// The engine knows nothing of it.
    Gone,
}

/// A program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The program and its arguments; at least one.
    pub argv: Vec<String>,
    /// Environment beside the sandbox's own.
    pub env: BTreeMap<String, String>,
    /// Folder to run in; empty: the sandbox's own.
    pub cwd: String,
    /// User, by name or number; empty: the sandbox's own.
    pub user: String,
    /// A terminal of this size instead of three pipes; standard error then comes with standard output.
    pub tty: Option<TtySize>,
    /// Killed after this.
    pub timeout: Option<Duration>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What goes to a running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// Its standard input ends.
    CloseStdin,
    /// Its terminal has another size.
    Resize(TtySize),
    /// A signal, by number, to it and to what it started.
    Signal(i32),
}

/// What comes from a running program. The last one is [`ExecOutput::Exited`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes of standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// It is over.
    Exited(ExitStatus),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + signal when a signal ended it, as shells have it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its time was over.
    pub timed_out: bool,
    /// The memory limit ended it.
    pub out_of_memory: bool,
}

/// A running program. Both channels are bounded: who does not read holds the program back, and nothing grows. Dropping `input` ends
/// nothing but the input (standard input is closed); dropping `output` kills the program.
#[derive(Debug)]
pub struct Exec {
    /// To the program.
    pub input: mpsc::Sender<ExecInput>,
    /// From the program. It ends without [`ExecOutput::Exited`] only when the sandbox itself ended or the engine was lost.
    pub output: mpsc::Receiver<Result<ExecOutput, VmError>>,
}

/// One entry of a folder in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name without folder.
    pub name: String,
    /// `file`, `folder`, `link` or `other`.
    pub kind: FileKind,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// A byte stream into a sandbox.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Something that runs sandboxes. Each method may be called at any time and in any order; what does not fit the sandbox's condition is
/// answered with [`VmError::Condition`].
#[async_trait]
pub trait Engine: Send + Sync {
    /// `process`, `docker`, `podman`, `qemu`, `firecracker`.
    fn name(&self) -> &'static str;

    /// Whether it works here and what it can do. [`VmError::Unavailable`] says what is missing and how to get it.
    async fn probe(&self) -> Result<Capabilities, VmError>;

    /// Makes a sandbox, not started. `home` is an empty folder of its own (mode 0700) that the service deletes after [`Engine::delete`].
    async fn create(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError>;

    /// Starts it; when this returns, programs can be run.
    async fn start(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError>;

    /// Ends it: asked first, killed after `grace`. Its files stay.
    async fn stop(&self, id: &SandboxId, home: &Path, grace: Duration) -> Result<(), VmError>;

    /// Freezes it.
    async fn pause(&self, id: &SandboxId, home: &Path) -> Result<(), VmError>;

    /// Lets it go on.
    async fn resume(&self, id: &SandboxId, home: &Path) -> Result<(), VmError>;

    /// Writes it to `folder` (empty, its own), so that [`Source::Snapshot`] can begin from there; it is as it was afterwards.
    async fn snapshot(&self, id: &SandboxId, home: &Path, folder: &Path) -> Result<(), VmError>;

    /// Removes everything of it, whatever its condition, also when parts of it are gone already.
    async fn delete(&self, id: &SandboxId, home: &Path) -> Result<(), VmError>;

    /// How it is. Never fails for one that is gone.
    async fn condition(&self, id: &SandboxId, home: &Path) -> Result<Condition, VmError>;

    /// Every sandbox of this server's (by its data folder or label) that the engine has something of, known to the service or not.
    async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError>;

    /// Runs a program. A missing program is [`VmError::NoProgram`].
    async fn exec(&self, id: &SandboxId, home: &Path, exec: ExecSpec) -> Result<Exec, VmError>;

    /// Writes a file of exactly `size` bytes from `content`, whole or not at all; missing folders are made.
    async fn write_file(
        &self,
        id: &SandboxId,
        home: &Path,
        path: &str,
        mode: u32,
        size: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), VmError>;

    /// Opens a file for reading; answers its size.
    async fn read_file(&self, id: &SandboxId, home: &Path, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError>;

    /// Lists a folder, at most `limit` entries in the order of names.
    async fn list_folder(&self, id: &SandboxId, home: &Path, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError>;

    /// Connects to a TCP port that a program in the sandbox listens on.
    async fn dial(&self, id: &SandboxId, home: &Path, port: u16) -> Result<Box<dyn Stream>, VmError>;

    /// What it uses.
    async fn usage(&self, id: &SandboxId, home: &Path) -> Result<Usage, VmError>;
}

/// Why something with a sandbox did not work.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The engine is not there, or cannot work on this machine.
    #[error("the sandbox engine `{engine}` cannot be used: {reason}")]
    Unavailable {
        /// Which.
        engine: &'static str,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The engine cannot do this.
    #[error("the sandbox engine `{engine}` cannot {what}")]
    Unsupported {
        /// Which.
        engine: &'static str,
        /// Do what.
        what: String,
    },
    /// What was asked for is not right.
    #[error("{0}")]
    Invalid(String),
    /// There is no such sandbox, image, snapshot or file.
    #[error("{0}")]
    NotFound(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// A limit of this server or of the tenant is reached.
    #[error("{0}")]
    Exhausted(String),
    /// It cannot be done in the sandbox's condition.
    #[error("the sandbox is {is}: {what}")]
    Condition {
        /// How it is.
        is: &'static str,
        /// What to do first.
        what: String,
    },
    /// The program is not in the sandbox.
    #[error("there is no program `{0}` in the sandbox: give its path, or install it")]
    NoProgram(String),
    /// The sandbox ended while something went on in it.
    #[error("the sandbox ended: {0}")]
    Ended(String),
    /// It took too long.
    #[error("{what} took longer than {} s", .after.as_secs())]
    Late {
        /// What.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The engine failed.
    #[error("the sandbox engine `{engine}` failed: {reason}")]
    Engine {
        /// Which.
        engine: &'static str,
        /// Its words.
        reason: String,
    },
    /// This machine failed: a full disk, no permission.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}
