//! The JSON of sandboxes.

use std::collections::BTreeMap;
use std::time::Duration;

use auralink_infrastructure::vm::service::{Begin, Captured, EngineInfo, Log, Record, Request, SnapshotRecord};
use auralink_infrastructure::vm::tools::{Manifest, Tool};
use auralink_infrastructure::vm::{ExecSpec, ExitStatus, Limits, Network, Usage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::ApiError;

/// A sandbox to be made. Everything may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateSandbox {
    /// Up to 63 of a-z, 0-9 and '-'.
    name: String,
    /// The server's default if absent.
    engine: Option<String>,
    /// An image by name. With neither of the three: the host's own programs, read-only.
    image: Option<String>,
    /// A snapshot by id.
    snapshot: Option<String>,
    /// A folder or archive on the server, below a folder that its configuration allows.
    rootfs: Option<String>,
    /// Thousandths of a CPU.
    cpu_millis: Option<u32>,
    /// Bytes.
    memory_bytes: Option<u64>,
    /// Bytes.
    disk_bytes: Option<u64>,
    /// Processes and threads at once.
    processes: Option<u32>,
    /// Seconds from its first start; 0: until it is deleted.
    lifetime_s: Option<u64>,
    /// `none`, `nat`, or with `allow` a list of destinations.
    #[schema(example = "none")]
    network: Option<String>,
    /// Destinations such as `203.0.113.7:443`, `[2001:db8::1]:443` or `203.0.113.0/24`.
    allow: Vec<String>,
    /// Environment of its programs.
    env: BTreeMap<String, String>,
    /// Folder that programs run in.
    workdir: String,
    /// Labels.
    labels: BTreeMap<String, String>,
    /// `runsc` and such, where the engine takes one.
    runtime: String,
    /// Whether it is started; true if absent.
    start: Option<bool>,
    /// Tools that it shall have.
    tools: Vec<WantedTool>,
}

/// A tool, fetched once for all sandboxes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedTool {
    name: String,
    version: String,
    /// Where its archive is.
    url: String,
    /// Of the archive, hexadecimal.
    sha256: String,
    /// Folders of its programs, in the archive.
    #[serde(default)]
    bin: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Whether the archive has all its files in one folder, which is left out.
    #[serde(default)]
    strip: bool,
}

impl CreateSandbox {
    pub fn into_request(self) -> Result<Request, ApiError> {
        let usual = Limits::default();
        let begin = match (self.image, self.snapshot, self.rootfs) {
            (None, None, None) => Begin::Host,
            (Some(name), None, None) => Begin::Image(name),
            (None, Some(id), None) => Begin::Snapshot(id),
            (None, None, Some(path)) => Begin::RootFs(path.into()),
            _ => return Err(ApiError::invalid_argument("`image`, `snapshot` and `rootfs`: at most one of them")),
        };
        let network = match (self.network.as_deref(), self.allow.as_slice()) {
            (None | Some("none"), []) => Network::None,
            (Some("nat"), []) => Network::Nat,
            (None | Some("allow"), list) => Network::Allow(list.iter().map(|text| destination(text)).collect::<Result<_, _>>()?),
            _ => return Err(ApiError::invalid_argument("`network` is `none`, `nat`, or `allow` with a list of destinations in `allow`")),
        };
        let tools = self.tools.into_iter().map(|tool| {
            let WantedTool { name, version, url, sha256, bin, env, strip } = tool;
            Tool { name, version, url, sha256, bin, env, strip }
        });
        Ok(Request {
            engine: self.engine,
            name: self.name,
            limits: Limits {
                cpu_millis: self.cpu_millis.unwrap_or(usual.cpu_millis),
                memory_bytes: self.memory_bytes.unwrap_or(usual.memory_bytes),
                disk_bytes: self.disk_bytes.unwrap_or(usual.disk_bytes),
                processes: self.processes.unwrap_or(usual.processes),
                lifetime_s: self.lifetime_s.unwrap_or(usual.lifetime_s),
            },
            network,
            env: self.env,
            workdir: self.workdir,
            labels: self.labels,
            runtime: self.runtime,
            tools: Manifest { tools: tools.collect() },
            start: self.start.unwrap_or(true),
            ..Request::new(begin)
        })
    }
}

/// `ADDRESS`, `ADDRESS/PREFIX`, `ADDRESS:PORT`, `[ADDRESS]:PORT`.
fn destination(text: &str) -> Result<auralink_infrastructure::vm::spec::Destination, ApiError> {
    let (address, port) = match text.parse::<std::net::SocketAddr>() {
        Ok(both) => (both.ip().to_string(), both.port().into()),
        Err(_) => (text.to_owned(), 0),
    };
    crate::sandboxes::destination(&address, port).map_err(ApiError::invalid_argument)
}

/// A sandbox. Times are milliseconds since 1970.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sandbox {
    id: String,
    name: String,
    engine: String,
    /// `creating`, `stopped`, `starting`, `running`, `paused`, `stopping`, `deleting`.
    status: &'static str,
    /// Why it is so, when it was not asked for.
    why: String,
    /// `host`, `image NAME`, `snapshot ID`, `rootfs PATH`.
    source: String,
    cpu_millis: u32,
    memory_bytes: u64,
    disk_bytes: u64,
    processes: u32,
    lifetime_s: u64,
    labels: BTreeMap<String, String>,
    created_ms: u64,
    started_ms: Option<u64>,
    expires_ms: Option<u64>,
}

impl From<Record> for Sandbox {
    fn from(record: Record) -> Self {
        let limits = record.spec.limits;
        Self {
            id: record.id.to_string(),
            name: record.name,
            engine: record.engine,
            status: record.status.as_str(),
            why: record.why,
            source: record.source,
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            disk_bytes: limits.disk_bytes,
            processes: limits.processes,
            lifetime_s: limits.lifetime_s,
            labels: record.spec.labels,
            created_ms: record.created_ms,
            started_ms: record.started_ms,
            expires_ms: record.expires_ms,
        }
    }
}

/// Sandboxes.
#[derive(Debug, Serialize, ToSchema)]
pub struct SandboxList {
    /// In the order of ids.
    pub sandboxes: Vec<Sandbox>,
}

/// A program to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments.
    #[schema(example = json!(["sh", "-c", "echo hello"]))]
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cwd: String,
    #[serde(default)]
    user: String,
    /// Its standard input.
    #[serde(default)]
    stdin: String,
    /// Milliseconds until it is killed; 0 or absent: as long as it may take.
    #[serde(default)]
    timeout_ms: u64,
}

impl Exec {
    /// The program and its input.
    pub fn into_spec(self) -> (ExecSpec, String) {
        let timeout = Some(self.timeout_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        (ExecSpec { argv: self.argv, env: self.env, cwd: self.cwd, user: self.user, tty: None, timeout }, self.stdin)
    }
}

/// How a program ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Exit {
    /// 128 + signal when a signal ended it.
    code: i32,
    signal: Option<i32>,
    timed_out: bool,
    out_of_memory: bool,
}

impl From<ExitStatus> for Exit {
    fn from(exit: ExitStatus) -> Self {
        Self { code: exit.code, signal: exit.signal, timed_out: exit.timed_out, out_of_memory: exit.out_of_memory }
    }
}

/// A program that ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Executed {
    /// Its number among the sandbox's programs.
    exec: u32,
    exit: Exit,
    /// As text; what is no UTF-8 is replaced, and `stdout_base64` has it whole.
    stdout: String,
    stderr: String,
    /// Only when the output is no UTF-8.
    stdout_base64: Option<String>,
    /// Only when the output is no UTF-8.
    stderr_base64: Option<String>,
    /// Whether more came than is here.
    truncated: bool,
}

/// Text, and base64 when it is none.
fn texts(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(STANDARD.encode(bytes))),
    }
}

impl From<Captured> for Executed {
    fn from(done: Captured) -> Self {
        let ((stdout, stdout_base64), (stderr, stderr_base64)) = (texts(&done.stdout), texts(&done.stderr));
        Self { exec: done.number, exit: done.exit.into(), stdout, stderr, stdout_base64, stderr_base64, truncated: done.truncated }
    }
}

/// The newest output of a program.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeptLog {
    exec: u32,
    argv: Vec<String>,
    started_ms: u64,
    /// Absent: it runs, or its end was not seen.
    exit: Option<Exit>,
    /// Bytes that came before what is here.
    dropped: u64,
    /// Standard output and standard error as they came, as text.
    output: String,
}

impl From<Log> for KeptLog {
    fn from(log: Log) -> Self {
        let bytes: Vec<u8> = log.chunks.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect();
        let output = String::from_utf8_lossy(&bytes).into_owned();
        Self { exec: log.exec, argv: log.argv, started_ms: log.started_ms, exit: log.exit.map(Exit::from), dropped: log.dropped, output }
    }
}

/// Logs.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogList {
    /// Oldest program first.
    pub logs: Vec<KeptLog>,
}

/// What a sandbox uses.
#[derive(Debug, Serialize, ToSchema)]
pub struct SandboxUsage {
    /// Microseconds of CPU since its start.
    cpu_us: u64,
    memory_bytes: u64,
    /// 0: the engine does not tell.
    memory_peak_bytes: u64,
    processes: u64,
    /// 0: the engine does not tell.
    disk_bytes: u64,
}

impl From<Usage> for SandboxUsage {
    fn from(usage: Usage) -> Self {
        Self {
            cpu_us: u64::try_from(usage.cpu.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: usage.memory_bytes,
            memory_peak_bytes: usage.memory_peak_bytes,
            processes: usage.processes,
            disk_bytes: usage.disk_bytes,
        }
    }
}

/// A snapshot.
#[derive(Debug, Serialize, ToSchema)]
pub struct Snapshot {
    id: String,
    engine: String,
    sandbox: String,
    created_ms: u64,
}

impl From<SnapshotRecord> for Snapshot {
    fn from(record: SnapshotRecord) -> Self {
        Self { id: record.id, engine: record.engine, sandbox: record.sandbox.to_string(), created_ms: record.created_ms }
    }
}

/// Snapshots.
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotList {
    /// Newest first.
    pub snapshots: Vec<Snapshot>,
}

/// An engine.
#[derive(Debug, Serialize, ToSchema)]
pub struct SandboxEngine {
    name: &'static str,
    default: bool,
    usable: bool,
    /// Why it cannot be used.
    reason: String,
    pause: bool,
    snapshot: bool,
    tty: bool,
    nat: bool,
    allow_list: bool,
    notes: Vec<String>,
}

impl From<EngineInfo> for SandboxEngine {
    fn from(engine: EngineInfo) -> Self {
        let (can, reason, usable) = match engine.state {
            Ok(can) => (can, String::new(), true),
            Err(reason) => (Default::default(), reason, false),
        };
        Self {
            name: engine.name,
            default: engine.default,
            usable,
            reason,
            pause: can.pause,
            snapshot: can.snapshot,
            tty: can.tty,
            nat: can.nat,
            allow_list: can.allow_list,
            notes: can.notes,
        }
    }
}

/// Engines.
#[derive(Debug, Serialize, ToSchema)]
pub struct EngineList {
    /// By name.
    pub engines: Vec<SandboxEngine>,
}
