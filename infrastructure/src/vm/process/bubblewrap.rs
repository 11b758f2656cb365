//! How a sandbox is begun: the arguments of bubblewrap, and what the launcher does before it.
//!
//! Place: `start` writes what is made here into the sandbox's home and runs `auralink-guest launch`. Rule: nothing of the server's is
//! inherited (environment, descriptors, terminal, groups, capabilities); what the sandbox gets is listed here. There is no
//! `--die-with-parent`: a sandbox outlives the server, which finds it again.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use auralink_guest::launch::{Launch, Stage};

use super::layer::{self, HostFolder};
use crate::vm::{SandboxId, Spec, VmError};

/// Where the agent lies in a sandbox.
pub(super) const AGENT: &str = "/run/auralink-guest";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shared memory that programs use for semaphores and the like; it counts as memory.
const SHM_BYTES: u64 = 64 << 20;
/// Descriptors of one process.
const DESCRIPTORS: u64 = 4_096;

/// What a start needs beside the spec.
pub(super) struct Plan<'a> {
    pub(super) id: &'a SandboxId,
    pub(super) spec: &'a Spec,
    pub(super) home: &'a Path,
    pub(super) guest: &'a Path,
    /// What the agent's arguments carry, to be found by.
    pub(super) mark: &'a str,
    /// The agent ends with its first connection, until it is told to stay.
    pub(super) owned: bool,
    /// The user that the sandbox is outside, when the server is root.
    pub(super) user: Option<u32>,
    /// Doors of control groups; none where there are none.
    pub(super) groups: Vec<PathBuf>,
    /// A network namespace that is ready.
    pub(super) network: Option<PathBuf>,
    /// Whether the host's programs show in it.
    pub(super) host: bool,
    /// Memory cannot be limited by groups: by the kernel's older limits, each process for itself.
    pub(super) limit_each: bool,
}

impl Plan<'_> {
    /// Writes the files that bubblewrap reads, and answers what the launcher shall do.
    pub(super) fn prepare(&self) -> Result<Launch, VmError> {
        let told = |source| VmError::Io { what: format!("writing the start of {}", self.id), source };
        let root = self.home.join("root");
        layer::file_at(&root, Path::new(AGENT), b"", self.user)?;
        for folder in ["proc", "dev"].map(Path::new).into_iter().chain(self.spec.shared.iter().map(|shared| Path::new(&shared.at))) {
            layer::folder_at(&root, folder, self.user)?;
        }
        layer::folder_at(&root, Path::new(&self.spec.workdir), self.user)?;
        let host = if self.host { layer::host_folders() } else { Vec::new() };
        for HostFolder(path) in &host {
            layer::folder_at(&root, path, self.user)?;
        }
        let stage = self.user.map(|_| self.stage()).transpose()?;
        write(&self.home.join("bwrap.args"), &self.arguments(&host, stage.as_ref())).map_err(told)?;
        let filters = super::seccomp::filters().map_err(|reason| VmError::Unavailable { engine: "process", reason })?;
        for (n, filter) in filters.iter().enumerate() {
            write(&self.home.join(format!("filter-{n}.bpf")), filter).map_err(told)?;
        }
        let held = |name: &str, file: &str| (name.to_owned(), self.home.join(file));
        let mut limits = vec![("core".to_owned(), 0), ("nofile".into(), DESCRIPTORS)];
        if !self.owned {
            // Otherwise the agent is told when it is taken: nobody but root raises one that was set.
            limits.push(("fsize".into(), self.spec.limits.disk_bytes));
        }
        if self.limit_each {
            limits.push(("data".into(), self.spec.limits.memory_bytes));
        }
        Ok(Launch {
            session: true,
            cgroups: self.groups.clone(),
            limits,
            files: vec![held("args", "bwrap.args"), held("refused", "filter-0.bpf"), held("absent", "filter-1.bpf")],
            network: self.network.clone(),
            stage,
            user: self.user,
            argv: self.command(),
        })
    }

    /// The user that a sandbox is outside cannot enter the server's folders: what it needs is put where it can. Everything in the stage is
    /// in the launcher's own mount namespace alone.
    fn stage(&self) -> Result<Stage, VmError> {
        let at = ["/mnt", "/media", "/srv", "/opt"].into_iter().map(PathBuf::from).find(|at| at.is_dir()).ok_or_else(|| {
            VmError::Unavailable {
                engine: "process",
                reason: "none of /mnt, /media, /srv and /opt is a folder: make /mnt, which is used as a mount point seen by nobody else"
                    .into(),
            }
        })?;
        let mut binds = vec![("root".to_owned(), self.home.join("root")), ("agent".into(), self.guest.to_path_buf())];
        binds.extend(self.spec.shared.iter().enumerate().map(|(n, shared)| (format!("shared{n}"), shared.from.clone())));
        Ok(Stage { at, binds })
    }

    fn command(&self) -> Vec<String> {
        let mut argv: Vec<String> =
            ["bwrap", "--add-seccomp-fd", "{refused}", "--add-seccomp-fd", "{absent}", "--args", "{args}", "--"].map(str::to_owned).into();
        let mut agent = vec![AGENT.to_owned()];
        agent.extend(["--listen-fd", "0", "--mark", self.mark].map(str::to_owned));
        if self.owned {
            agent.push("--owned".into());
        }
        if self.limit_each {
            // Counted in the sandbox's own user namespace, so the server's other processes do not count.
            let inner =
                Launch { limits: vec![("nproc".into(), u64::from(self.spec.limits.processes) + 2)], argv: agent, ..Launch::default() };
            agent = vec![AGENT.into(), "launch".into(), serde_json::to_string(&inner).expect("plain data")];
        }
        argv.extend(agent);
        argv
    }

    /// Options for bubblewrap, each ended by a zero byte.
    fn arguments(&self, host: &[HostFolder], stage: Option<&Stage>) -> Vec<u8> {
        let staged = |name: &str, otherwise: &Path| stage.map_or_else(|| otherwise.to_path_buf(), |stage| stage.at.join(name));
        let mut all = Arguments::default();
        all.plain("--unshare-user --unshare-ipc --unshare-pid --unshare-uts --unshare-cgroup-try --uid 0 --gid 0 --new-session --as-pid-1");
        if self.network.is_none() {
            all.plain("--unshare-net");
        }
        all.plain("--cap-drop ALL --clearenv --hostname").add(self.id.short());
        all.plain("--bind").add(staged("root", &self.home.join("root"))).plain("/");
        for HostFolder(path) in host {
            all.plain("--ro-bind").add(path).add(path);
        }
        all.plain("--proc /proc --dev /dev --size").add(SHM_BYTES.to_string()).plain("--tmpfs /dev/shm --remount-ro /dev");
        all.plain("--ro-bind").add(staged("agent", self.guest)).plain(AGENT);
        for (n, shared) in self.spec.shared.iter().enumerate() {
            all.plain("--ro-bind").add(staged(&format!("shared{n}"), &shared.from)).add(&shared.at);
        }
        let home = if self.host { "/workspace" } else { "/root" };
        for (name, value) in [("PATH", PATH), ("HOME", home), ("LANG", "C.UTF-8"), ("USER", "root")] {
            all.plain("--setenv").add(name).add(value);
        }
        for (name, value) in &self.spec.env {
            all.plain("--setenv").add(name).add(value);
        }
        all.plain("--chdir").add(if self.spec.workdir.is_empty() { "/" } else { &self.spec.workdir });
        all.0
    }
}

/// Zero-ended words.
#[derive(Default)]
struct Arguments(Vec<u8>);

impl Arguments {
    fn plain(&mut self, words: &str) -> &mut Self {
        for word in words.split(' ') {
            self.add(word);
        }
        self
    }

    fn add(&mut self, word: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        self.0.extend(word.as_ref().as_bytes());
        self.0.push(0);
        self
    }
}

/// The environment has secrets: nobody else reads these files.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, content)
}

/// Where a program is, by PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from_vec(PATH.as_bytes().to_vec()));
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
