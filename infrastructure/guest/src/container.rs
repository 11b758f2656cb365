//! What a server and the agent in a container of Docker or Podman both know.
//!
//! There the agent speaks no protocol: the engine's own exec runs it with these words behind `container`.
//!
//! | words | what |
//! |---|---|
//! | `keep` | stays as the first process: reaps orphans; at SIGTERM asks all to end and ends when they did |
//! | `signal TAG NUMBER` | signals every process that belongs to the program with that mark |
//! | `list PATH LIMIT` | prints a folder's entries as JSON, one a line, the first LIMIT by name |
//! | `terminal ROWS COLUMNS PROGRAM...` | sets its terminal's size, prints [`CONNECTED`] or [`NO_PROGRAM`], and becomes the program |
//! | `dial PORT` | connects to a local TCP port, prints [`CONNECTED`], then carries bytes between it and standard input and output |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::{Deserialize, Serialize};

/// The variable that marks a program and all that it starts.
pub const MARK: &str = "AURALINK_EXEC";
/// What `dial` prints first when it is connected, and `terminal` when the program is there.
pub const CONNECTED: u8 = b'+';
/// What `terminal` prints when the program is not there.
pub const NO_PROGRAM: u8 = b'-';
/// The agent's exit code when there is no such file, folder or listener.
pub const NOT_FOUND: u8 = 3;
/// The agent's exit code when what was to be listed is no folder.
pub const NO_FOLDER: u8 = 4;
/// The agent's exit code when its user may not.
pub const DENIED: u8 = 5;

/// One line of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name without folder; what is not UTF-8 is replaced.
    pub name: String,
    /// `file`, `folder`, `link` or `other`.
    pub kind: String,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

/// Those of `pids` that carry the mark, the one named, and all that these started, by `/proc` as the caller sees it.
pub fn belonging(pids: &[i32], tag: &str, named: Option<i32>) -> Vec<i32> {
    let mark = format!("{MARK}={tag}");
    let mut found: BTreeSet<i32> = pids.iter().copied().filter(|pid| Some(*pid) == named || is_marked(*pid, mark.as_bytes())).collect();
    // A program that was started with an environment of its own lost the mark, but not its parent.
    let parents: BTreeMap<i32, i32> = pids.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    loop {
        let before = found.len();
        found.extend(parents.iter().filter(|(_, parent)| **parent > 1 && found.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>());
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    // A zombie's environment is empty, so it counts for nobody.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|b| *b == 0).any(|variable| variable == mark)
}

/// The fourth word of `stat`; the second, the program's name in parentheses, may hold spaces and parentheses itself.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat[stat.rfind(')')? + 1..].split_whitespace();
    // A zombie is nobody to signal.
    (words.next()? != "Z").then(|| words.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_started_belongs_to_it() {
        let script = "env -i sleep 300 & echo; wait";
        let mut program = std::process::Command::new("sh")
            .args(["-c", script])
            .env(MARK, "tag-of-this-test")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(program.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pids: Vec<i32> = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        let own = program.id() as i32;
        let found = belonging(&pids, "tag-of-this-test", None);
        assert!(found.contains(&own) && found.len() == 2, "{found:?}");
        assert_eq!(belonging(&pids, "another", Some(own)), found);
        assert!(belonging(&pids, "another", None).is_empty());
        for pid in found {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
        }
        program.wait().unwrap();
    }
}
