//! Start, stop, pause, resume, delete: one at a time for each sandbox, recorded before and after.

use std::sync::Arc;
use std::time::Duration;

use super::super::remove::remove_tree;
use super::super::{Condition, VmError, disk};
use super::events::EventKind;
use super::{Entry, Inner, QUICK, Record, SLOW, Sandboxes, Status, blocking, locked, no_sandbox, within};
use crate::tenant::Tenant;

/// Longest time that a sandbox is asked to end before it is killed.
const GRACE: Duration = Duration::from_secs(300);

/// What a caller may have done to a sandbox.
#[derive(Clone, Copy)]
enum Change {
    Start,
    Stop(Duration),
    Pause,
    Resume,
    Delete,
}

impl Sandboxes {
    /// Starts it. One that runs already stays as it is.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Condition`], and what the engine says.
    pub async fn start(&self, tenant: &Tenant, id: &str) -> Result<Record, VmError> {
        self.change(tenant, id, Change::Start).await
    }

    /// Ends it: asked first, killed after `grace` (at most five minutes). Its files stay.
    ///
    /// # Errors
    /// As [`Sandboxes::start`].
    pub async fn stop(&self, tenant: &Tenant, id: &str, grace: Duration) -> Result<Record, VmError> {
        self.change(tenant, id, Change::Stop(grace.min(GRACE))).await
    }

    /// Freezes it.
    ///
    /// # Errors
    /// As [`Sandboxes::start`]; [`VmError::Unsupported`].
    pub async fn pause(&self, tenant: &Tenant, id: &str) -> Result<Record, VmError> {
        self.change(tenant, id, Change::Pause).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`Sandboxes::pause`].
    pub async fn resume(&self, tenant: &Tenant, id: &str) -> Result<Record, VmError> {
        self.change(tenant, id, Change::Resume).await
    }

    /// Deletes it with all that it holds, whatever its condition.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; what the engine says, and then it is tried again until it is done.
    pub async fn delete(&self, tenant: &Tenant, id: &str) -> Result<(), VmError> {
        self.change(tenant, id, Change::Delete).await.map(|_| ())
    }

    async fn change(&self, tenant: &Tenant, id: &str, change: Change) -> Result<Record, VmError> {
        let (inner, entry) = (Arc::clone(&self.inner), self.inner.entry(tenant, id)?);
        Inner::to_its_end(async move {
            let _turn = entry.turn.lock().await;
            if !inner.is_known(&entry) {
                return Err(no_sandbox(entry.id.as_str()));
            }
            match change {
                Change::Start => inner.start_locked(&entry).await?,
                Change::Stop(grace) => inner.stop_locked(&entry, grace).await?,
                Change::Pause => inner.pause_locked(&entry).await?,
                Change::Resume => inner.resume_locked(&entry).await?,
                Change::Delete => inner.delete_locked(&entry, EventKind::Deleted, "").await?,
            }
            Ok(entry.snapshot())
        })
        .await
    }
}

fn unfit(status: Status, what: &str) -> VmError {
    VmError::Condition { is: status.as_str(), what: what.to_owned() }
}

/// All of these are called by who has the entry's turn.
impl Inner {
    pub(super) async fn start_locked(&self, entry: &Entry) -> Result<(), VmError> {
        match entry.status() {
            Status::Running => return Ok(()),
            Status::Stopped => {}
            Status::Paused => return Err(unfit(Status::Paused, "resume it")),
            other => return Err(unfit(other, "wait until that is over, or delete it")),
        }
        let now = disk::now_ms();
        {
            let mut record = locked(&entry.record);
            let lifetime = record.spec.limits.lifetime_s;
            // From its first start: stopping and starting makes no sandbox older than it may be.
            if record.expires_ms.is_none() && lifetime > 0 {
                record.expires_ms = Some(now.saturating_add(lifetime.saturating_mul(1_000)));
            }
            record.started_ms = Some(now);
        }
        self.mark_first(entry, Status::Starting, Status::Stopped).await?;
        let (engine, home, record) = (self.engine_of(entry)?, self.home(&entry.id), entry.snapshot());
        let started = within("starting the sandbox", SLOW, engine.start(&entry.id, &record.spec, &home)).await;
        match started {
            Ok(()) => {
                self.mark_after(entry, Status::Running, "").await;
                self.tell(entry, EventKind::Started, "");
                Ok(())
            }
            Err(error) => {
                self.settle_after(entry, &error).await;
                Err(error)
            }
        }
    }

    pub(super) async fn stop_locked(&self, entry: &Entry, grace: Duration) -> Result<(), VmError> {
        let before = match entry.status() {
            Status::Stopped => return Ok(()),
            status @ (Status::Running | Status::Paused | Status::Starting | Status::Stopping) => status,
            other => return Err(unfit(other, "wait until that is over, or delete it")),
        };
        self.mark_first(entry, Status::Stopping, before).await?;
        let (engine, home) = (self.engine_of(entry)?, self.home(&entry.id));
        match within("stopping the sandbox", grace + QUICK, engine.stop(&entry.id, &home, grace)).await {
            Ok(()) => {
                self.mark_after(entry, Status::Stopped, "").await;
                self.tell(entry, EventKind::Stopped, "");
                Ok(())
            }
            Err(error) => {
                self.settle_after(entry, &error).await;
                Err(error)
            }
        }
    }

    async fn pause_locked(&self, entry: &Entry) -> Result<(), VmError> {
        match entry.status() {
            Status::Paused => return Ok(()),
            Status::Running => {}
            other => return Err(unfit(other, "start it first")),
        }
        let (engine, home) = (self.engine_of(entry)?, self.home(&entry.id));
        self.can(entry, |can| can.pause, "pause sandboxes").await?;
        // No record before: whether it is frozen is asked of the engine after a crash.
        match within("pausing the sandbox", QUICK, engine.pause(&entry.id, &home)).await {
            Ok(()) => {
                self.mark_after(entry, Status::Paused, "").await;
                self.tell(entry, EventKind::Paused, "");
                Ok(())
            }
            Err(error) => {
                self.settle_after(entry, &error).await;
                Err(error)
            }
        }
    }

    async fn resume_locked(&self, entry: &Entry) -> Result<(), VmError> {
        match entry.status() {
            Status::Running => return Ok(()),
            Status::Paused => {}
            other => return Err(unfit(other, "start it first")),
        }
        let (engine, home) = (self.engine_of(entry)?, self.home(&entry.id));
        match within("resuming the sandbox", QUICK, engine.resume(&entry.id, &home)).await {
            Ok(()) => {
                self.mark_after(entry, Status::Running, "").await;
                self.tell(entry, EventKind::Resumed, "");
                Ok(())
            }
            Err(error) => {
                self.settle_after(entry, &error).await;
                Err(error)
            }
        }
    }

    /// Everything of it, in an order that a crash may cut anywhere: the record goes last.
    pub(super) async fn delete_locked(&self, entry: &Entry, told: EventKind, why: &str) -> Result<(), VmError> {
        if !self.is_known(entry) {
            return Ok(());
        }
        if entry.status() != Status::Deleting {
            let before = entry.status();
            self.mark_first(entry, Status::Deleting, before).await?;
        }
        let (home, logs) = (self.home(&entry.id), entry.logs.folder().to_owned());
        // An engine that the configuration no longer has leaves what it made: the home is removed, the rest is said.
        match self.engine_of(entry) {
            Ok(engine) => {
                if let Err(error) = within("deleting the sandbox", SLOW, engine.delete(&entry.id, &home)).await {
                    locked(&entry.record).why = error.to_string();
                    self.tell(entry, EventKind::Failed, format!("deleting it: {error}"));
                    return Err(error);
                }
            }
            Err(error) => tracing::warn!(sandbox = %entry.id, %error, "its home is removed without its engine"),
        }
        let removed = blocking("removing the sandbox's folders", move || {
            for folder in [&home, &logs] {
                remove_tree(folder).map_err(|source| VmError::Io { what: format!("removing {}", folder.display()), source })?;
            }
            Ok(())
        })
        .await;
        if let Err(error) = removed {
            locked(&entry.record).why = error.to_string();
            return Err(error);
        }
        self.store.forget(&entry.id).await?;
        locked(&self.table).remove(&entry.id);
        self.tell(entry, told, why);
        Ok(())
    }

    async fn can(&self, entry: &Entry, able: impl Fn(&super::Capabilities) -> bool, what: &str) -> Result<(), VmError> {
        let engine = self.engine_of(entry)?.name();
        match able(&self.capable(engine).await?) {
            true => Ok(()),
            false => Err(VmError::Unsupported { engine, what: what.to_owned() }),
        }
    }

    pub(super) async fn mark(&self, entry: &Entry, status: Status, why: &str) -> Result<(), VmError> {
        let record = {
            let mut record = locked(&entry.record);
            record.status = status;
            why.clone_into(&mut record.why);
            record.clone()
        };
        self.store.save(&record).await
    }

    /// Before an engine acts: what cannot be written does not happen.
    pub(super) async fn mark_first(&self, entry: &Entry, status: Status, before: Status) -> Result<(), VmError> {
        let written = self.mark(entry, status, "").await;
        if written.is_err() {
            locked(&entry.record).status = before;
        }
        written
    }

    /// After an engine acted: it is so, written or not. A record that says "starting" is understood after a crash.
    pub(super) async fn mark_after(&self, entry: &Entry, status: Status, why: &str) {
        if let Err(error) = self.mark(entry, status, why).await {
            metrics::counter!("auralink_sandbox_records_unwritten_total").increment(1);
            tracing::error!(sandbox = %entry.id, status = status.as_str(), %error, "the record could not be written after the change");
        }
    }

    async fn settle_after(&self, entry: &Entry, error: &VmError) {
        self.tell(entry, EventKind::Failed, error.to_string());
        self.settle(entry, &error.to_string()).await;
    }

    /// Asks the engine how it is and records that. An engine that does not answer leaves the record as it is.
    pub(super) async fn settle(&self, entry: &Entry, why: &str) {
        let Ok(engine) = self.engine_of(entry) else { return };
        let home = self.home(&entry.id);
        let status = match within("asking how the sandbox is", QUICK, engine.condition(&entry.id, &home)).await {
            Ok(Condition::Running) => Status::Running,
            Ok(Condition::Paused) => Status::Paused,
            Ok(Condition::Stopped | Condition::Gone) => Status::Stopped,
            Err(error) => {
                tracing::warn!(sandbox = %entry.id, %error, "its engine does not say how it is");
                return;
            }
        };
        let before = entry.status();
        if before != status {
            self.mark_after(entry, status, why).await;
            if status == Status::Stopped {
                self.tell(entry, EventKind::Stopped, why);
            }
        }
    }
}
