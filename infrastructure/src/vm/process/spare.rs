//! Sandboxes that are made before they are asked for: the usual one (the host's programs, no network) begins in the
//! time of a message instead of a dozen of milliseconds.
//!
//! Place: `create` takes a spare's files and `start` its running body, so a sandbox's group and agent may carry another id than its own
//! ([`Body`]); the first one that could have been one begins the making. Rule: a spare is confined like any other, and its limits are set
//! anew when it is taken. Until then it ends with this server (`--owned`), and what a crash leaves of it is found like any other stray.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::cgroup::{Group, Hierarchies};
use super::life::{self, Body, PATIENCE, Record, Running, Start};
use super::{NAME, blocking};
use crate::vm::agent::Agent;
use crate::vm::network::{NetworkConfig, Networks};
use crate::vm::remove::remove_tree;
use crate::vm::{Limits, Network, SandboxId, Source, Spec, VmError};

/// Between a start and the making of the next: whoever starts one runs something in it first.
const AFTER: Duration = Duration::from_millis(20);

/// What a spare is made with.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) homes: PathBuf,
    pub(super) guest: PathBuf,
    pub(super) groups: Hierarchies,
}

/// A sandbox that runs and that nobody asked for yet.
pub(super) struct Spare {
    id: SandboxId,
    home: PathBuf,
    record: Record,
    group: Group,
    agent: Agent,
}

/// The spares of one engine.
#[derive(Default)]
pub(super) struct Spares {
    wanted: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    making: HashSet<SandboxId>,
    ready: Vec<Spare>,
    /// By the sandbox that has its files already and was not started yet.
    taken: HashMap<SandboxId, Spare>,
}

impl State {
    fn tell(&self) {
        metrics::gauge!("auralink_sandbox_spares", "engine" => NAME).set(self.ready.len() as f64);
    }
}

impl Spares {
    pub(super) fn new(wanted: usize) -> Arc<Self> {
        Arc::new(Self { wanted, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a sandbox like this can have been made before.
    pub(super) fn fit(&self, spec: &Spec, groups: &Hierarchies) -> bool {
        let usual = spec.source == Source::Host && spec.network == Network::None && spec.runtime.is_empty() && spec.shared.is_empty();
        self.wanted > 0 && usual && groups.missing().is_empty()
    }

    /// A spare for this sandbox: the folder of its files, and what they are. Its body waits for [`Spares::body_of`].
    pub(super) fn take(&self, id: &SandboxId, homes: &Path) -> Option<(PathBuf, Record)> {
        let mut state = self.state();
        let at = state.ready.iter().position(|spare| spare.home.parent() == Some(homes) && !spare.agent.is_over())?;
        let spare = state.ready.swap_remove(at);
        state.tell();
        let files = (spare.home.join("root"), spare.record.clone());
        state.taken.insert(id.clone(), spare);
        Some(files)
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.state().ready.len()
    }

    /// What runs already for a sandbox that was made of a spare.
    pub(super) fn body_of(&self, id: &SandboxId) -> Option<Spare> {
        self.state().taken.remove(id)
    }

    /// Those that are nobody's.
    pub(super) fn ids(&self) -> HashSet<SandboxId> {
        let state = self.state();
        let made = state.ready.iter().chain(state.taken.values()).map(|spare| spare.id.clone());
        made.chain(state.making.iter().cloned()).collect()
    }

    /// Makes in the background as many as are missing, one after the other. A failure is told and tried again at the next start.
    pub(super) fn refill(self: &Arc<Self>, maker: &Maker) {
        let ids: Vec<SandboxId> = {
            let mut state = self.state();
            let (over, ready) = std::mem::take(&mut state.ready).into_iter().partition(|spare| spare.agent.is_over());
            state.ready = ready;
            state.tell();
            let over: Vec<Spare> = over;
            for spare in over {
                tokio::spawn(spare.end());
            }
            let missing = self.wanted.saturating_sub(state.ready.len() + state.making.len());
            let ids: Vec<_> = (0..missing).filter_map(|_| SandboxId::random().ok()).collect();
            state.making.extend(ids.iter().cloned());
            ids
        };
        if ids.is_empty() {
            return;
        }
        let (spares, maker) = (Arc::downgrade(self), maker.clone());
        tokio::spawn(async move {
            tokio::time::sleep(AFTER).await;
            for id in ids {
                let made = Spare::make(&id, &maker).await;
                Self::keep(&spares, &id, made).await;
            }
        });
    }

    async fn keep(spares: &Weak<Self>, id: &SandboxId, made: Result<Spare, VmError>) {
        let spares = spares.upgrade();
        if let Some(spares) = &spares {
            spares.state().making.remove(id);
        }
        match (made, spares) {
            (Ok(spare), Some(spares)) => {
                let mut state = spares.state();
                state.ready.push(spare);
                state.tell();
            }
            // The engine is gone.
            (Ok(spare), None) => spare.end().await,
            (Err(error), _) => tracing::warn!(%error, "a sandbox could not be made ahead of its time: the next one takes a little longer"),
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        let state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        state.ready.into_iter().chain(state.taken.into_values()).for_each(Spare::end_now);
    }
}

impl Spare {
    async fn make(id: &SandboxId, maker: &Maker) -> Result<Self, VmError> {
        let home = maker.homes.join(id.as_str());
        let group = maker.groups.group(&maker.homes, id);
        let begun = {
            let (id, home, group, maker) = (id.clone(), home.clone(), group.clone(), maker.clone());
            blocking(move || begin(id, &home, group, &maker)).await
        };
        let made = match begun {
            Ok(record) => life::reach(&home).await.map(|agent| (record, agent)),
            Err(error) => Err(error),
        };
        match made {
            Ok((record, agent)) => Ok(Self { id: id.clone(), home, record, group, agent }),
            Err(error) => {
                let error = life::explained(error, &home);
                apart(move || remove(&group, &home)).await;
                Err(error)
            }
        }
    }

    /// What its group and its agent are called after.
    pub(super) fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Becomes the sandbox's body; ended when it cannot.
    pub(super) async fn become_body(self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<Running, VmError> {
        match self.move_to(id, spec, home).await {
            Ok(record) => Ok(Running::watched(id, home, record, self.group, self.agent)),
            Err(error) => {
                self.end().await;
                Err(error)
            }
        }
    }

    async fn move_to(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<Record, VmError> {
        let body = Body { id: self.id.clone(), workdir: spec.workdir.clone(), env: spec.env.clone() };
        let record = Record { limits: spec.limits, body: Some(body), ..Record::read(home)? };
        let told = format!("starting {id} in a body that was made before");
        let (own, home, group, to_write) = (self.home.clone(), home.to_path_buf(), self.group.clone(), record.clone());
        blocking(move || move_in(&to_write, &own, &home, &group).map_err(|source| VmError::Io { what: told, source })).await?;
        self.agent.keep(spec.limits.disk_bytes).await?;
        Ok(record)
    }

    /// Ends it and removes what there is of it.
    pub(super) async fn end(self) {
        apart(move || self.end_now()).await;
    }

    /// The same; blocks.
    fn end_now(self) {
        remove(&self.group, &self.home);
    }
}

/// Does what blocks where it may.
async fn apart(work: impl FnOnce() + Send + 'static) {
    // A panic in it was told where it happened.
    let _ = tokio::task::spawn_blocking(work).await;
}

fn begin(id: SandboxId, home: &Path, group: Group, maker: &Maker) -> Result<Record, VmError> {
    let told = |source| VmError::Io { what: format!("making {}", home.display()), source };
    fs::DirBuilder::new().mode(0o700).create(home).map_err(told)?;
    let spec = Spec {
        tenant: crate::tenant::Tenant::default(),
        source: Source::Host,
        limits: Limits::default(),
        network: Network::None,
        env: Default::default(),
        workdir: String::new(),
        labels: Default::default(),
        runtime: String::new(),
        shared: Vec::new(),
    };
    life::create(&id, &spec, home, None)?;
    let networks = Networks::new(NetworkConfig::default(), &maker.homes)?;
    Start { id, spec, home: home.to_path_buf(), guest: maker.guest.clone(), group, owned: true }.launch(&networks, false)?;
    Record::read(home)
}

/// First the record: from then on whoever looks for the sandbox finds its body.
fn move_in(record: &Record, own: &Path, home: &Path, group: &Group) -> std::io::Result<()> {
    record.write(home)?;
    for file in ["agent.sock", "launch.log"] {
        fs::rename(own.join(file), home.join(file))?;
    }
    if record.limits != Limits::default() {
        group.make(&record.limits)?;
    }
    remove_tree(own).map(drop)
}

fn remove(group: &Group, home: &Path) {
    let folder = || if home.exists() { remove_tree(home).map(drop) } else { Ok(()) };
    let done = group.kill(&[], PATIENCE).and_then(|()| group.remove()).and_then(|()| folder());
    if let Err(error) = done {
        tracing::warn!(home = %home.display(), %error, "a sandbox that was made ahead of its time cannot be removed: the next start of the server does it");
    }
}
