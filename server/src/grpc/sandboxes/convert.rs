//! Between the API's words and the service's.

use std::time::Duration;

use auralink_infrastructure::vm::image::Image;
use auralink_infrastructure::vm::service::{Begin, EngineInfo, Event, Log, Record, Request, SnapshotRecord};
use auralink_infrastructure::vm::spec::Destination;
use auralink_infrastructure::vm::tools::{Manifest, Tool};
use auralink_infrastructure::vm::{ExecSpec, ExitStatus, FileEntry, FileKind, Limits, Network, TtySize, Usage};
use auralink_proto::v1::*;
use tonic::Status;

pub fn request(message: CreateSandboxRequest) -> Result<Request, Status> {
    let begin = match message.begin {
        None => Begin::Host,
        Some(create_sandbox_request::Begin::Image(name)) => Begin::Image(name),
        Some(create_sandbox_request::Begin::Snapshot(id)) => Begin::Snapshot(id),
        Some(create_sandbox_request::Begin::Rootfs(path)) => Begin::RootFs(path.into()),
    };
    let (asked, usual) = (message.limits.unwrap_or_default(), Limits::default());
    Ok(Request {
        engine: Some(message.engine).filter(|name| !name.is_empty()),
        name: message.name,
        limits: Limits {
            cpu_millis: asked.cpu_millis.unwrap_or(usual.cpu_millis),
            memory_bytes: asked.memory_bytes.unwrap_or(usual.memory_bytes),
            disk_bytes: asked.disk_bytes.unwrap_or(usual.disk_bytes),
            processes: asked.processes.unwrap_or(usual.processes),
            lifetime_s: asked.lifetime_s.unwrap_or(usual.lifetime_s),
        },
        network: network(message.network.unwrap_or_default())?,
        env: message.env.into_iter().collect(),
        workdir: message.workdir,
        labels: message.labels.into_iter().collect(),
        runtime: message.runtime,
        tools: Manifest { tools: message.tools.into_iter().map(tool).collect() },
        start: !message.stopped,
        ..Request::new(begin)
    })
}

fn network(asked: SandboxNetwork) -> Result<Network, Status> {
    match asked.kind() {
        sandbox_network::Kind::None => Ok(Network::None),
        sandbox_network::Kind::Nat => Ok(Network::Nat),
        sandbox_network::Kind::Allow => {
            let parsed = asked.allow.iter().map(|to| crate::sandboxes::destination(&to.address, to.port)).collect::<Result<_, String>>();
            Ok(Network::Allow(parsed.map_err(Status::invalid_argument)?))
        }
    }
}

fn tool(tool: SandboxTool) -> Tool {
    let SandboxTool { name, version, url, sha256, bin, env, strip } = tool;
    Tool { name, version, url, sha256, bin, env: env.into_iter().collect(), strip }
}

pub fn sandbox(record: Record) -> Sandbox {
    let limits = record.spec.limits;
    let network = match record.spec.network {
        Network::None => SandboxNetwork::default(),
        Network::Nat => SandboxNetwork { kind: sandbox_network::Kind::Nat.into(), allow: Vec::new() },
        Network::Allow(to) => {
            SandboxNetwork { kind: sandbox_network::Kind::Allow.into(), allow: to.into_iter().map(destination).collect() }
        }
    };
    Sandbox {
        id: record.id.to_string(),
        name: record.name,
        engine: record.engine,
        status: record.status.as_str().to_owned(),
        why: record.why,
        source: record.source,
        limits: Some(SandboxLimits {
            cpu_millis: Some(limits.cpu_millis),
            memory_bytes: Some(limits.memory_bytes),
            disk_bytes: Some(limits.disk_bytes),
            processes: Some(limits.processes),
            lifetime_s: Some(limits.lifetime_s),
        }),
        network: Some(network),
        labels: record.spec.labels.into_iter().collect(),
        workdir: record.spec.workdir,
        created_ms: record.created_ms,
        started_ms: record.started_ms.unwrap_or_default(),
        expires_ms: record.expires_ms.unwrap_or_default(),
    }
}

fn destination(to: Destination) -> SandboxDestination {
    SandboxDestination { address: format!("{}/{}", to.address, to.prefix), port: to.port.unwrap_or_default().into() }
}

pub fn snapshot(record: SnapshotRecord) -> SandboxSnapshot {
    SandboxSnapshot {
        id: record.id,
        engine: record.engine,
        sandbox: record.sandbox.to_string(),
        labels: record.labels.into_iter().collect(),
        created_ms: record.created_ms,
    }
}

pub fn tty(size: SandboxTtySize) -> Result<TtySize, Status> {
    let short = |value: u32| u16::try_from(value).ok().filter(|value| *value > 0);
    match (short(size.rows), short(size.columns)) {
        (Some(rows), Some(columns)) => Ok(TtySize { rows, columns }),
        _ => Err(Status::invalid_argument(format!("a terminal of {} x {} is not taken", size.rows, size.columns))),
    }
}

pub fn program(program: SandboxProgram) -> Result<(String, ExecSpec), Status> {
    let spec = ExecSpec {
        argv: program.argv,
        env: program.env.into_iter().collect(),
        cwd: program.cwd,
        user: program.user,
        tty: program.tty.map(tty).transpose()?,
        timeout: Some(program.timeout_ms).filter(|ms| *ms > 0).map(Duration::from_millis),
    };
    Ok((program.sandbox, spec))
}

pub fn exit(exit: ExitStatus) -> SandboxExit {
    SandboxExit { code: exit.code, signal: exit.signal, timed_out: exit.timed_out, out_of_memory: exit.out_of_memory }
}

pub fn file_entry(entry: FileEntry) -> SandboxFileEntry {
    let kind = match entry.kind {
        FileKind::File => "file",
        FileKind::Folder => "folder",
        FileKind::Link => "link",
        FileKind::Other => "other",
    };
    SandboxFileEntry { name: entry.name, kind: kind.into(), size: entry.size, mode: entry.mode }
}

pub fn log(log: Log) -> SandboxLog {
    SandboxLog {
        exec: log.exec,
        argv: log.argv,
        started_ms: log.started_ms,
        exit: log.exit.map(exit),
        dropped: log.dropped,
        chunks: log.chunks.into_iter().map(|chunk| SandboxLogChunk { stderr: chunk.stderr, content: chunk.bytes.into() }).collect(),
    }
}

pub fn event(event: Event) -> SandboxEvent {
    SandboxEvent {
        number: event.number,
        at_ms: event.at_ms,
        sandbox: event.sandbox.to_string(),
        kind: event.kind.as_str().into(),
        detail: event.detail,
        exec: event.exec.unwrap_or_default(),
        exit: event.exit.map(exit),
    }
}

pub fn usage(usage: Usage) -> SandboxUsage {
    SandboxUsage {
        cpu_us: u64::try_from(usage.cpu.as_micros()).unwrap_or(u64::MAX),
        memory_bytes: usage.memory_bytes,
        memory_peak_bytes: usage.memory_peak_bytes,
        processes: usage.processes,
        disk_bytes: usage.disk_bytes,
    }
}

pub fn engine(engine: EngineInfo) -> SandboxEngine {
    let (can, reason, usable) = match engine.state {
        Ok(can) => (can, String::new(), true),
        Err(reason) => (Default::default(), reason, false),
    };
    SandboxEngine {
        name: engine.name.into(),
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

pub fn image(image: Image) -> SandboxImage {
    SandboxImage {
        name: image.name,
        shared: image.owner.is_none(),
        digest: image.digest,
        bytes: image.bytes,
        entries: image.entries,
        dropped: image.dropped,
        stripped: image.stripped,
        imported_ms: image.imported_ms,
    }
}
