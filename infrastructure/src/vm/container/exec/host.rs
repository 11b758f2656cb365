//! Signals from this machine: where the server sees a container's processes and may signal them, no process is needed in the container for
//! that, and one that has used up all it may have can still be put in order.
//!
//! Rule: no process is signalled by its number alone. Each is held by a descriptor first, then looked at, then signalled by the descriptor.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use auralink_guest::container::belonging;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A killed program may have forked meanwhile.
const ROUNDS: usize = 200;

/// A program that is just becoming another (exec) shows no mark for a moment: it is looked for again so often.
const LOOKS: usize = 20;

/// Signals what belongs to a program in the container whose control group is in `group`. None when that cannot be seen or done from here.
pub(super) fn signal(group: &Path, tag: &str, exec_pid: Option<i32>, number: i32) -> Option<usize> {
    let signal = Signal::from_named_raw(number)?;
    let mut signalled = 0;
    for round in 0..ROUNDS {
        let held: BTreeMap<i32, OwnedFd> = members(group)?.into_iter().filter_map(|pid| Some((pid, hold(pid)?))).collect();
        let pids: Vec<i32> = held.keys().copied().collect();
        if !pids.is_empty() && !pids.iter().any(|pid| fs::read(format!("/proc/{pid}/environ")).is_ok()) {
            return None;
        }
        let found = belonging(&pids, tag, exec_pid.filter(|pid| held.contains_key(pid)));
        if found.is_empty() {
            if signalled > 0 || round >= LOOKS {
                break;
            }
            sleep(Duration::from_millis(5));
            continue;
        }
        for pid in found {
            match held.get(&pid).map(|fd| pidfd_send_signal(fd, signal)) {
                Some(Ok(())) => signalled += 1,
                Some(Err(rustix::io::Errno::PERM)) => return None,
                _ => {}
            }
        }
        if signal != Signal::KILL {
            break;
        }
        sleep(Duration::from_millis(2));
    }
    Some(signalled)
}

fn members(group: &Path) -> Option<Vec<i32>> {
    Some(fs::read_to_string(group.join("cgroup.procs")).ok()?.lines().filter_map(|line| line.parse().ok()).collect())
}

fn hold(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}
