//! How many unfinished jobs a tenant has: looked up every few seconds and counted on in between, so that accepting a job needs no count.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::QueueError;
use super::store::{NewRow, Store};
use crate::tenant::Tenant;

/// How long a count is believed.
const FRESH: Duration = Duration::from_secs(5);

/// Tenants whose counts are kept; the stalest goes for one more.
const TENANTS: usize = 10_000;

struct Count {
    jobs: u64,
    at: Instant,
}

/// The counts.
pub struct Pending {
    most: u64,
    counts: Mutex<HashMap<Tenant, Count>>,
}

/// Room for jobs that are about to be accepted. Given back unless kept.
pub struct Reserved<'a> {
    pending: &'a Pending,
    wanted: HashMap<Tenant, u64>,
}

impl Reserved<'_> {
    /// They were accepted.
    pub fn keep(mut self) {
        self.wanted.clear();
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut counts = self.pending.counts();
        for (tenant, jobs) in &self.wanted {
            if let Some(count) = counts.get_mut(tenant) {
                count.jobs = count.jobs.saturating_sub(*jobs);
            }
        }
    }
}

impl Pending {
    pub fn new(most: u64) -> Self {
        Self { most, counts: Mutex::new(HashMap::new()) }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Tenant, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for these, or why there is none.
    pub async fn reserve(&self, store: &dyn Store, rows: &[NewRow]) -> Result<Reserved<'_>, QueueError> {
        let mut wanted: HashMap<Tenant, u64> = HashMap::new();
        for row in rows {
            *wanted.entry(row.job.tenant.clone()).or_default() += 1;
        }
        for (tenant, jobs) in &wanted {
            let fits = |count: &Count| count.at.elapsed() < FRESH && count.jobs.saturating_add(*jobs) <= self.most;
            let fresh = self.counts().get(tenant).is_some_and(fits);
            if !fresh {
                let jobs = store.pending(tenant, self.most.saturating_add(1)).await?;
                self.note(tenant, jobs);
            }
        }
        let mut counts = self.counts();
        for (tenant, jobs) in &wanted {
            let has = counts.get(tenant).map_or(0, |count| count.jobs);
            if has.saturating_add(*jobs) > self.most {
                return Err(QueueError::Full(format!(
                    "the tenant {tenant} has {has} unfinished jobs, at most {} are taken (`queue.max_pending`): wait for them, or cancel some",
                    self.most
                )));
            }
        }
        for (tenant, jobs) in &wanted {
            if let Some(count) = counts.get_mut(tenant) {
                count.jobs = count.jobs.saturating_add(*jobs);
            }
        }
        drop(counts);
        Ok(Reserved { pending: self, wanted })
    }

    fn note(&self, tenant: &Tenant, jobs: u64) {
        let mut counts = self.counts();
        if counts.len() >= TENANTS && !counts.contains_key(tenant) {
            let stalest = counts.iter().min_by_key(|(_, count)| count.at).map(|(tenant, _)| tenant.clone());
            stalest.map(|tenant| counts.remove(&tenant));
        }
        counts.insert(tenant.clone(), Count { jobs, at: Instant::now() });
    }
}
