//! Gauges of sandboxes by engine and status, for `/metrics`.

use std::collections::BTreeMap;

use super::{Inner, Status, locked};

const ALL: [Status; 7] =
    [Status::Creating, Status::Stopped, Status::Starting, Status::Running, Status::Paused, Status::Stopping, Status::Deleting];

impl Inner {
    /// Sets all gauges; those of engines without sandboxes too, so that none stays at an old value.
    pub(super) fn set_gauges(&self) {
        let mut counts: BTreeMap<(String, Status), f64> = BTreeMap::new();
        let (mut cpu, mut memory, mut execs) = (0.0, 0.0, 0.0);
        for entry in locked(&self.table).values() {
            let record = locked(&entry.record);
            *counts.entry((record.engine.clone(), record.status)).or_default() += 1.0;
            cpu += f64::from(record.spec.limits.cpu_millis);
            memory += record.spec.limits.memory_bytes as f64;
            execs += (self.config.execs_per_sandbox - entry.execs.available_permits()) as f64;
        }
        for engine in self.engines.keys() {
            for status in ALL {
                let count = counts.get(&((*engine).to_owned(), status)).copied().unwrap_or_default();
                metrics::gauge!("auralink_sandboxes", "engine" => *engine, "status" => status.as_str()).set(count);
            }
        }
        metrics::gauge!("auralink_sandboxes_cpu_millis_promised").set(cpu);
        metrics::gauge!("auralink_sandboxes_memory_bytes_promised").set(memory);
        metrics::gauge!("auralink_sandboxes_execs").set(execs);
        metrics::gauge!("auralink_sandboxes_snapshots").set(locked(&self.snapshots).len() as f64);
    }
}
