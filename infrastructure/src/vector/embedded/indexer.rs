//! Puts what is written into the graph, behind the writers' backs: a thread per collection while there is something to do.

use std::sync::Arc;

use super::collection::Shared;

/// A tail this short is looked at one by one in less time than a walk through the graph takes.
const ENOUGH: usize = 256;
/// Points that are planned side by side before they are linked. More: less waiting for threads, slightly worse links.
const GROUP: usize = 64;
/// The priority of AI threads, lower than the media's.
const NICE: i32 = 10;

/// Starts indexing when there is enough to do and nobody does it.
pub fn wake(shared: &Arc<Shared>) {
    let enough = |shared: &Shared| {
        let memory = shared.read();
        memory.tail() >= ENOUGH || memory.is_worn()
    };
    if !enough(shared) || !shared.claim_indexing() {
        return;
    }
    let shared = Arc::clone(shared);
    let thread = Arc::clone(&shared);
    let run = move || {
        lower_priority();
        loop {
            work(&thread);
            thread.end_indexing();
            // Who wrote in between saw that somebody indexed, and went away.
            if thread.is_over() || !enough(&thread) || !thread.claim_indexing() {
                break;
            }
        }
    };
    if let Err(why) = std::thread::Builder::new().name("vectors-index".into()).spawn(run) {
        tracing::warn!(%why, "no thread to index vectors: they are looked at one by one until one can be had");
        shared.end_indexing();
    }
}

fn work(shared: &Shared) {
    if shared.read().is_worn() {
        shared.write().renew();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    while !shared.is_over() {
        let slots: Vec<u32> = {
            let memory = shared.read();
            if memory.tail() == 0 {
                return;
            }
            memory.next_to_index(GROUP).collect()
        };
        let plan = |slots: &[u32]| slots.iter().map(|slot| shared.read().plan(*slot)).collect::<Vec<_>>();
        let plans = match slots.len() {
            // A thread costs more than few points do.
            0..8 => plan(&slots),
            many => std::thread::scope(|scope| {
                let start = |part| {
                    scope.spawn(move || {
                        lower_priority();
                        plan(part)
                    })
                };
                let running: Vec<_> = slots.chunks(many.div_ceil(threads)).map(start).collect();
                running.into_iter().flat_map(|thread| thread.join().expect("planning looks at what is there alone")).collect()
            }),
        };
        for plan in plans {
            shared.write().link(plan);
        }
    }
}

fn lower_priority() {
    // Refused where the system does not know it: then indexing is merely not lower.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}
