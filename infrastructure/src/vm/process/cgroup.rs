//! Control groups: how much a sandbox may use, how much it used, freezing it, and the sure way to find and kill all of its processes.
//!
//! Place: one [`Group`] for each sandbox, in the hierarchies of version 1, of version 2, or some of each (hybrid), whatever the machine has
//! and this process may write. Rule: the names are `auralink-HOMES/ID`, where HOMES is a hash of the server's folder of sandboxes, so
//! that a server that was killed finds its own again, and never another's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use sha2::{Digest, Sha256};

use crate::vm::{Limits, SandboxId, Usage};

/// Of version 1, what a sandbox needs; version 2 needs neither `cpuacct` nor `freezer` by name.
const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "freezer"];
const PERIOD_US: u64 = 100_000;

/// Where sandboxes' groups can be made here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// Folder of each controller of version 1 that this process may make groups in.
    v1: BTreeMap<&'static str, PathBuf>,
    /// Folder of version 2, and the controllers that its children have.
    v2: Option<(PathBuf, Vec<String>)>,
}

impl Hierarchies {
    /// What of this machine's is used, looked up once.
    pub(super) fn detect() -> Self {
        let mut found = Self::all();
        // Beside a whole version 1 the other would add nothing but the time of joining it.
        if CONTROLLERS.iter().all(|name| found.v1.contains_key(name)) {
            found.v2 = None;
        }
        found.v2 = found.v2.map(|(folder, _)| delegate(folder));
        found
    }

    /// What of this machine's may be written.
    fn all() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found = Self::default();
        for line in mounts.lines() {
            let Some(mount) = Mount::parse(line) else { continue };
            if mount.kind == "cgroup2" {
                found.v2 = Some((mount.own_folder(&own, |names| names.is_empty()), Vec::new()));
            }
            for controller in CONTROLLERS {
                if mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller) {
                    let folder = mount.own_folder(&own, |names| names.split(',').any(|name| name == controller));
                    found.v1.insert(controller, folder);
                }
            }
        }
        found.v1.retain(|_, folder| writable(folder));
        found.v2 = found.v2.filter(|(folder, _)| writable(folder));
        found
    }

    /// What limits cannot be held here, in words for an operator.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let has = |name: &str| self.v1.contains_key(name) || self.v2.as_ref().is_some_and(|(_, have)| have.iter().any(|h| h == name));
        ["memory", "pids", "cpu"].into_iter().filter(|name| !has(name)).collect()
    }

    /// Whether sandboxes can be frozen.
    pub(super) fn freezes(&self) -> bool {
        self.v1.contains_key("freezer") || self.v2.is_some()
    }

    /// The group of a sandbox, made or not.
    pub(super) fn group(&self, homes: &Path, id: &SandboxId) -> Group {
        let inside = |folder: &PathBuf| folder.join(parent_name(homes)).join(id.as_str());
        Group {
            v1: self.v1.iter().map(|(name, folder)| (*name, inside(folder))).collect(),
            v2: self.v2.as_ref().map(|(folder, _)| inside(folder)),
            v2_controllers: self.v2.as_ref().map(|(_, have)| have.clone()).unwrap_or_default(),
        }
    }

    /// Every sandbox of `homes` that has a group.
    pub(super) fn list(&self, homes: &Path) -> Vec<SandboxId> {
        let folders = self.v1.values().chain(self.v2.iter().map(|(folder, _)| folder));
        let entries = folders.filter_map(|folder| fs::read_dir(folder.join(parent_name(homes))).ok()).flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

/// The groups of one server; also the first half of its agents' marks.
pub(super) fn parent_name(homes: &Path) -> String {
    let path = fs::canonicalize(homes).unwrap_or_else(|_| homes.to_path_buf());
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("auralink-{}", hash[..6].iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn writable(folder: &Path) -> bool {
    // Two engines of one process may look at the same time.
    static PROBES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = PROBES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let probe = folder.join(format!("auralink-probe-{}-{number}", std::process::id()));
    let made = fs::create_dir(&probe).is_ok();
    if made {
        let _ = fs::remove_dir(&probe);
    }
    made
}

/// Version 2 gives controllers to children only of a group without processes of its own: where this process is the one that is in
/// the way, it moves itself aside (as systemd's `Delegate=yes` is meant to be used).
fn delegate(folder: PathBuf) -> (PathBuf, Vec<String>) {
    let available = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<&str> = available.split_whitespace().filter(|name| ["memory", "pids", "cpu"].contains(name)).collect();
    let give = |name: &str| fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"));
    if wanted.iter().any(|name| give(name).is_err()) {
        let aside = folder.join("auralink-server");
        if fs::create_dir_all(&aside).is_ok() && fs::write(aside.join("cgroup.procs"), "0").is_ok() {
            wanted.iter().for_each(|name| drop(give(name)));
        }
    }
    let given = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    let given = given.split_whitespace().map(str::to_owned).collect();
    (folder, given)
}

/// A line of /proc/self/mountinfo.
struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        Some(Self { root: before.next()?, at: before.next()?, kind: after.next()?, options: after.nth(1)? })
    }

    /// The folder of the group that this process is in, by the lines of /proc/self/cgroup.
    fn own_folder(&self, own: &str, is_it: impl Fn(&str) -> bool) -> PathBuf {
        let path = own
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .find(|(names, _)| is_it(names))
            .map_or("/", |(_, path)| path);
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or("").trim_matches('/');
        // A server that moved itself aside makes its groups where it did before.
        let below = below.strip_suffix("auralink-server").unwrap_or(below).trim_end_matches('/');
        let folder = Path::new(self.at).join(below);
        if folder.is_dir() { folder } else { PathBuf::from(self.at) }
    }
}

/// The control groups of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    v1: BTreeMap<&'static str, PathBuf>,
    v2: Option<PathBuf>,
    v2_controllers: Vec<String>,
}

impl Group {
    /// Makes it with its limits.
    pub(super) fn make(&self, limits: &Limits) -> io::Result<()> {
        for folder in self.folders() {
            // Another sandbox's end may take the server's folder away between the two steps.
            (0..5).find_map(|_| fs::create_dir_all(folder).ok()).map_or_else(|| fs::create_dir_all(folder), Ok)?;
        }
        let quota = u64::from(limits.cpu_millis.max(10)) * PERIOD_US / 1_000;
        if let Some(memory) = self.v1.get("memory") {
            // Memory and swap together; a kernel without swap accounting has no such file. It is never below the other, so it is written first,
            // where that grows, and last, where it shrinks.
            let _ = write(memory, "memory.memsw.limit_in_bytes", limits.memory_bytes);
            write(memory, "memory.limit_in_bytes", limits.memory_bytes)?;
            let _ = write(memory, "memory.memsw.limit_in_bytes", limits.memory_bytes);
            let _ = write(memory, "memory.swappiness", 0);
        }
        if let Some(pids) = self.v1.get("pids") {
            // Two are the agent and bubblewrap.
            write(pids, "pids.max", u64::from(limits.processes) + 2)?;
        }
        if let Some(cpu) = self.v1.get("cpu") {
            write(cpu, "cpu.cfs_period_us", PERIOD_US)?;
            write(cpu, "cpu.cfs_quota_us", quota)?;
        }
        let Some(v2) = &self.v2 else { return Ok(()) };
        let has = |name: &str| self.v2_controllers.iter().any(|have| have == name);
        if let Some(parent) = v2.parent() {
            for name in ["memory", "pids", "cpu"].iter().filter(|name| has(name)) {
                fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"))?;
            }
        }
        if has("memory") {
            write(v2, "memory.max", limits.memory_bytes)?;
            let _ = write(v2, "memory.swap.max", 0);
        }
        if has("pids") {
            write(v2, "pids.max", u64::from(limits.processes) + 2)?;
        }
        if has("cpu") {
            fs::write(v2.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
        }
        Ok(())
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        // Two controllers of version 1 may share one folder; making or removing it twice does no harm.
        self.v1.values().chain(&self.v2)
    }

    /// What a process of one thread writes itself into. In version 1 that is `tasks`: moving oneself alone takes no lock of all forks, and
    /// so does not wait for a grace period of the kernel, which costs 5 to 25 ms by `cgroup.procs` (`cgroup_procs_write_start`).
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.v1.values().map(|folder| folder.join("tasks")).chain(self.v2.iter().map(|folder| folder.join("cgroup.procs"))).collect()
    }

    /// Whether anything of it is there.
    pub(super) fn exists(&self) -> bool {
        self.folders().any(|folder| folder.is_dir())
    }

    /// Everything that runs in it.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let mut all = Vec::new();
        for folder in self.folders() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            all.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
        }
        all.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        all.dedup();
        all
    }

    /// Freezes or thaws; blocks until the kernel did it, for at most `patience`.
    pub(super) fn freeze(&self, frozen: bool, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        if let Some(freezer) = self.v1.get("freezer") {
            let word = if frozen { "FROZEN" } else { "THAWED" };
            loop {
                fs::write(freezer.join("freezer.state"), word)?;
                if fs::read_to_string(freezer.join("freezer.state"))?.trim() == word {
                    return Ok(());
                }
                wait(until)?;
            }
        }
        let Some(v2) = &self.v2 else { return Err(io::Error::from(io::ErrorKind::Unsupported)) };
        write(v2, "cgroup.freeze", u64::from(frozen))?;
        let word = format!("frozen {}", u8::from(frozen));
        while !fs::read_to_string(v2.join("cgroup.events"))?.lines().any(|line| line == word) {
            wait(until)?;
        }
        Ok(())
    }

    /// Whether it is frozen.
    pub(super) fn frozen(&self) -> bool {
        let read = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        match (self.v1.get("freezer"), &self.v2) {
            (Some(freezer), _) => read(freezer, "freezer.state").trim() != "THAWED" && freezer.is_dir(),
            (None, Some(v2)) => read(v2, "cgroup.freeze").trim() == "1",
            (None, None) => false,
        }
    }

    /// Kills everything in it but `spared`, again and again until nothing is left; blocks.
    pub(super) fn kill(&self, spared: &[Pid], patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        loop {
            if spared.is_empty()
                && let Some(v2) = &self.v2
            {
                let _ = write(v2, "cgroup.kill", 1); // Linux 5.14; below it the list does it
            }
            let left: Vec<Pid> = self.processes().into_iter().filter(|pid| !spared.contains(pid)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                // By descriptor, and only while it is still in the group: a number may be another process' by now.
                if let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                    && self.processes().contains(&pid)
                {
                    let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
                }
            }
            if self.frozen() {
                let _ = self.freeze(false, patience); // who is frozen dies only when thawed
            }
            wait(until)?;
        }
    }

    /// Removes it; it must be empty. What is gone already is no error.
    pub(super) fn remove(&self) -> io::Result<()> {
        for folder in self.folders() {
            let until = Instant::now() + Duration::from_secs(2);
            loop {
                match fs::remove_dir(folder) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy => wait(until).map_err(|_| e)?, // zombies leave a moment later
                    other => break other?,
                }
            }
            // The last one of this server takes the server's folder along; rmdir refuses while there are others.
            if let Some(parent) = folder.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }

    /// How often the memory limit killed something in it.
    pub(super) fn memory_kills(&self) -> u64 {
        let v1 = self.v1.get("memory").map(|folder| folder.join("memory.oom_control"));
        let v2 = self.v2.as_ref().map(|folder| folder.join("memory.events"));
        v1.into_iter().chain(v2).filter_map(|file| keyed(&file, "oom_kill")).sum()
    }

    /// What it uses; `disk_bytes` is not a group's to tell.
    pub(super) fn usage(&self) -> Usage {
        let v1 = |controller: &str, file: &str| self.v1.get(controller).and_then(|folder| number(&folder.join(file)));
        let v2 = |file: &str| self.v2.as_ref().and_then(|folder| number(&folder.join(file)));
        let cpu_v2 = || self.v2.as_ref().and_then(|folder| keyed(&folder.join("cpu.stat"), "usage_usec"));
        Usage {
            cpu: v1("cpuacct", "cpuacct.usage")
                .map(Duration::from_nanos)
                .or_else(|| cpu_v2().map(Duration::from_micros))
                .unwrap_or_default(),
            memory_bytes: v1("memory", "memory.usage_in_bytes").or_else(|| v2("memory.current")).unwrap_or_default(),
            memory_peak_bytes: v1("memory", "memory.max_usage_in_bytes").or_else(|| v2("memory.peak")).unwrap_or_default(),
            processes: v1("pids", "pids.current").or_else(|| v2("pids.current")).unwrap_or_else(|| self.processes().len() as u64),
            disk_bytes: 0,
        }
    }
}

fn wait(until: Instant) -> io::Result<()> {
    if Instant::now() > until {
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    std::thread::sleep(Duration::from_millis(2));
    Ok(())
}

fn write(folder: &Path, file: &str, value: u64) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value.to_string()).map_err(|e| io::Error::new(e.kind(), format!("{}={value}: {e}", path.display())))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_of_mounts() {
        let line = "33 25 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.root, mount.at, mount.kind, mount.options), ("/", "/sys/fs/cgroup/cpu", "cgroup", "rw,cpu,cpuacct"));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("app")).unwrap();
        let at = folder.path().to_str().unwrap();
        let mount = Mount { root: "/docker/abc", at, kind: "cgroup2", options: "rw" };
        assert_eq!(mount.own_folder("0::/docker/abc/app", str::is_empty), folder.path().join("app"));
        assert_eq!(mount.own_folder("0::/docker/abc/app/auralink-server", str::is_empty), folder.path().join("app"));
        assert_eq!(mount.own_folder("0::/elsewhere", str::is_empty), folder.path());
        assert_eq!(mount.own_folder("4:memory:/docker/abc/app", str::is_empty), folder.path());
    }

    #[test]
    fn servers_do_not_share_a_group() {
        assert_ne!(parent_name(Path::new("/one")), parent_name(Path::new("/two")));
        assert_eq!(parent_name(Path::new("/one")), parent_name(Path::new("/one")));
    }

    /// What this machine has; and version 2 alone where it is mounted beside version 1 (without most controllers, but freezing, listing and
    /// killing are the same).
    #[test]
    fn freezes_kills_and_removes() {
        let all = Hierarchies::all();
        assert!(all.freezes(), "no control groups can be made here: run the tests as root, or in a delegated group");
        if !all.v1.is_empty() && all.v2.is_some() {
            freezes_and_kills(&Hierarchies { v1: BTreeMap::new(), v2: all.v2.clone() });
        }
        freezes_and_kills(&Hierarchies::detect());
    }

    fn freezes_and_kills(only: &Hierarchies) {
        let homes = tempfile::tempdir().unwrap();
        let group = only.group(homes.path(), &SandboxId::random().unwrap());
        group.make(&Limits::default()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        for door in group.doors() {
            fs::write(door, child.id().to_string()).unwrap();
        }
        group.freeze(true, Duration::from_secs(5)).unwrap();
        assert!(group.frozen());
        assert!(!only.list(homes.path()).is_empty());
        // Its parent is this test, so it stays as a zombie until waited for: another thread waits.
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        group.kill(&[], Duration::from_secs(5)).unwrap();
        assert!(!waiter.join().unwrap().success());
        assert!(group.processes().is_empty());
        group.remove().unwrap();
        assert!(!group.exists());
        assert!(only.list(homes.path()).is_empty());
    }
}
