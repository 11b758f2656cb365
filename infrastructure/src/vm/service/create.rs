//! Making a sandbox: checked, reserved, recorded, and only then made.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::super::remove::remove_tree;
use super::super::spec::{Source, Spec};
use super::super::tools::Installed;
use super::super::{Engine, SandboxId, VmError, disk};
use super::check::{self, Begin, Request};
use super::config::Quota;
use super::events::EventKind;
use super::logs::Logs;
use super::{Entry, Inner, Record, SLOW, Sandboxes, Status, blocking, locked, within};
use crate::tenant::Tenant;

impl Sandboxes {
    /// Makes a sandbox, and starts it when `request.start`. What failed half-way is gone when the error is told.
    ///
    /// # Errors
    /// [`VmError::Invalid`], [`VmError::NotFound`] (image, snapshot), [`VmError::Exists`] (name), [`VmError::Exhausted`] (limits),
    /// [`VmError::Unavailable`] and [`VmError::Unsupported`] (engine), and what the engine says.
    pub async fn create(&self, tenant: &Tenant, request: Request) -> Result<Record, VmError> {
        let (inner, tenant) = (Arc::clone(&self.inner), tenant.clone());
        Inner::to_its_end(async move {
            let start = request.start;
            let (entry, _turn) = inner.reserve(&tenant, request).await?;
            inner.make(&entry).await?;
            if start && let Err(error) = inner.start_locked(&entry).await {
                inner.discard(&entry, &error).await;
                return Err(error);
            }
            Ok(entry.snapshot())
        })
        .await
    }
}

impl Inner {
    /// Checks everything and takes a place in the table, with its turn; nothing is on disk yet.
    async fn reserve(self: &Arc<Self>, tenant: &Tenant, request: Request) -> Result<(Arc<Entry>, OwnedMutexGuard<()>), VmError> {
        check::request(&request, &self.config)?;
        let name = request.engine.clone().unwrap_or_else(|| self.config.default_engine.clone());
        let engine: &'static str = self.engine(&name)?.name();
        let can = self.capable(engine).await?;
        check::capable(&request, engine, &can)?;
        let installed = self.install(&request).await?;
        let (inner, tenant) = (Arc::clone(self), tenant.clone());
        // Looking for files blocks; reserving is under a lock, so that an image is not deleted between being found and being used.
        blocking("looking for the sandbox's source", move || inner.reserve_now(&tenant, engine, &request, installed)).await
    }

    fn reserve_now(
        &self,
        tenant: &Tenant,
        engine: &'static str,
        request: &Request,
        installed: Installed,
    ) -> Result<(Arc<Entry>, OwnedMutexGuard<()>), VmError> {
        let id = SandboxId::random()?;
        let mut table = locked(&self.table);
        let records: Vec<Record> = table.values().map(|entry| entry.snapshot()).collect();
        let (own, all): (Vec<&Record>, Vec<&Record>) =
            (records.iter().filter(|r| r.spec.tenant == *tenant).collect(), records.iter().collect());
        if !request.name.is_empty() && own.iter().any(|record| record.name == request.name) {
            return Err(VmError::Exists(format!("there is a sandbox {:?} already: delete it, or take another name", request.name)));
        }
        fits("this tenant", &own, request, &self.config.per_tenant)?;
        fits("this server", &all, request, &self.config.per_server)?;
        let (source, words, image, snapshot) = self.source(tenant, engine, &request.begin)?;
        let spec = Spec {
            tenant: tenant.clone(),
            source,
            limits: request.limits,
            network: request.network.clone(),
            // What the caller says himself comes over what his tools say.
            env: installed.env.into_iter().chain(request.env.clone()).collect(),
            workdir: request.workdir.clone(),
            labels: request.labels.clone(),
            runtime: request.runtime.clone(),
            shared: installed.shared,
        };
        let record = Record {
            id: id.clone(),
            name: request.name.clone(),
            engine: engine.to_owned(),
            spec,
            source: words,
            image,
            snapshot,
            status: Status::Creating,
            why: String::new(),
            created_ms: disk::now_ms(),
            started_ms: None,
            expires_ms: None,
        };
        let entry = Arc::new(self.entry_of(record));
        let turn = Arc::clone(&entry.turn).try_lock_owned().expect("nobody else knows the entry yet");
        table.insert(id, Arc::clone(&entry));
        Ok((entry, turn))
    }

    /// The tools, before a place is taken: fetching them may take minutes.
    async fn install(&self, request: &Request) -> Result<Installed, VmError> {
        if request.tools.tools.is_empty() {
            return Ok(Installed::default());
        }
        let Some(tools) = &self.tools else {
            return Err(VmError::Invalid(
                "this server installs no tools: its configuration names no hosts and folders to take them from".into(),
            ));
        };
        tools.install(&request.tools, &|tool, progress| tracing::debug!(%tool, ?progress, "a tool for a sandbox")).await
    }

    pub(super) fn entry_of(&self, record: Record) -> Entry {
        let logs = Logs::open(self.log_folder(&record.id), self.config.logs_kept, self.config.log_bytes, self.config.events_kept);
        Entry {
            id: record.id.clone(),
            record: Mutex::new(record),
            turn: Arc::default(),
            execs: Arc::new(Semaphore::new(self.config.execs_per_sandbox)),
            forwards: Arc::new(Semaphore::new(self.config.forwards_per_sandbox)),
            logs: Arc::new(logs),
        }
    }

    pub(super) fn log_folder(&self, id: &SandboxId) -> PathBuf {
        self.folder.join("logs").join(id.as_str())
    }

    /// The source as engines see it: a server's image is the folder of its root filesystem; a name that this server does not have goes to
    /// engines that may have images of their own.
    fn source(&self, tenant: &Tenant, engine: &str, begin: &Begin) -> Result<(Source, String, Option<String>, Option<String>), VmError> {
        match begin {
            Begin::Host => Ok((Source::Host, "host".into(), None, None)),
            Begin::Image(name) => match self.images.find(tenant, name) {
                Ok((image, rootfs)) => Ok((Source::RootFs(rootfs), format!("image {name}"), Some(image.digest), None)),
                Err(VmError::NotFound(_)) if has_images(engine) => Ok((Source::Image(name.clone()), format!("image {name}"), None, None)),
                Err(error) => Err(error),
            },
            Begin::RootFs(path) => {
                let source = check::rootfs(path, &self.config.rootfs_folders)?;
                Ok((source, format!("rootfs {}", path.display()), None, None))
            }
            Begin::Snapshot(id) => {
                let snapshot = self.snapshot_of(tenant, id)?;
                if snapshot.engine != engine {
                    return Err(VmError::Invalid(format!(
                        "the snapshot {id} was taken by the engine {}: it cannot begin with {engine}",
                        snapshot.engine
                    )));
                }
                Ok((Source::Snapshot(self.snapshot_folder(id)), format!("snapshot {id}"), snapshot.image, Some(id.clone())))
            }
        }
    }

    /// Record, folders, engine. The caller has the turn.
    async fn make(&self, entry: &Entry) -> Result<(), VmError> {
        let record = entry.snapshot();
        if let Err(error) = self.store.make(&record).await {
            // Whether it was written is not known: the next start reaps it if it was.
            locked(&self.table).remove(&entry.id);
            return Err(error);
        }
        let made = self.make_recorded(entry, &record).await;
        if let Err(error) = &made {
            self.discard(entry, error).await;
        }
        made
    }

    async fn make_recorded(&self, entry: &Entry, record: &Record) -> Result<(), VmError> {
        let (home, logs) = (self.home(&entry.id), entry.logs.folder().to_owned());
        let folders = [home.clone(), logs];
        blocking("making the sandbox's folders", move || folders.iter().try_for_each(|folder| private_folder(folder))).await?;
        let engine: Arc<dyn Engine> = self.engine_of(entry)?;
        within("making the sandbox", SLOW, engine.create(&entry.id, &record.spec, &home)).await?;
        self.mark(entry, Status::Stopped, "").await?;
        self.tell(entry, EventKind::Created, record.source.clone());
        Ok(())
    }

    /// Removes what could not be finished; what cannot be removed now is tried again.
    async fn discard(&self, entry: &Entry, why: &VmError) {
        metrics::counter!("auralink_sandbox_create_failed_total").increment(1);
        if let Err(error) = self.delete_locked(entry, EventKind::Reaped, &format!("it could not be made: {why}")).await {
            tracing::warn!(sandbox = %entry.id, %error, "a sandbox that could not be made cannot be removed yet: it is tried again");
        }
    }
}

fn private_folder(folder: &Path) -> Result<(), VmError> {
    let failed = |source| VmError::Io { what: format!("making {}", folder.display()), source };
    remove_tree(folder).map_err(failed)?;
    DirBuilder::new().mode(0o700).create(folder).map_err(failed)
}

/// Engines that have images beside this server's own.
fn has_images(engine: &str) -> bool {
    matches!(engine, "docker" | "podman" | "gvisor")
}

fn fits(whose: &str, records: &[&Record], request: &Request, quota: &Quota) -> Result<(), VmError> {
    let limits = || records.iter().map(|record| record.spec.limits);
    let sums = [
        ("sandboxes", records.len() as u64, 1, u64::from(quota.sandboxes)),
        ("cpu_millis", limits().map(|l| u64::from(l.cpu_millis)).sum(), u64::from(request.limits.cpu_millis), quota.cpu_millis),
        ("memory_bytes", limits().map(|l| l.memory_bytes).sum(), request.limits.memory_bytes, quota.memory_bytes),
        ("disk_bytes", limits().map(|l| l.disk_bytes).fold(0, u64::saturating_add), request.limits.disk_bytes, quota.disk_bytes),
    ];
    for (what, used, more, most) in sums {
        if used.saturating_add(more) > most {
            metrics::counter!("auralink_sandbox_refused_total", "limit" => what).increment(1);
            return Err(VmError::Exhausted(format!(
                "{whose} has {what} {used} of {most} in use and {more} more are asked for: delete a sandbox, or ask for less"
            )));
        }
    }
    Ok(())
}
