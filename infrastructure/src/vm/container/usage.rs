//! What a container uses, by the engine's figures, and what its memory limit ended, by its cgroup's.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerMemoryStats};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use futures_util::StreamExt;

use super::{Condition, ContainerEngine, SandboxId, Usage, VmError, condition_of, container};

impl ContainerEngine {
    pub(super) async fn used(&self, id: &SandboxId) -> Result<Usage, VmError> {
        let api = self.api().await?;
        let sized = InspectContainerOptionsBuilder::default().size(true).build();
        let inspected =
            api.inspect_container(&container(id), Some(sized)).await.map_err(|error| self.fault_of(id, error, "measuring the sandbox"))?;
        let disk_bytes = inspected.size_rw.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        if condition_of(&inspected) == Condition::Stopped {
            return Ok(Usage { disk_bytes, ..Usage::default() });
        }
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let stats = Box::pin(api.stats(&container(id), Some(options))).next().await;
        let stats = match stats {
            Some(stats) => stats.map_err(|error| self.fault_of(id, error, "measuring the sandbox"))?,
            None => return Err(self.failed("it gave no figures")),
        };
        let memory = stats.memory_stats.unwrap_or_default();
        let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage).and_then(|cpu| cpu.total_usage).unwrap_or(0);
        Ok(Usage {
            cpu: Duration::from_nanos(cpu),
            memory_bytes: in_use(&memory),
            memory_peak_bytes: memory.max_usage.filter(|peak| *peak > 0).or_else(|| peak(&inspected)).unwrap_or(0),
            processes: stats.pids_stats.and_then(|pids| pids.current).unwrap_or(0),
            disk_bytes,
        })
    }
}

/// Without the file cache that the kernel would give back, as `docker stats` counts (cgroup v1 and v2 name it differently).
fn in_use(memory: &ContainerMemoryStats) -> u64 {
    let usage = memory.usage.unwrap_or(0);
    let stats = memory.stats.as_ref();
    let inactive = stats.and_then(|s| s.get("total_inactive_file").or_else(|| s.get("inactive_file"))).copied().unwrap_or(0);
    usage.checked_sub(inactive).unwrap_or(usage)
}

/// How many of a container's processes its memory limit ended so far. None where this server cannot see the container's cgroup: a daemon
/// in a virtual machine.
pub(super) fn out_of_memory_kills(inspected: &ContainerInspectResponse) -> Option<u64> {
    let folder = memory_folder(inspected)?;
    let text = fs::read_to_string(folder.join("memory.oom_control")).or_else(|_| fs::read_to_string(folder.join("memory.events"))).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn peak(inspected: &ContainerInspectResponse) -> Option<u64> {
    fs::read_to_string(memory_folder(inspected)?.join("memory.peak")).ok()?.trim().parse().ok()
}

/// The control group of a container's memory limit.
pub(super) fn memory_folder(inspected: &ContainerInspectResponse) -> Option<PathBuf> {
    let pid = inspected.state.as_ref()?.pid.filter(|pid| *pid > 0)?;
    memory_folder_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// By the lines of `/proc/PID/cgroup`: that of the memory controller (v1), or else the unified one (v2).
fn memory_folder_in(lines: &str) -> Option<PathBuf> {
    let find = |wanted: &dyn Fn(&str, &str) -> bool| {
        lines.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(number, controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    match find(&|_, controllers| controllers.split(',').any(|c| c == "memory")) {
        Some(path) => Some(PathBuf::from("/sys/fs/cgroup/memory").join(path)),
        None => find(&|number, controllers| number == "0" && controllers.is_empty()).map(|path| PathBuf::from("/sys/fs/cgroup").join(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_cgroup_is_found_in_both_versions() {
        assert_eq!(memory_folder_in("8:pids:/x\n4:memory:/docker/abc\n0::/u\n"), Some("/sys/fs/cgroup/memory/docker/abc".into()));
        assert_eq!(memory_folder_in("0::/system.slice/docker-abc.scope\n"), Some("/sys/fs/cgroup/system.slice/docker-abc.scope".into()));
        assert_eq!(memory_folder_in("8:pids:/x\n"), None);
    }

    #[test]
    fn the_file_cache_is_not_counted() {
        let stats = [("total_inactive_file".to_owned(), 30)].into();
        let memory = ContainerMemoryStats { usage: Some(100), stats: Some(stats), ..Default::default() };
        assert_eq!(in_use(&memory), 70);
    }
}
