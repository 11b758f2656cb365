//! The disk limit where the storage driver has none: what a sandbox wrote is measured while it runs, and the programs of one that wrote too
//! much are ended.
//!
//! Place: begun with a sandbox, and again by the first call about it after this server's restart; the limit is in its label. Rule: a single
//! file is held to the limit by the kernel at once (`RLIMIT_FSIZE`); this is for many files, and may be some seconds late. A sandbox beyond
//! its limit may run on as long as it grows no further, so that it can be put in order.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{InspectContainerOptionsBuilder, RestartContainerOptionsBuilder};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::{Condition, ContainerEngine, LABEL_DISK, SandboxId, condition_of, container, fault};

/// Between two looks at one that writes. Shorter costs the daemon more: it adds up every file.
const OFTEN: Duration = Duration::from_secs(1);
/// Between two looks at one that does not.
const SELDOM: Duration = Duration::from_secs(4);
/// The waits between looks are at least so many times as long as a look takes.
const SHARE: u32 = 20;
/// What folders and the end of the last file take beside the limit: a single file may be as large as the limit.
const BESIDE: u64 = 1 << 20;
/// Most sandboxes of one engine that are watched.
const KEPT: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<SandboxId, Watched>>);

#[derive(Debug, Default)]
struct Watched {
    task: Option<AbortHandle>,
    /// When and why its programs were ended last.
    ended: Option<(Instant, String)>,
    /// They are being ended now.
    ending: bool,
}

/// The limit that a container's label holds; 0: none.
pub(super) fn limit_of(inspected: &ContainerInspectResponse) -> u64 {
    let labels = inspected.config.as_ref().and_then(|c| c.labels.as_ref());
    labels.and_then(|labels| labels.get(LABEL_DISK)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Watches a sandbox that runs, once.
pub(super) fn begin(engine: &ContainerEngine, id: &SandboxId, limit: u64) {
    let mut all = engine.0.watches.all();
    let busy = all.get(id).and_then(|watched| watched.task.as_ref()).is_some_and(|task| !task.is_finished());
    if limit == 0 || busy || all.len() >= KEPT {
        return;
    }
    let task = tokio::spawn(look(engine.clone(), id.clone(), limit));
    all.entry(id.clone()).or_default().task = Some(task.abort_handle());
}

async fn look(engine: ContainerEngine, id: SandboxId, limit: u64) {
    // Above its limit it may be as large as it was when its programs were last ended, or smaller.
    let limit_and = limit.saturating_add(BESIDE);
    let (mut wait, mut before, mut allowed) = (OFTEN, None, limit_and);
    let options = InspectContainerOptionsBuilder::default().size(true).build();
    loop {
        sleep(wait).await;
        wait = SELDOM;
        let begun = Instant::now();
        let Ok(api) = engine.api().await else { continue };
        let inspected = match api.inspect_container(&container(&id), Some(options.clone())).await {
            Ok(inspected) => inspected,
            Err(error) if fault::status(&error) == Some(404) => return,
            Err(_) => continue,
        };
        if condition_of(&inspected) == Condition::Stopped {
            return;
        }
        let size = inspected.size_rw.and_then(|size| u64::try_from(size).ok());
        if let Some(size) = size {
            if size > allowed {
                metrics::counter!("auralink_sandbox_killed_total", "reason" => "disk").increment(1);
                let reason = format!(
                    "the sandbox's programs were ended: it wrote {size} bytes, more than its disk limit of {limit}; delete files, or give it more disk"
                );
                engine.0.watches.end(&engine, &id, &reason).await;
            }
            allowed = size.max(limit_and);
        }
        let usual = if size == before { SELDOM } else { OFTEN };
        wait = usual.max(begun.elapsed() * SHARE);
        before = size;
    }
}

impl Watches {
    fn all(&self) -> MutexGuard<'_, HashMap<SandboxId, Watched>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Why its programs were ended after `began`, if they were.
    pub(super) fn reason(&self, id: &SandboxId, began: Instant) -> Option<String> {
        self.all().get(id)?.ended.as_ref().filter(|(when, _)| *when >= began).map(|(_, reason)| reason.clone())
    }

    /// It is gone.
    pub(super) fn forget(&self, id: &SandboxId) {
        if let Some(task) = self.all().remove(id).and_then(|watched| watched.task) {
            task.abort();
        }
    }

    /// Ends all programs of a sandbox, whatever they do, and keeps why: a restart needs nothing inside, and its files stay.
    pub(super) async fn end(&self, engine: &ContainerEngine, id: &SandboxId, reason: &str) {
        {
            let mut all = self.all();
            let watched = all.entry(id.clone()).or_default();
            watched.ended = Some((Instant::now(), reason.to_owned()));
            watched.ending = true;
        }
        self.restart(engine, id, reason).await;
        if let Some(watched) = self.all().get_mut(id) {
            watched.ending = false;
        }
    }

    /// Waits while its programs are being ended.
    pub(super) async fn settled(&self, id: &SandboxId) {
        while self.all().get(id).is_some_and(|watched| watched.ending) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&self, engine: &ContainerEngine, id: &SandboxId, reason: &str) {
        let Ok(api) = engine.api().await else { return };
        let options = RestartContainerOptionsBuilder::default().t(0).build();
        if let Err(error) = api.restart_container(&container(id), Some(options)).await {
            tracing::warn!(sandbox = %id, %error, reason, "the programs of a sandbox could not be ended");
        }
    }
}
