//! From a sandbox's description to a container's: every right that the engine would give by itself is taken away here, and every limit set.

use std::path::Path;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, SystemInfo};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::flavour::{GVISOR_OWN_PROCESSES, is_gvisor};
use super::image::Image;
use super::{
    Capabilities, ContainerEngine, GUEST, LABEL_DISK, LABEL_OWNER, LABEL_SANDBOX, SandboxId, Spec, VmError, container, fault, owner,
};

/// Storage drivers that can hold a container to a size. `overlay2` can on XFS with project quotas alone, which shows when it is tried.
const SIZED_STORAGE: [&str; 4] = ["overlay2", "overlay", "btrfs", "zfs"];
/// How often an image is imported anew that went away before it was used.
const IMPORTS: u32 = 3;
/// Less does not hold the agent.
const SMALLEST_MEMORY: u64 = 6 << 20;

impl ContainerEngine {
    pub(super) async fn capabilities(&self) -> Result<Capabilities, VmError> {
        let guest = &self.0.settings.guest;
        if !guest.is_file() {
            let reason = format!("the guest agent is not at {}: run `make setup`, or name the file in the configuration", guest.display());
            return Err(VmError::Unavailable { engine: self.engine_name(), reason });
        }
        let info = self.api().await?.info().await.map_err(|error| self.fault(error, "asking what it can do"))?;
        let networks = self.networks();
        let (nat, allow_list) = (networks.is_ok() || self.0.settings.nat_network.is_some(), networks.is_ok());
        let mut notes = self.notes(&info);
        notes.extend(networks.err().map(|reason| format!("network: none alone; {reason}")));
        Ok(Capabilities { pause: true, snapshot: true, tty: true, nat, allow_list, notes })
    }

    fn notes(&self, info: &SystemInfo) -> Vec<String> {
        let mut notes = vec![
            "a snapshot holds the files, not the memory: programs begin anew from it".to_owned(),
            "the disk limit holds at once for each file, and within a few seconds for all together: a sandbox that exceeds it is stopped"
                .to_owned(),
        ];
        let mut missing = |has: Option<bool>, what: &str| {
            if has == Some(false) {
                notes.push(format!("{} does not enforce the limit of {what} here (see `{} info`)", self.engine_name(), self.engine_name()));
            }
        };
        missing(info.memory_limit, "memory");
        missing(info.swap_limit, "swap: a sandbox may use swap beside its memory");
        missing(info.cpu_cfs_quota, "CPU");
        missing(info.pids_limit, "processes");
        notes.extend(info.runtimes.iter().flat_map(|all| all.keys()).filter(|name| is_gvisor(name)).map(|name| {
            format!("gVisor is the runtime `{name}`; files written into a running sandbox of it are seen when it is registered with --file-access=shared")
        }));
        notes
    }

    pub(super) async fn create_container(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        self.check(spec)?;
        self.name_servers(spec, home)?;
        // A second server may remove an imported image between the look and the use: then it is imported anew.
        let mut tried = 0;
        loop {
            let image = self.image(&spec.source, home).await?;
            match self.create_from(id, spec, home, &image).await {
                Err(VmError::NotFound(_)) if image.imported && tried < IMPORTS => tried += 1,
                done => return done,
            }
        }
    }

    async fn create_from(&self, id: &SandboxId, spec: &Spec, home: &Path, image: &Image) -> Result<(), VmError> {
        let sized = self.sized_storage().await?.then(|| [("size".to_owned(), spec.limits.disk_bytes.to_string())].into());
        let mut body = self.body(id, spec, home, image);
        let options = CreateContainerOptionsBuilder::default().name(&container(id)).build();
        if let Some(host) = body.host_config.as_mut().filter(|_| sized.is_some()) {
            host.storage_opt = sized;
        }
        let api = self.api().await?;
        let mut created = api.create_container(Some(options.clone()), body.clone()).await;
        if let (Err(error), Some(host)) = (&created, body.host_config.as_mut())
            && host.storage_opt.is_some()
            && !matches!(fault::status(error), Some(404 | 409))
        {
            // The driver has no quotas on this file system, and says so in many ways; the watch holds the limit then.
            host.storage_opt = None;
            self.remove(id).await?;
            created = api.create_container(Some(options), body).await;
        }
        created.map(drop).map_err(|error| self.fault(error, "making the sandbox"))
    }

    async fn sized_storage(&self) -> Result<bool, VmError> {
        let info = self.api().await?.info().await.map_err(|error| self.fault(error, "asking for its storage driver"))?;
        Ok(info.driver.is_some_and(|driver| SIZED_STORAGE.contains(&driver.as_str())))
    }

    fn body(&self, id: &SandboxId, spec: &Spec, home: &Path, image: &Image) -> ContainerCreateBody {
        let homes = home.parent().unwrap_or(home);
        let mut env = image.env.clone();
        env.extend(spec.env.iter().map(|(name, value)| format!("{name}={value}")));
        let labels = [(LABEL_SANDBOX, id.to_string()), (LABEL_OWNER, owner(homes)), (LABEL_DISK, spec.limits.disk_bytes.to_string())];
        ContainerCreateBody {
            image: Some(image.name.clone()),
            hostname: Some(id.short().to_owned()),
            entrypoint: Some(vec![GUEST.to_owned(), "container".to_owned(), "keep".to_owned()]),
            cmd: Some(Vec::new()),
            env: Some(env),
            user: image.user.clone(),
            working_dir: Some(spec.workdir.clone()).filter(|d| !d.is_empty()).or_else(|| image.workdir.clone()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            stop_signal: Some("SIGTERM".to_owned()),
            host_config: Some(self.host_config(spec, home)),
            ..Default::default()
        }
    }

    fn host_config(&self, spec: &Spec, home: &Path) -> HostConfig {
        let limits = &spec.limits;
        let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
        let shared = spec.shared.iter().map(|shared| format!("{}:{}:ro", shared.from.display(), shared.at));
        let guest = format!("{}:{GUEST}:ro", self.0.settings.guest.display());
        let names = self.names_bind(spec, home);
        let binds = [guest].into_iter().chain(names).chain(shared).collect();
        let runtime = self.runtime(spec);
        let own_processes = if is_gvisor(runtime) { GVISOR_OWN_PROCESSES } else { 1 };
        HostConfig {
            memory: Some(memory),
            // Memory and swap together: no swap.
            memory_swap: Some(memory),
            nano_cpus: Some(i64::from(limits.cpu_millis) * 1_000_000),
            pids_limit: Some(i64::from(limits.processes.saturating_add(own_processes))),
            ulimits: Some(self.flavour().ulimits(limits.disk_bytes, limits.processes)),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            network_mode: Some(self.network_mode(&spec.network)),
            binds: Some(binds),
            runtime: Some(runtime.clone()).filter(|r| !r.is_empty()),
            // The agent prints nothing, and programs' output goes to who ran them.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            privileged: Some(false),
            ..Default::default()
        }
    }

    /// The runtime's name; empty: the engine's own.
    pub(super) fn runtime<'a>(&'a self, spec: &'a Spec) -> &'a String {
        if spec.runtime.is_empty() { &self.0.settings.runtime } else { &spec.runtime }
    }

    fn check(&self, spec: &Spec) -> Result<(), VmError> {
        self.check_network(spec)?;
        let runtime = self.runtime(spec);
        if !self.flavour().takes_runtime() && !runtime.is_empty() {
            let what = format!("choose the runtime `{runtime}` for one sandbox: set it in containers.conf for all, or use Docker");
            return Err(self.unsupported(what));
        }
        if spec.limits.memory_bytes < SMALLEST_MEMORY {
            return Err(VmError::Invalid(format!(
                "{} bytes of memory are too few for a container: give it 6 MiB or more",
                spec.limits.memory_bytes
            )));
        }
        if let Some(shared) =
            spec.shared.iter().find(|s| !s.at.starts_with('/') || s.at.contains([':', '\0']) || s.from.to_string_lossy().contains(':'))
        {
            return Err(VmError::Invalid(format!("{} cannot be shared at {:?}", shared.from.display(), shared.at)));
        }
        if !spec.workdir.is_empty() && !spec.workdir.starts_with('/') {
            return Err(VmError::Invalid(format!("the folder {:?} does not begin with /", spec.workdir)));
        }
        if spec.limits.cpu_millis < 10 || spec.limits.processes == 0 || spec.limits.disk_bytes == 0 {
            return Err(VmError::Invalid(
                "a container needs 10 thousandths of a CPU, one process and one byte of disk at least".to_owned(),
            ));
        }
        Ok(())
    }
}
