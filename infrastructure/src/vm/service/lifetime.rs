//! The house: ends lifetimes, notices sandboxes that ended by themselves, and tries again what could not be deleted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::disk;
use super::events::EventKind;
use super::{Entry, Inner, Status, locked};

/// Between two looks at lifetimes.
const TURN: Duration = Duration::from_millis(500);

/// Turns between two looks at everything: 10 s.
const WATCH_TURNS: u64 = 20;

/// Changes that the house makes at once: one slow engine does not hold up the lifetimes of the others.
const AT_ONCE: usize = 8;

/// Runs until the service is gone.
pub(super) async fn house(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(TURN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut work = tokio::task::JoinSet::new();
    for turn in 0_u64.. {
        ticks.tick().await;
        while work.try_join_next().is_some() {}
        let Some(inner) = inner.upgrade() else { return };
        inner.set_gauges();
        let (now, watch) = (disk::now_ms(), turn % WATCH_TURNS == WATCH_TURNS - 1);
        let entries: Vec<Arc<Entry>> = locked(&inner.table).values().cloned().collect();
        for entry in entries {
            if work.len() >= AT_ONCE {
                break;
            }
            let over = locked(&entry.record).expires_ms.is_some_and(|at| at <= now);
            if over || watch {
                let inner = Arc::clone(&inner);
                work.spawn(async move { inner.look_after(&entry, over).await });
            }
        }
    }
}

impl Inner {
    async fn look_after(&self, entry: &Entry, over: bool) {
        // Somebody changes it: the next look finds it done.
        let Ok(_turn) = entry.turn.try_lock() else { return };
        if !self.is_known(entry) {
            return;
        }
        let status = entry.status();
        if matches!(status, Status::Deleting | Status::Creating) {
            // Nobody has its turn, so whoever began this gave up.
            if let Err(error) = self.delete_locked(entry, EventKind::Reaped, "what was left of it").await {
                tracing::warn!(sandbox = %entry.id, %error, "a sandbox cannot be deleted yet: it is tried again");
            }
        } else if over {
            self.tell(entry, EventKind::TimedOut, "its lifetime is over");
            metrics::counter!("auralink_sandbox_lifetimes_ended_total").increment(1);
            if let Err(error) = self.delete_locked(entry, EventKind::Reaped, "its lifetime was over").await {
                tracing::warn!(sandbox = %entry.id, %error, "a sandbox whose lifetime is over cannot be deleted yet: it is tried again");
            }
        } else if !matches!(status, Status::Stopped) {
            self.settle(entry, "it ended by itself").await;
        }
    }
}
