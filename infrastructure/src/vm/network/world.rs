//! Running `ip` and `nft` in the right network namespace.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Most of an answer that is read: the map of 65,533 addresses is about 5 MB.
const MAX_ANSWER: u64 = 16 << 20;

/// A network namespace: the server's own, or one that the configuration names.
#[derive(Debug, Clone)]
pub(super) struct World {
    inside: Option<PathBuf>,
}

impl World {
    pub(super) fn new(inside: Option<PathBuf>) -> Self {
        Self { inside }
    }

    /// Does `work` on a thread that is in the namespace; programs that it starts and `/proc/sys/net` that it writes are the namespace's.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce(&Self) -> Result<T, String> + Send) -> Result<T, String> {
        let Some(inside) = &self.inside else { return work(self) };
        let on_thread = || {
            let file = std::fs::File::open(inside).map_err(|e| format!("{}: {e}", inside.display()))?;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(rustix::thread::LinkNameSpaceType::Network))
                .map_err(|e| format!("joining {}: {e}", inside.display()))?;
            work(self)
        };
        std::thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or_else(|_| Err("a thread of the network's ended".into())))
    }

    /// Runs a program; its standard output.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        self.feed(program, arguments, "")
    }

    /// The same with something on its standard input.
    pub(super) fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let told = |e: std::io::Error| format!("{program} {}: {e}", arguments.join(" "));
        let path = crate::vm::process::find_program(program).ok_or_else(|| format!("the program `{program}` is missing"))?;
        let mut command = Command::new(path);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(told)?;
        // Both programs read all of their input before they answer.
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(input.as_bytes())
                .or_else(|e| if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(told(e)) })?;
        }
        let mut answer = String::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_ANSWER).read_to_string(&mut answer).map_err(told)?;
        }
        let output = child.wait_with_output().map_err(told)?;
        if output.status.success() {
            return Ok(answer);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {}: {}", arguments.join(" "), said.trim().chars().take(400).collect::<String>()))
    }
}
