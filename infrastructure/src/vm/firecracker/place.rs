//! Where Firecracker runs and sees its files: in the sandbox's home, or in a root folder of its own that the jailer shuts it in.
//!
//! Rule: Firecracker is told names without a folder, and runs in the folder they are in. A snapshot keeps the names, so a machine that is
//! begun from it opens copies of its own. The home has everything; a jail has hard links to it and goes with the machine's end.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{ENGINE, FirecrackerConfig};
use crate::vm::process::find_program;
use crate::vm::qemu::Process;
use crate::vm::remove::remove_tree;
use crate::vm::{SandboxId, VmError, disk};

/// How long the jailer may take until Firecracker runs.
const JAILING: Duration = Duration::from_secs(10);

/// Longest path of a unix socket.
const SOCKET_PATH: usize = 107;

/// Beside a jail's root: the homes of the server that it belongs to.
const OWNER: &str = "owner";

/// Firecracker's jailer: it gives each machine a root folder, a user and a process namespace of its own.
#[derive(Debug, Clone)]
pub struct Jailer {
    /// Its program.
    pub program: PathBuf,
    /// Folder that the machines' roots are made in; on the file system of the sandboxes' homes, since disks are linked into it.
    pub base: PathBuf,
    /// User and group that Firecracker runs as.
    pub user: (u32, u32),
}

impl Jailer {
    /// Its arguments, for a machine of this id; Firecracker's own stand behind `--`.
    pub fn arguments(&self, firecracker: &Path, id: &SandboxId, network_namespace: Option<&Path>) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let own = [
            ("--id", id.to_string()),
            ("--exec-file", text(firecracker)),
            ("--uid", self.user.0.to_string()),
            ("--gid", self.user.1.to_string()),
            ("--chroot-base-dir", text(&self.base)),
            ("--cgroup-version", "2".to_owned()),
        ];
        let own = own.into_iter().chain(network_namespace.map(|path| ("--netns", text(path))));
        let own = own.flat_map(|(name, value)| [name.to_owned(), value]);
        own.chain(["--daemonize", "--new-pid-ns", "--", "--api-sock", "/api.sock"].map(str::to_owned)).collect()
    }
}

/// The place of one machine.
#[derive(Debug, Clone)]
pub(super) struct Place {
    id: SandboxId,
    home: PathBuf,
    program: PathBuf,
    network_namespace: Option<PathBuf>,
    jail: Option<Jailer>,
}

impl Place {
    pub(super) fn of(config: &FirecrackerConfig, id: &SandboxId, home: &Path) -> Self {
        // The jailer names the root after the program that links lead to.
        let found = config.program.to_str().and_then(find_program).unwrap_or_else(|| config.program.clone());
        Self {
            id: id.clone(),
            home: home.to_path_buf(),
            program: std::fs::canonicalize(&found).unwrap_or(found),
            network_namespace: config.network.inside.clone(),
            jail: config.jailer.clone(),
        }
    }

    /// The folder that Firecracker runs in.
    pub(super) fn folder(&self) -> PathBuf {
        self.cell().map_or_else(|| self.home.clone(), |cell| cell.join("root"))
    }

    /// The jail's folder; the root lies in it.
    fn cell(&self) -> Option<PathBuf> {
        let name = self.program.file_name().unwrap_or_default();
        self.jail.as_ref().map(|jailer| jailer.base.join(name).join(self.id.as_str()))
    }

    /// The user that may open its TAP; none: root alone.
    pub(super) fn user(&self) -> Option<u32> {
        self.jail.as_ref().map(|jailer| jailer.user.0)
    }

    /// Its process, if it runs.
    pub(super) fn process(&self) -> Option<Process> {
        match &self.jail {
            None => Process::found(&self.home, "firecracker.pid", "api.sock"),
            Some(_) => {
                let name = format!("{}.pid", self.program.file_name()?.to_str()?);
                Process::numbered(&self.folder().join(name), self.id.as_str())
            }
        }
    }

    /// Puts what Firecracker opens into its folder: `shared` are files that many machines read, by the name they have there.
    pub(super) fn furnish(&self, own: &[&str], shared: &[(String, PathBuf)]) -> Result<(), VmError> {
        let folder = self.folder();
        let failed = |what: &Path| {
            let what = format!("putting {} into the place of a machine", what.display());
            move |source| VmError::Io { what, source }
        };
        if folder.join("api.sock").as_os_str().len() > SOCKET_PATH {
            return Err(VmError::Invalid(format!("{} is too long for unix sockets: let it be nearer to the root", folder.display())));
        }
        for socket in ["api.sock", "vsock.sock"] {
            let _ = std::fs::remove_file(folder.join(socket));
        }
        let (Some(jailer), Some(cell)) = (&self.jail, self.cell()) else {
            for (name, file) in shared {
                let _ = std::fs::remove_file(folder.join(name));
                std::os::unix::fs::symlink(file, folder.join(name)).map_err(failed(file))?;
            }
            return Ok(());
        };
        remove_tree(&cell).map_err(failed(&cell))?;
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let homes = self.home.parent().unwrap_or(&self.home);
        disk::write_whole(&cell.join(OWNER), homes.as_os_str().as_encoded_bytes()).map_err(failed(&cell))?;
        for name in own {
            let file = self.home.join(name);
            std::fs::hard_link(&file, folder.join(name)).map_err(|source| match source.kind() {
                std::io::ErrorKind::CrossesDevices => VmError::Invalid(format!(
                    "the jailer's folder {} is on another file system than {}: disks cannot be linked into it",
                    jailer.base.display(),
                    self.home.display()
                )),
                _ => failed(&file)(source),
            })?;
            chown(&file, Some(jailer.user.0), Some(jailer.user.1)).map_err(failed(&file))?;
        }
        for (name, file) in shared {
            // A copy where it cannot be a link: nobody writes to these.
            let target = folder.join(name);
            std::fs::hard_link(file, &target).or_else(|_| std::fs::copy(file, &target).map(drop)).map_err(failed(file))?;
        }
        Ok(())
    }

    /// Starts it; it answers on its socket some time later. What ends the server ends not the machine.
    pub(super) async fn launch(&self) -> Result<(), VmError> {
        let unavailable =
            |program: &Path, error| VmError::Unavailable { engine: ENGINE, reason: format!("{}: {error}", program.display()) };
        let Some(jailer) = &self.jail else {
            let socket = self.home.join("api.sock");
            let mut command = match &self.network_namespace {
                Some(path) => {
                    let mut command = Command::new("nsenter");
                    command.arg(format!("--net={}", path.display())).arg("--").arg(&self.program);
                    command
                }
                None => Command::new(&self.program),
            };
            command.args(["--api-sock".as_ref(), socket.as_os_str(), "--id".as_ref(), self.id.as_str().as_ref()]);
            command.current_dir(&self.home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.process_group(0).spawn().map_err(|error| unavailable(&self.program, error))?;
            let pid = child.id().unwrap_or_default().to_string();
            return disk::write_whole(&self.home.join("firecracker.pid"), pid.as_bytes())
                .map_err(|source| VmError::Io { what: "writing firecracker.pid".into(), source });
        };
        // It leaves the process group itself, and fails when it leads one.
        let mut command = Command::new(&jailer.program);
        command.args(jailer.arguments(&self.program, &self.id, self.network_namespace.as_deref()));
        let ended = tokio::time::timeout(JAILING, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
        let late = |_| VmError::Late { what: "the start of Firecracker by its jailer".into(), after: JAILING };
        let output = ended.map_err(late)?.map_err(|error| unavailable(&jailer.program, error))?;
        if !output.status.success() {
            let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
            return Err(VmError::Engine { engine: ENGINE, reason: format!("the jailer did not start it ({}): {said}", output.status) });
        }
        Ok(())
    }

    /// Removes what [`Place::furnish`] made beside the home; the machine has ended.
    pub(super) fn clear(&self) -> Result<(), VmError> {
        match self.cell() {
            Some(cell) => {
                remove_tree(&cell).map(drop).map_err(|source| VmError::Io { what: format!("removing {}", cell.display()), source })
            }
            None => Ok(()),
        }
    }

    /// The sandboxes of these homes that a jail is left of.
    pub(super) fn found(config: &FirecrackerConfig, homes: &Path) -> Vec<SandboxId> {
        let Ok(any) = SandboxId::random() else { return Vec::new() };
        let Some(cells) = Self::of(config, &any, homes).cell().and_then(|cell| cell.parent().map(Path::to_path_buf)) else {
            return Vec::new();
        };
        let entries = std::fs::read_dir(cells).into_iter().flatten().flatten();
        let ours = |path: PathBuf| std::fs::read(path.join(OWNER)).is_ok_and(|owner| owner == homes.as_os_str().as_encoded_bytes());
        entries.filter(|entry| ours(entry.path())).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}
