//! One machine: how it is started, found again and ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use auralink_guest::message::{hex, unhex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::process::Command;

use super::initrd::Devices;
use super::qmp::Qmp;
use super::tool_disks::{self, ToolDisk};
use super::{ENGINE, QemuConfig};
use crate::vm::agent::Agent;
use crate::vm::network::TapDevice;
use crate::vm::{Network, SandboxId, Spec, VmError, disk};

/// The file that says how a machine was made.
pub const FILE: &str = "machine.json";

/// Serial ports for the agent: one for this server, one for the next while this one still ends.
const PORTS: usize = 2;

/// How long QEMU may take until it answers, its guest not counted.
const START: Duration = Duration::from_secs(20);

/// Least memory of programs, bytes.
const LEAST_MEMORY: u64 = 16 << 20;

/// Memory of the kernel and the agent beside what programs may use, MiB.
const KERNEL_MIB: u64 = 96;

/// Longest path of a unix socket.
const SOCKET_PATH: usize = 107;

/// How a machine was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// What begins a connection on its serial ports, hexadecimal.
    key: String,
    /// Bytes that its programs may use together.
    memory_bytes: u64,
    cpus: u32,
    processes: u32,
    /// Environment of its programs.
    pub env: BTreeMap<String, String>,
    /// Folder of its programs.
    pub workdir: String,
    /// None: the trial, which has no disks.
    disks: bool,
    /// Whether it has a network interface.
    #[serde(default)]
    pub network: bool,
    /// Read-only disks beside its own two.
    #[serde(default)]
    pub tools: Vec<ToolDisk>,
    /// The kernel's file; a snapshot goes on with the one that it was begun with.
    #[serde(default = "compressed")]
    kernel: String,
}

/// Of machines that were made before this was written down.
fn compressed() -> String {
    "vmlinuz".into()
}

/// The unpacked kernel where there is one: unpacking it takes a guest that is emulated half a second.
fn kernel_in(folder: &Path) -> String {
    if folder.join("vmlinux").is_file() { "vmlinux".into() } else { compressed() }
}

impl Machine {
    /// As a spec wants it.
    pub fn of(spec: &Spec, tools: Vec<ToolDisk>, config: &QemuConfig) -> Result<Self, VmError> {
        if spec.limits.memory_bytes < LEAST_MEMORY {
            return Err(VmError::Invalid(format!("{} bytes of memory are too few: {LEAST_MEMORY} at least", spec.limits.memory_bytes)));
        }
        Ok(Self {
            key: hex(&key()?),
            memory_bytes: spec.limits.memory_bytes,
            cpus: spec.limits.cpu_millis.div_ceil(1_000).clamp(1, 64),
            processes: spec.limits.processes,
            env: spec.env.clone(),
            workdir: spec.workdir.clone(),
            disks: true,
            network: spec.network != Network::None,
            tools,
            kernel: kernel_in(&config.kernel),
        })
    }

    /// With nothing but the agent.
    pub fn trial(config: &QemuConfig) -> Result<Self, VmError> {
        Ok(Self {
            key: hex(&key()?),
            memory_bytes: LEAST_MEMORY,
            cpus: 1,
            processes: 0,
            env: BTreeMap::new(),
            workdir: String::new(),
            disks: false,
            network: false,
            tools: Vec::new(),
            kernel: kernel_in(&config.kernel),
        })
    }

    /// Its devices beside the disks.
    pub fn devices(&self) -> Devices {
        Devices { serial: true, network: self.network, ..Devices::default() }
    }

    /// Its memory, processors, devices and key are the snapshot's; the rest is the new spec's.
    pub fn begun_from_snapshot(self, spec: &Spec, tools: &[ToolDisk]) -> Result<Self, VmError> {
        let other = |what: &str| VmError::Unsupported {
            engine: ENGINE,
            what: format!("begin from a snapshot with {what} than it was taken with: its memory knows the devices that it had"),
        };
        if self.network != (spec.network != Network::None) {
            return Err(other(if self.network { "no network rather" } else { "more of a network" }));
        }
        if self.tools != tools {
            return Err(other("other tools"));
        }
        Ok(Self { env: spec.env.clone(), workdir: spec.workdir.clone(), ..self })
    }

    /// Writes it down, whole or not at all.
    pub fn save(&self, home: &Path) -> Result<(), VmError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| VmError::Invalid(format!("a machine that JSON cannot carry: {e}")))?;
        disk::write_whole(&home.join(FILE), &json)
            .map_err(|source| VmError::Io { what: format!("writing {FILE} in {}", home.display()), source })
    }

    /// As it was written down.
    pub fn load(home: &Path, id: &SandboxId) -> Result<Self, VmError> {
        let json = match std::fs::read(home.join(FILE)) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(VmError::NotFound(format!("there is no sandbox or snapshot {id} in {}", home.display())));
            }
            Err(source) => return Err(VmError::Io { what: format!("reading {FILE} in {}", home.display()), source }),
        };
        serde_json::from_slice(&json)
            .map_err(|e| VmError::Engine { engine: ENGINE, reason: format!("{FILE} in {} is damaged: {e}", home.display()) })
    }

    fn key(&self) -> Result<[u8; 16], VmError> {
        let key = unhex(&self.key).and_then(|bytes| bytes.try_into().ok());
        key.ok_or_else(|| VmError::Engine { engine: ENGINE, reason: format!("{FILE} has no key") })
    }
}

fn key() -> Result<[u8; 16], VmError> {
    let mut key = [0; 16];
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| VmError::Io { what: "making a key".into(), source: std::io::Error::other("no random bytes") })?;
    Ok(key)
}

/// Whether QEMU and the kernel are there.
pub async fn check(config: &QemuConfig) -> Result<(), VmError> {
    let unavailable = |reason: String| VmError::Unavailable { engine: ENGINE, reason };
    let version = Command::new(&config.program).arg("--version").stdin(Stdio::null()).output().await;
    version.map_err(|error| unavailable(format!("{}: {error}; apt-get install qemu-system-x86", config.program.display())))?;
    let kernel = config.kernel.join(kernel_in(&config.kernel));
    if !kernel.is_file() {
        return Err(unavailable(format!("there is no kernel {}: run `make setup`", kernel.display())));
    }
    Ok(())
}

fn arguments(kernel: &Path, kvm: bool, machine: &Machine, home: &Path, tap: Option<&TapDevice>, is_incoming: bool) -> Vec<String> {
    let file = |name: &str| escaped(&home.join(name));
    // The kernel's tests of its own ciphers take a third of an emulated machine's start.
    let mut line = format!("console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests auralink.key={}", machine.key);
    if !kvm {
        // Without the first a kernel on this machine type waits for a timer that is not there. The second: an emulated processor does not
        // speculate, so what guards against that costs time alone.
        line.push_str(" tsc_early_khz=1000000 mitigations=off");
    }
    let ports: Vec<String> = (0..PORTS).map(|n| format!("auralink.{n}")).collect();
    line.push_str(&format!(
        " auralink.serial={} auralink.processes={} auralink.memory={}",
        ports.join(","),
        machine.processes,
        machine.memory_bytes
    ));
    if machine.disks {
        line.push_str(&format!(" auralink.root=/dev/vda auralink.disk=/dev/vdb auralink.workdir={}", hex(machine.workdir.as_bytes())));
    }
    line.push_str(&tool_disks::words(&machine.tools));
    let memory = format!("{}M", machine.memory_bytes.div_ceil(1 << 20) + KERNEL_MIB);
    let cpus = machine.cpus.to_string();
    let mut arguments: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-M",
        "microvm,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-m",
        &memory,
        "-smp",
        &cpus,
        "-chardev",
        "ringbuf,id=console,size=65536",
        "-serial",
        "chardev:console",
        "-device",
        "virtio-serial-device",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    add("-accel", if kvm { "kvm".into() } else { "tcg,thread=multi".into() });
    add("-cpu", if kvm { "host".into() } else { "max".into() });
    add("-kernel", kernel.join(&machine.kernel).display().to_string());
    add("-initrd", home.join("initrd").display().to_string());
    add("-append", line);
    add("-pidfile", home.join("qemu.pid").display().to_string());
    add("-qmp", format!("unix:{},server=on,wait=off", file("qmp.sock")));
    for (n, port) in ports.iter().enumerate() {
        add("-chardev", format!("socket,id=agent{n},path={},server=on,wait=off", file(&format!("agent-{n}.sock"))));
        add("-device", format!("virtserialport,chardev=agent{n},name={port}"));
    }
    if machine.disks {
        for (name, mode) in [("root", "on"), ("disk", "off")] {
            add("-drive", format!("id={name},if=none,format=raw,file={},readonly={mode}", file(&format!("{name}.img"))));
            add("-device", format!("virtio-blk-device,drive={name}"));
        }
        for (n, tool) in machine.tools.iter().enumerate() {
            add("-drive", format!("id=tool{n},if=none,format=raw,file={},readonly=on", escaped(&tool.image)));
            add("-device", format!("virtio-blk-device,drive=tool{n}"));
        }
    }
    if let Some(tap) = tap {
        add("-netdev", format!("tap,id=net,ifname={},script=no,downscript=no", tap.name));
        add("-device", format!("virtio-net-device,netdev=net,mac={}", tap.port.mac));
    }
    if is_incoming {
        add("-incoming", "defer".into());
    }
    arguments
}

/// A path in QEMU's option syntax, where a comma is written twice.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Starts QEMU in a session of its own; it answers when this returns, its guest does not yet.
pub async fn start(
    config: &QemuConfig,
    kvm: bool,
    machine: &Machine,
    home: &Path,
    tap: Option<&TapDevice>,
    memory: Option<&Path>,
) -> Result<(), VmError> {
    if home.join("memory.sock").as_os_str().len() > SOCKET_PATH {
        return Err(VmError::Invalid(format!(
            "{} is too long for unix sockets: let the data folder be nearer to the root",
            home.display()
        )));
    }
    let sockets = (0..PORTS).map(|n| format!("agent-{n}.sock"));
    for left in sockets.chain(["qmp.sock", "qemu.pid"].map(str::to_owned)) {
        let _ = std::fs::remove_file(home.join(left));
    }
    set_paused(home, false)?;
    let arguments = arguments(&config.kernel, kvm, machine, home, tap, memory.is_some());
    let said = File::create(home.join("qemu.log")).map_err(|source| VmError::Io { what: "making qemu.log".into(), source })?;
    // A session of its own, so that what ends the server's ends no machine. QEMU's own -daemonize does not go with its -sandbox.
    let mut command = match config.network.inside.as_ref().filter(|_| tap.is_some()) {
        Some(inside) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", inside.display())).arg("--").arg("setsid");
            command
        }
        None => Command::new("setsid"),
    };
    let child = command.arg(&config.program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
    let mut child =
        child.map_err(|error| VmError::Unavailable { engine: ENGINE, reason: format!("setsid (apt-get install util-linux): {error}") })?;
    let ready = async {
        while Process::of(home).is_none() || Qmp::connect(home).await.is_err() {
            if let Ok(Some(status)) = child.try_wait() {
                let said = std::fs::read_to_string(home.join("qemu.log")).unwrap_or_default();
                let said: String = said.trim().chars().take(1000).collect();
                return Err(VmError::Engine { engine: ENGINE, reason: format!("QEMU did not start ({status}): {said}") });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    let late = |_| VmError::Late { what: "the start of QEMU".into(), after: START };
    tokio::time::timeout(START, ready).await.map_err(late)??;
    if let Some(memory) = memory {
        let mut qmp = Qmp::connect(home).await?;
        qmp.load_memory(&home.join("memory.sock"), memory).await?;
        qmp.run("cont", json!({})).await?;
    }
    Ok(())
}

/// Writes down whether a machine stands still, so that nobody need ask QEMU, which talks with one at a time.
pub fn set_paused(home: &Path, paused: bool) -> Result<(), VmError> {
    let file = home.join("paused");
    let result = if paused { File::create(&file).map(drop) } else { std::fs::remove_file(&file) };
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !paused => Ok(()),
        other => other.map_err(|source| VmError::Io { what: format!("writing {}", file.display()), source }),
    }
}

/// Whether a machine stands still.
pub fn is_paused(home: &Path) -> bool {
    home.join("paused").exists()
}

/// Connects to the agent as soon as it answers. The greeting brings the guest fresh entropy and the time, also when its memory came
/// from a snapshot.
pub async fn greet(machine: &Machine, home: &Path, within: Duration) -> Result<Agent, VmError> {
    let key = machine.key()?;
    let work = async {
        loop {
            if Process::of(home).is_none() {
                return Err(VmError::Ended("QEMU ended before its guest answered".into()));
            }
            match greet_once(home, key).await {
                // Before the guest has its driver, what is written to the port is lost; and each greeting has 10 s.
                Err(VmError::Late { .. } | VmError::Engine { .. } | VmError::Io { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                other => return other,
            }
        }
    };
    let late = || VmError::Late { what: "the start of a virtual machine".into(), after: within };
    tokio::time::timeout(within, work).await.unwrap_or_else(|_| Err(late()))
}

async fn greet_once(home: &Path, key: [u8; 16]) -> Result<Agent, VmError> {
    let failed = |source| VmError::Io { what: "connecting to the agent's port".into(), source };
    for n in 0..PORTS {
        let lock = File::create(home.join(format!("agent-{n}.lock"))).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let stream = UnixStream::connect(home.join(format!("agent-{n}.sock"))).await.map_err(failed)?;
        return Agent::connect_serial(Locked { stream, _lock: lock }, ENGINE, key).await;
    }
    Err(VmError::Exhausted("all ports of the sandbox's agent are in use by other servers".into()))
}

/// The lock is free when the connection ends.
struct Locked {
    stream: UnixStream,
    _lock: File,
}

impl tokio::io::AsyncRead for Locked {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Locked {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The end of what a machine wrote to its console, for error messages.
pub async fn console(home: &Path) -> String {
    let read = async { Qmp::connect(home).await?.run("ringbuf-read", json!({"device": "console", "size": 65536})).await };
    let text = read.await.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
    let tail = text.char_indices().rev().nth(800).map_or(0, |(at, _)| at);
    text[tail..].trim().to_owned()
}

/// A machine's QEMU.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// The QEMU of this home, if it runs.
    pub fn of(home: &Path) -> Option<Self> {
        Self::found(home, "qemu.pid", "qemu.pid")
    }

    /// The process whose number stands in a file of this home. The number may have been given to another process meanwhile: so it is held
    /// first, and then its command line must name `named` in this home.
    pub fn found(home: &Path, pid_file: &str, named: &str) -> Option<Self> {
        Self::numbered(&home.join(pid_file), &home.join(named).to_string_lossy())
    }

    /// The same, named by any words.
    pub fn numbered(pid_file: &Path, named: &str) -> Option<Self> {
        let pid: i32 = std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        line.contains(named).then_some(Self { fd })
    }

    /// Waits for its end; false when it has not come in time.
    pub async fn wait(&self, most: Duration) -> bool {
        let ended = async {
            while !self.has_ended() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(most, ended).await.is_ok()
    }

    fn has_ended(&self) -> bool {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Ends it, and waits until it has ended.
    pub async fn kill(&self) {
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
        self.wait(Duration::from_secs(10)).await;
    }
}
