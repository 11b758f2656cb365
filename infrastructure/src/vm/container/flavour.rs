//! Everything in which Docker and Podman differ, as far as sandboxes see it.

use std::path::PathBuf;

use bollard::models::ResourcesUlimits;

/// Which engine answers on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `dockerd`.
    Docker,
    /// `podman system service`.
    Podman,
}

impl Flavour {
    /// The engine's name in configuration and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// Where it listens when nobody said otherwise, as root.
    pub fn usual_socket(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Docker => "/var/run/docker.sock",
            Self::Podman => "/run/podman/podman.sock",
        })
    }

    /// Whether a container can be given a runtime of its own. Podman's API takes the word and ignores it: who asked for gVisor would get none.
    pub(super) fn takes_runtime(self) -> bool {
        self == Self::Docker
    }

    /// What an operator does when nothing answers.
    pub(super) fn how_to_start(self) -> &'static str {
        match self {
            Self::Docker => "start it (`systemctl start docker`)",
            Self::Podman => "start it (`systemctl start podman.socket`, or `podman system service --time=0 unix://SOCKET`)",
        }
    }

    /// What a container is given beside its cgroup. Podman asks for 1,048,576 of both unless it is told, which a server with lower limits of
    /// its own may not give; Docker hands on the daemon's own.
    pub(super) fn ulimits(self, disk_bytes: u64, processes: u32) -> Vec<ResourcesUlimits> {
        let same = |name: &str, value: i64| ResourcesUlimits { name: Some(name.into()), soft: Some(value), hard: Some(value) };
        // One file never outgrows the whole disk limit, at whatever speed: the watch over the sum is a second late.
        let mut limits = vec![same("fsize", i64::try_from(disk_bytes).unwrap_or(i64::MAX)), same("core", 0), same("nofile", 1_024)];
        if self == Self::Podman {
            limits.push(same("nproc", i64::from(processes).max(1_024)));
        }
        limits
    }
}

/// Whether a runtime is gVisor, by the names that operators register it by.
pub(super) fn is_gvisor(runtime: &str) -> bool {
    runtime.contains("runsc") || runtime.contains("gvisor")
}

/// The host processes and threads that gVisor itself needs beside those of the programs (its kernel and its file server are Go programs).
pub(super) const GVISOR_OWN_PROCESSES: u32 = 256;

/// Why a program did not start, as the runtimes word it (runc and crun 1.x, runsc 2022).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotStarted {
    /// The program does not exist.
    NoProgram,
    /// The user, the folder, or a file that is no program: the caller's to put right.
    Invalid,
    /// The sandbox has no process left, or no memory.
    Exhausted,
    /// Something else.
    Other,
}

/// Sorts a runtime's words.
pub(super) fn not_started(text: &str) -> NotStarted {
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    if has(&[
        "chdir to cwd",
        "unable to find user",
        "unable to find group",
        "no matching entries in passwd",
        "working directory",
        "workdir",
    ]) {
        NotStarted::Invalid
    } else if has(&[
        "executable file not found",
        "error finding executable",
        "executable file `",
        "no such file or directory",
        "not found in $path",
    ]) {
        NotStarted::NoProgram
    } else if has(&["permission denied", "exec format error", "is a directory", "not executable"]) {
        NotStarted::Invalid
    } else if has(&[
        "resource temporarily unavailable",
        "cannot allocate memory",
        "pthread_create",
        "newosproc",
        "procready",
        "can't get final child",
        "unexpected eof",
    ]) {
        NotStarted::Exhausted
    } else {
        NotStarted::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_words_are_understood() {
        for (text, what) in [
            (
                r#"OCI runtime exec failed: exec failed: unable to start container process: exec: "nope": executable file not found in $PATH: unknown"#,
                NotStarted::NoProgram,
            ),
            (
                r#"executing command "nope" in sandbox: error finding executable "nope" in PATH [/bin]: no such file or directory: unknown"#,
                NotStarted::NoProgram,
            ),
            (
                r#"OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd ("/x") set in config.json failed: no such file or directory"#,
                NotStarted::Invalid,
            ),
            ("unable to find user bob: no matching entries in passwd file", NotStarted::Invalid),
            (r#"exec: "/etc/passwd": permission denied: unknown"#, NotStarted::Invalid),
            ("the moon is full", NotStarted::Other),
        ] {
            assert_eq!(not_started(text), what, "{text}");
        }
    }
}
