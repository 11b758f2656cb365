//! Places for archives that come or go: each holds a thread of the runtime that may block, of which there are some hundreds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::super::VmError;
use super::locked;
use crate::tenant::Tenant;

/// Who has how many.
#[derive(Debug)]
pub(super) struct Places {
    taken: Mutex<HashMap<Tenant, usize>>,
    per_tenant: usize,
    in_all: usize,
}

/// Goes to the thread that does the work: a caller that went away does not free it.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    tenant: Tenant,
}

impl Places {
    pub(super) fn new(per_tenant: usize, in_all: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), per_tenant, in_all })
    }

    pub(super) fn take(self: &Arc<Self>, tenant: &Tenant) -> Result<Place, VmError> {
        let mut taken = locked(&self.taken);
        let (own, all) = (taken.get(tenant).copied().unwrap_or(0), taken.values().sum::<usize>());
        if own >= self.per_tenant || all >= self.in_all {
            metrics::counter!("auralink_sandbox_refused_total", "limit" => "archives").increment(1);
            let (whose, most) = if own >= self.per_tenant { ("yours", self.per_tenant) } else { ("this server's", self.in_all) };
            return Err(VmError::Exhausted(format!(
                "{most} archives of {whose} are under way, the most there may be: try again in a moment"
            )));
        }
        taken.insert(tenant.clone(), own + 1);
        Ok(Place { places: Arc::clone(self), tenant: tenant.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.places.taken);
        match taken.get_mut(&self.tenant) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.tenant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_archives_under_way_and_all_have_so_many() {
        let (places, a, b) = (Places::new(2, 3), "a".parse().unwrap(), "b".parse().unwrap());
        let held = [places.take(&a).unwrap(), places.take(&a).unwrap()];
        assert!(matches!(places.take(&a), Err(VmError::Exhausted(why)) if why.contains("2 archives of yours")));
        let other = places.take(&b).unwrap();
        assert!(matches!(places.take(&b), Err(VmError::Exhausted(why)) if why.contains("3 archives of this server's")));
        drop(held);
        drop(other);
        assert!(locked(&places.taken).is_empty(), "nothing is kept of who has none");
    }
}
