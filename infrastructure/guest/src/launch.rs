//! The last steps before a sandbox of the process engine begins: what must be done by the very process that becomes bubblewrap.
//!
//! Place: the process engine runs `auralink-guest launch JSON`; this puts itself into the sandbox's control groups, network and user, and
//! becomes the program it is told. Rule: every step that fails ends it with one line on standard error; nothing is begun half confined.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};

/// What to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Launch {
    /// Become the leader of a session of its own, so that no terminal's signals come.
    pub session: bool,
    /// `cgroup.procs` files to be written into.
    pub cgroups: Vec<PathBuf>,
    /// Limits by name (`nproc`, `data`, `fsize`, `core`, `nofile`), soft and hard.
    pub limits: Vec<(String, u64)>,
    /// Files to hold open for the program; `{name}` in its arguments becomes the descriptor's number.
    pub files: Vec<(String, PathBuf)>,
    /// A network namespace to join.
    pub network: Option<PathBuf>,
    /// Where to put things that the user below could not reach otherwise, in a mount namespace of its own.
    pub stage: Option<Stage>,
    /// User and group to become, without any other group.
    pub user: Option<u32>,
    /// The program and its arguments.
    pub argv: Vec<String>,
}

/// A small folder in memory that exists for the sandbox alone, and what is bound into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// An existing folder that everybody may enter.
    pub at: PathBuf,
    /// Name in it, and the file or folder that shall be there.
    pub binds: Vec<(String, PathBuf)>,
}

impl Launch {
    /// Does it. Comes back only with what went wrong.
    pub fn run(&self) -> String {
        match self.prepare() {
            Ok(mut command) => format!("{}: {}", self.argv.first().map_or("no program", String::as_str), command.exec()),
            Err(reason) => reason,
        }
    }

    fn prepare(&self) -> Result<Command, String> {
        let (program, arguments) = self.argv.split_first().ok_or("no program to become")?;
        if self.session {
            // Fails only for one that leads a group already; then no terminal reaches it either.
            let _ = rustix::process::setsid();
        }
        for (name, value) in &self.limits {
            limit(name, *value)?;
        }
        for group in &self.cgroups {
            join(group)?;
        }
        if let Some(network) = &self.network {
            let file =
                OpenOptions::new().read(true).open(network).map_err(|e| format!("opening the network {}: {e}", network.display()))?;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                .map_err(|e| format!("joining the network {}: {e}", network.display()))?;
        }
        let mut arguments = arguments.to_vec();
        for (name, path) in &self.files {
            let number = hold_open(path)?;
            for argument in &mut arguments {
                *argument = argument.replace(&format!("{{{name}}}"), &number.to_string());
            }
        }
        if let Some(stage) = &self.stage {
            stage.set()?;
        }
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(user) = self.user {
            command.uid(user).gid(user); // the standard library gives up all other groups with that
        }
        Ok(command)
    }
}

impl Stage {
    /// A private mount namespace (so nothing of it is seen outside, and all of it goes with the last process), a small tmpfs, binds.
    fn set(&self) -> Result<(), String> {
        leave_mounts().map_err(|e| format!("a mount namespace of its own: {e}"))?;
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|e| format!("making the mounts private: {e}"))?;
        // Opened in this namespace and before the tmpfs hides anything.
        let sources = self.binds.iter().map(|(name, path)| Ok((name, path, open_path(path)?))).collect::<Result<Vec<_>, String>>()?;
        let at = self.at.display();
        rustix::mount::mount("auralink", &self.at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=64k,mode=755")
            .map_err(|e| format!("a tmpfs on {at}: {e}"))?;
        for (name, path, source) in &sources {
            let target = self.at.join(name);
            let made = if path.is_dir() || source.metadata().is_ok_and(|m| m.is_dir()) {
                std::fs::create_dir(&target)
            } else {
                std::fs::File::create(&target).map(|_| ())
            };
            made.map_err(|e| format!("making {}: {e}", target.display()))?;
            rustix::mount::mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), &target)
                .map_err(|e| format!("binding {} to {}: {e}", path.display(), target.display()))?;
        }
        Ok(())
    }
}

/// The deprecation is of flags that share descriptors between threads; this asks for mounts alone, in a program of one thread.
#[allow(deprecated)]
fn leave_mounts() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNS)
}

fn open_path(path: &Path) -> Result<std::fs::File, String> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map(std::fs::File::from)
        .map_err(|e| format!("opening {}: {e}", path.display()))
}

/// Opens a file that stays open over exec; its number.
fn hold_open(path: &Path) -> Result<i32, String> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).map_err(|e| format!("opening {}: {e}", path.display()))?;
    Ok(std::os::fd::IntoRawFd::into_raw_fd(file))
}

fn join(group: &Path) -> Result<(), String> {
    let mut file = OpenOptions::new().write(true).open(group).map_err(|e| format!("opening {}: {e}", group.display()))?;
    file.write_all(b"0").map_err(|e| format!("joining {}: {e}", group.display()))
}

fn limit(name: &str, value: u64) -> Result<(), String> {
    let resource = match name {
        "nproc" => Resource::Nproc,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "core" => Resource::Core,
        "nofile" => Resource::Nofile,
        other => return Err(format!("unknown limit {other:?}")),
    };
    let now = rustix::process::getrlimit(resource);
    let value = now.maximum.map_or(value, |most| most.min(value)); // nobody but root may raise the hard one
    rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
        .map_err(|e| format!("limit {name}={value}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_step_failed() {
        let launch = Launch { cgroups: vec!["/nowhere/cgroup.procs".into()], argv: vec!["true".into()], ..Launch::default() };
        assert!(launch.run().contains("/nowhere/cgroup.procs"), "{}", launch.run());
        assert!(Launch::default().run().contains("no program"));
        let launch = Launch { limits: vec![("fun".into(), 1)], argv: vec!["true".into()], ..Launch::default() };
        assert!(launch.run().contains("\"fun\""));
        let launch = Launch { argv: vec!["/no/such/program".into()], ..Launch::default() };
        assert!(launch.run().starts_with("/no/such/program: "), "{}", launch.run());
    }
}
