//! What is used, from the control group the agent is in or from `/proc`.

use auralink_guest::message::Usage;
use rustix::process::Pid;

/// Largest file of the kernel's that is read.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse().ok())
}

/// Now. Of a control group (version 2) where the agent sees its own as the root, else of the whole machine.
pub fn now() -> Usage {
    let mut usage = of_group().unwrap_or_else(of_machine);
    if let Ok(disk) = rustix::fs::statvfs("/") {
        usage.disk_bytes = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize);
    }
    usage
}

fn of_group() -> Option<Usage> {
    // The machine's own root group has no memory.current.
    Some(Usage {
        memory_bytes: number("/sys/fs/cgroup/memory.current")?,
        memory_peak_bytes: number("/sys/fs/cgroup/memory.peak").unwrap_or(0),
        cpu_us: field(&read("/sys/fs/cgroup/cpu.stat")?, "usage_usec")?,
        processes: number("/sys/fs/cgroup/pids.current").unwrap_or(0),
        disk_bytes: 0,
    })
}

fn of_machine() -> Usage {
    let memory = read("/proc/meminfo").unwrap_or_default();
    let total = field(&memory, "MemTotal").unwrap_or(0);
    let available = field(&memory, "MemAvailable").unwrap_or(0);
    // user nice system idle iowait irq softirq steal: what was not idle, in hundredths of a second
    let stat = read("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).map(|t| t.parse::<u64>().unwrap_or(0));
    let busy: u64 = ticks.take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum();
    let load = read("/proc/loadavg").unwrap_or_default();
    let processes = load.split_whitespace().nth(3).and_then(|f| f.split('/').nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    Usage { cpu_us: busy * 10_000, memory_bytes: total.saturating_sub(available) << 10, memory_peak_bytes: 0, processes, disk_bytes: 0 }
}

/// How often the kernel has killed for memory, as far as that can be seen from here.
pub fn memory_kills(events: Option<&str>) -> u64 {
    let of = |path: &str| field(&read(path)?, "oom_kill ");
    match events {
        Some(path) => of(path).unwrap_or(0),
        None => of("/sys/fs/cgroup/memory.events").or_else(|| of("/proc/vmstat")).unwrap_or(0),
    }
}

/// The processes of a session, as `/proc` has them.
pub fn session(leader: i32) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let member = |pid: i32| {
        // pid (name, which may hold anything) state parent group session
        let stat = read(&format!("/proc/{pid}/stat"))?;
        let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
        let state = rest.next()?;
        let session: i32 = rest.nth(2)?.parse().ok()?;
        (session == leader && state != "Z").then_some(pid)
    };
    numbers.filter_map(member).filter_map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_its_leader() {
        // A session begun here: this process's own may be led from outside its process namespace, where it has no number.
        let mut command = std::process::Command::new("sleep");
        command.arg("60");
        let mut leader = crate::agent::sys::spawn_in_session(&mut command, false).unwrap();
        let members = session(leader.id() as i32);
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert_eq!(members, [Pid::from_child(&leader)]);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("low 1\noom 2\noom_kill 3\noom_group_kill 4\n", "oom_kill "), Some(3));
        assert_eq!(field("MemTotal:  12 kB\n", "MemTotal"), Some(12));
    }

    #[test]
    fn something_is_used() {
        let usage = now();
        assert!(usage.memory_bytes > 0 && usage.disk_bytes > 0, "{usage:?}");
    }
}
