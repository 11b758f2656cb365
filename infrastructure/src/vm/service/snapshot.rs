//! Snapshots: a sandbox written to a folder of its own, from which others begin.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::remove::remove_tree;
use super::super::{SandboxId, VmError, disk};
use super::events::EventKind;
use super::{Inner, SLOW, Sandboxes, SnapshotRecord, Status, blocking, check, locked, no_sandbox, within};
use crate::tenant::Tenant;

impl Sandboxes {
    /// Takes a snapshot of a sandbox that runs, is frozen or is stopped, as its engine can.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Unsupported`], [`VmError::Exhausted`], [`VmError::Condition`], and what the engine says.
    pub async fn snapshot(&self, tenant: &Tenant, id: &str, labels: BTreeMap<String, String>) -> Result<SnapshotRecord, VmError> {
        check::labels(&labels)?;
        let (inner, entry, tenant) = (Arc::clone(&self.inner), self.inner.entry(tenant, id)?, tenant.clone());
        let engine = inner.engine_of(&entry)?;
        if !inner.capable(engine.name()).await?.snapshot {
            return Err(VmError::Unsupported { engine: engine.name(), what: "take snapshots".into() });
        }
        Inner::to_its_end(async move {
            let _turn = entry.turn.lock().await;
            if !inner.is_known(&entry) {
                return Err(no_sandbox(entry.id.as_str()));
            }
            if !matches!(entry.status(), Status::Running | Status::Paused | Status::Stopped) {
                return Err(VmError::Condition { is: entry.status().as_str(), what: "wait until that is over".into() });
            }
            let record = inner.reserve_snapshot(&tenant, engine.name(), &entry.snapshot(), labels)?;
            let home = inner.home(&entry.id);
            let id = entry.id.clone();
            let taken = inner.take_snapshot(&record, |folder| async move {
                within("taking the snapshot", SLOW, engine.snapshot(&id, &home, &folder)).await
            });
            match taken.await {
                Ok(()) => {
                    let record = SnapshotRecord { ready: true, ..record };
                    locked(&inner.snapshots).insert(record.id.clone(), record.clone());
                    inner.tell(&entry, EventKind::Snapshotted, record.id.clone());
                    Ok(record)
                }
                Err(error) => {
                    if let Err(later) = inner.remove_snapshot(&record.id).await {
                        tracing::warn!(snapshot = record.id, error = %later, "a half-taken snapshot stays until the next start");
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    /// The tenant's snapshots, newest first.
    pub fn snapshots(&self, tenant: &Tenant) -> Vec<SnapshotRecord> {
        let mut all: Vec<SnapshotRecord> =
            locked(&self.inner.snapshots).values().filter(|record| record.tenant == *tenant && record.ready).cloned().collect();
        all.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        all
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::Condition`] while a sandbox stands on it.
    pub async fn delete_snapshot(&self, tenant: &Tenant, id: &str) -> Result<(), VmError> {
        let (inner, tenant, id) = (Arc::clone(&self.inner), tenant.clone(), id.to_owned());
        Inner::to_its_end(async move {
            {
                // Under the table's lock, as a sandbox's place is taken: none begins from it in between.
                let table = locked(&inner.table);
                let mut record = inner.snapshot_of(&tenant, &id)?;
                if table.values().any(|entry| locked(&entry.record).snapshot.as_deref() == Some(id.as_str())) {
                    return Err(VmError::Condition {
                        is: "in need of its snapshot",
                        what: "delete the sandboxes that began from it first".into(),
                    });
                }
                record.ready = false;
                locked(&inner.snapshots).insert(id.clone(), record);
            }
            inner.remove_snapshot(&id).await
        })
        .await
    }
}

impl Inner {
    pub(super) fn snapshot_folder(&self, id: &str) -> PathBuf {
        self.folder.join("snapshots").join(id)
    }

    pub(super) fn snapshot_of(&self, tenant: &Tenant, id: &str) -> Result<SnapshotRecord, VmError> {
        let snapshots = locked(&self.snapshots);
        let own = snapshots.get(id).filter(|record| record.tenant == *tenant && record.ready);
        own.cloned().ok_or_else(|| {
            let shown: String = id.chars().take(64).collect();
            VmError::NotFound(format!("there is no snapshot {shown:?}"))
        })
    }

    fn reserve_snapshot(
        &self,
        tenant: &Tenant,
        engine: &str,
        of: &super::Record,
        labels: BTreeMap<String, String>,
    ) -> Result<SnapshotRecord, VmError> {
        let id = format!("snap-{}", SandboxId::random()?.as_str().trim_start_matches("sb-"));
        let mut snapshots = locked(&self.snapshots);
        let own = snapshots.values().filter(|record| record.tenant == *tenant).count();
        let (own_most, all_most) = (self.config.per_tenant.snapshots as usize, self.config.per_server.snapshots as usize);
        if own >= own_most || snapshots.len() >= all_most {
            metrics::counter!("auralink_sandbox_refused_total", "limit" => "snapshots").increment(1);
            return Err(VmError::Exhausted(format!(
                "there are {own} of {own_most} snapshots of this tenant and {} of {all_most} of this server: delete one first",
                snapshots.len()
            )));
        }
        let record = SnapshotRecord {
            id: id.clone(),
            tenant: tenant.clone(),
            engine: engine.to_owned(),
            sandbox: of.id.clone(),
            image: of.image.clone(),
            labels,
            ready: false,
            created_ms: disk::now_ms(),
        };
        snapshots.insert(id, record.clone());
        Ok(record)
    }

    /// Recorded as not ready, written, recorded as ready.
    async fn take_snapshot<F: Future<Output = Result<(), VmError>>>(
        &self,
        record: &SnapshotRecord,
        write: impl FnOnce(PathBuf) -> F,
    ) -> Result<(), VmError> {
        self.store.save_snapshot(record).await?;
        let folder = self.snapshot_folder(&record.id);
        let made = folder.clone();
        blocking("making the snapshot's folder", move || {
            use std::os::unix::fs::DirBuilderExt;
            let making = std::fs::DirBuilder::new().mode(0o700).create(&made);
            making.map_err(|source| VmError::Io { what: format!("making {}", made.display()), source })
        })
        .await?;
        write(folder).await?;
        self.store.save_snapshot(&SnapshotRecord { ready: true, ..record.clone() }).await
    }

    /// Folder first, record last; the caller made sure that nobody needs it.
    pub(super) async fn remove_snapshot(&self, id: &str) -> Result<(), VmError> {
        let folder = self.snapshot_folder(id);
        // Said before: a record that is ready has all its files.
        let record = locked(&self.snapshots).get(id).cloned();
        if let Some(record) = record {
            self.store.save_snapshot(&SnapshotRecord { ready: false, ..record }).await?;
        }
        blocking("removing the snapshot", move || {
            remove_tree(&folder).map_err(|source| VmError::Io { what: format!("removing {}", folder.display()), source })?;
            Ok(())
        })
        .await?;
        self.store.forget_snapshot(id).await?;
        locked(&self.snapshots).remove(id);
        Ok(())
    }
}
