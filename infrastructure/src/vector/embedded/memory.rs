//! A collection in memory: vectors, ids and metadata by slot, and the graph over those that are indexed. What is not indexed yet (the
//! tail) is looked at one by one, so that an answer is complete at any time.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::graph::{Graph, Near, Plan, Space};
use crate::vector::{Filter, Metadata, Metric, Spec, metric};

/// Vectors of one chunk of the arena: growing never moves what is there.
const CHUNK: usize = 1_024;
/// Candidates of a search: more are slower and find more. Measured at 20,000 x 384 (recall@10 0.9998); `bench_vectors` measures at 100,000.
const EF_SEARCH: usize = 96;
/// So few candidates are looked at one by one.
const FEW: usize = 4_096;
/// A filter that leaves less than one in so many is answered by looking at each: the graph would be walked in vain.
const RARE: usize = 12;

/// One record's place.
#[derive(Debug)]
struct Slot {
    id: Arc<str>,
    metadata: Arc<Metadata>,
    live: bool,
    has_document: bool,
}

/// What a record is in memory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: Arc<str>,
    /// Its metadata.
    pub metadata: Arc<Metadata>,
    /// Whether a document is in the store.
    pub has_document: bool,
}

/// A found record.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which.
    pub entry: Entry,
    /// As [`crate::vector::Match::distance`].
    pub distance: f32,
}

/// The collection.
#[derive(Debug)]
pub struct Memory {
    metric: Metric,
    arena: Arena,
    slots: Vec<Slot>,
    by_id: HashMap<Arc<str>, u32>,
    graph: Graph,
    /// Slots below this are in the graph, or were dead when it came to them.
    indexed: u32,
    /// Whether every vector so far had length 1: only then does the graph serve the inner product, which is no metric otherwise.
    all_unit: bool,
}

#[derive(Debug)]
struct Arena {
    dimension: usize,
    chunks: Vec<Vec<f32>>,
    slots: usize,
}

impl Arena {
    fn push(&mut self, vector: &[f32]) {
        if self.slots.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK * self.dimension));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.extend_from_slice(vector);
        }
        self.slots += 1;
    }

    fn get(&self, slot: u32) -> &[f32] {
        let (chunk, place) = (slot as usize / CHUNK, slot as usize % CHUNK);
        &self.chunks[chunk][place * self.dimension..(place + 1) * self.dimension]
    }
}

struct Plane<'a> {
    metric: Metric,
    arena: &'a Arena,
}

impl Plane<'_> {
    /// Monotonic with the metric's distance.
    fn measure(&self, a: &[f32], b: &[f32]) -> f32 {
        match self.metric {
            Metric::Cosine => 1.0 - metric::dot(a, b),
            Metric::Euclidean => metric::squared(a, b),
            Metric::Dot => -metric::dot(a, b),
        }
    }
}

impl Space for Plane<'_> {
    fn between(&self, a: u32, b: u32) -> f32 {
        self.measure(self.arena.get(a), self.arena.get(b))
    }

    fn slots(&self) -> usize {
        self.arena.slots
    }
}

impl Memory {
    /// An empty one.
    pub fn new(spec: &Spec) -> Self {
        Self {
            metric: spec.metric,
            arena: Arena { dimension: spec.dimension as usize, chunks: Vec::new(), slots: 0 },
            slots: Vec::new(),
            by_id: HashMap::new(),
            graph: Graph::default(),
            indexed: 0,
            all_unit: true,
        }
    }

    /// Records that can be found.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Slots that the graph does not have yet.
    pub fn tail(&self) -> usize {
        self.slots.len() - self.indexed as usize
    }

    /// Puts a record in, in place of the one of its id. False when all slot numbers are used up.
    pub fn put(&mut self, entry: Entry, vector: &[f32]) -> bool {
        let Ok(slot) = u32::try_from(self.slots.len()) else { return false };
        self.all_unit &= self.metric != Metric::Dot || (metric::length(vector) - 1.0).abs() < 1e-3;
        match self.metric {
            Metric::Cosine => self.arena.push(&metric::unit(vector)),
            Metric::Euclidean | Metric::Dot => self.arena.push(vector),
        }
        if let Some(old) = self.by_id.insert(Arc::clone(&entry.id), slot) {
            self.bury(old);
        }
        self.slots.push(Slot { id: entry.id, metadata: entry.metadata, live: true, has_document: entry.has_document });
        true
    }

    /// Takes a record out.
    pub fn remove(&mut self, id: &str) {
        if let Some(slot) = self.by_id.remove(id) {
            self.bury(slot);
        }
    }

    fn bury(&mut self, slot: u32) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.live = false;
            slot.metadata = Arc::default();
        }
    }

    /// The ids of the records that a filter fits.
    pub fn fitting(&self, filter: &Filter) -> Vec<Arc<str>> {
        self.slots.iter().filter(|slot| slot.live && filter.fits(&slot.metadata)).map(|slot| Arc::clone(&slot.id)).collect()
    }

    /// The nearest `k` of those that the filter fits.
    pub fn search(&self, query: &[f32], k: usize, filter: Option<&Filter>) -> Vec<Found> {
        let unit;
        let query = match self.metric {
            Metric::Cosine => {
                unit = metric::unit(query);
                &unit
            }
            Metric::Euclidean | Metric::Dot => query,
        };
        let candidates = filter.map(|filter| self.candidates(filter));
        let few = candidates.as_ref().is_some_and(|(_, many)| *many <= FEW || *many < self.len() / RARE);
        let graph_serves = !self.graph.is_empty() && (self.metric != Metric::Dot || self.all_unit) && !few;
        let fits = |slot: u32| match &candidates {
            Some((fit, _)) => fit[slot as usize],
            None => self.slots[slot as usize].live,
        };
        let plane = Plane { metric: self.metric, arena: &self.arena };
        let measure = |slot: u32| plane.measure(query, self.arena.get(slot));
        let mut best = BinaryHeap::with_capacity(k + 1);
        let mut scan_from = 0;
        if graph_serves {
            let found = self.graph.search(EF_SEARCH.max(k + k / 2), self.slots.len(), &measure, &fits);
            // A graph that finds fewer than asked has parts that cannot be reached, or has no more: looking at each tells.
            if found.len() >= k {
                best.extend(found.into_iter().take(k));
                scan_from = self.indexed;
            }
        }
        for slot in (scan_from..self.slots.len() as u32).filter(|slot| fits(*slot)) {
            let near = Near { distance: measure(slot), slot };
            if best.len() < k || best.peek().is_some_and(|worst| near < *worst) {
                best.push(near);
                if best.len() > k {
                    best.pop();
                }
            }
        }
        best.into_sorted_vec().into_iter().map(|near| self.found(near)).collect()
    }

    fn candidates(&self, filter: &Filter) -> (Vec<bool>, usize) {
        let fit: Vec<bool> = self.slots.iter().map(|slot| slot.live && filter.fits(&slot.metadata)).collect();
        let many = fit.iter().filter(|fit| **fit).count();
        (fit, many)
    }

    fn found(&self, near: Near) -> Found {
        let slot = &self.slots[near.slot as usize];
        let distance = match self.metric {
            // Rounding may leave the range of cosines by a hair.
            Metric::Cosine => near.distance.clamp(0.0, 2.0),
            Metric::Euclidean => near.distance.max(0.0).sqrt(),
            Metric::Dot => near.distance,
        };
        let entry = Entry { id: Arc::clone(&slot.id), metadata: Arc::clone(&slot.metadata), has_document: slot.has_document };
        Found { entry, distance }
    }

    /// The slots to index next, at most `most`: fewer while the graph is small, since those planned together do not see each other.
    pub fn next_to_index(&self, most: usize) -> std::ops::Range<u32> {
        let group = (self.indexed as usize / 64).clamp(1, most);
        self.indexed..self.slots.len().min(self.indexed as usize + group) as u32
    }

    /// What a slot will be linked to; none when its record is gone.
    pub fn plan(&self, slot: u32) -> Option<Plan> {
        self.slots.get(slot as usize).filter(|slot| slot.live)?;
        Some(self.graph.plan(slot, &Plane { metric: self.metric, arena: &self.arena }))
    }

    /// Sets the links of a slot, the next one.
    pub fn link(&mut self, plan: Option<Plan>) {
        if let Some(plan) = plan {
            self.graph.link(plan, &Plane { metric: self.metric, arena: &self.arena });
        }
        self.indexed += 1;
    }

    /// Whether so much of it is dead that starting over pays.
    pub fn is_worn(&self) -> bool {
        let dead = self.slots.len() - self.by_id.len();
        dead > FEW && dead > self.slots.len() / 3
    }

    /// Leaves the dead behind. The graph is built anew afterwards; until then everything is looked at one by one.
    pub fn renew(&mut self) {
        let spec = Spec { dimension: self.arena.dimension as u32, metric: self.metric };
        let mut fresh = Self::new(&spec);
        for (place, slot) in std::mem::take(&mut self.slots).into_iter().enumerate().filter(|(_, slot)| slot.live) {
            let vector = self.arena.get(place as u32);
            fresh.all_unit &= self.metric != Metric::Dot || (metric::length(vector) - 1.0).abs() < 1e-3;
            fresh.arena.push(vector);
            fresh.by_id.insert(Arc::clone(&slot.id), fresh.slots.len() as u32);
            fresh.slots.push(slot);
        }
        *self = fresh;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::Value;

    fn entry(id: usize) -> Entry {
        let metadata = Metadata::from([("n".to_owned(), Value::Number(id as f64))]);
        Entry { id: id.to_string().into(), metadata: Arc::new(metadata), has_document: false }
    }

    fn noise(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f32 / (1u64 << 31) as f32) - 0.5
        }
    }

    fn index(memory: &mut Memory) {
        while memory.tail() > 0 {
            let group: Vec<_> = memory.next_to_index(16).map(|slot| memory.plan(slot)).collect();
            group.into_iter().for_each(|plan| memory.link(plan));
        }
    }

    #[test]
    fn the_graph_finds_what_looking_at_each_finds() {
        for metric in [Metric::Cosine, Metric::Euclidean] {
            let spec = Spec { dimension: 24, metric };
            let (mut indexed, mut flat) = (Memory::new(&spec), Memory::new(&spec));
            let mut next = noise(7);
            let mut vector = || (0..24).map(|_| next()).collect::<Vec<f32>>();
            for id in 0..6_000 {
                let vector = vector();
                indexed.put(entry(id), &vector);
                flat.put(entry(id), &vector);
            }
            index(&mut indexed);
            // A third is replaced or deleted after indexing; some come after it.
            for id in (0..6_000).step_by(3) {
                let vector = vector();
                indexed.remove(&id.to_string());
                flat.remove(&id.to_string());
                if id % 2 == 0 {
                    indexed.put(entry(id), &vector);
                    flat.put(entry(id), &vector);
                }
            }
            let wide = Filter::parse_text(r#"{"n": {"$gte": 1000}}"#).unwrap();
            for filter in [None, Some(&wide)] {
                let (mut same, mut all) = (0, 0);
                for _ in 0..100 {
                    let query = vector();
                    let ids = |found: Vec<Found>| found.into_iter().map(|found| found.entry.id).collect::<Vec<_>>();
                    let (left, right) = (ids(indexed.search(&query, 10, filter)), ids(flat.search(&query, 10, filter)));
                    assert_eq!(left.len(), 10);
                    same += right.iter().filter(|id| left.contains(id)).count();
                    all += 10;
                }
                assert!(same * 100 >= all * 95, "{metric}: {same} of {all}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_history_leaves_the_last_of_each_id(steps in prop::collection::vec((0usize..20, any::<bool>(), 0u8..4), 1..120)) {
            let mut memory = Memory::new(&Spec { dimension: 2, metric: Metric::Euclidean });
            let mut model = HashMap::new();
            for (step, (id, put, work)) in steps.into_iter().enumerate() {
                if put {
                    memory.put(entry(id), &[step as f32, id as f32]);
                    model.insert(id, step);
                } else {
                    memory.remove(&id.to_string());
                    model.remove(&id);
                }
                match work {
                    0 => index(&mut memory),
                    1 => memory.renew(),
                    _ => {}
                }
                prop_assert_eq!(memory.len(), model.len());
                for (id, step) in &model {
                    let found = memory.search(&[*step as f32, *id as f32], 1, None);
                    let nearest = found[0].entry.id.to_string();
                    prop_assert_eq!(nearest, id.to_string());
                    prop_assert_eq!(found[0].distance, 0.0);
                }
                prop_assert_eq!(memory.search(&[0.0, 0.0], 50, None).len(), model.len());
            }
        }
    }
}
