//! HNSW (Malkov and Yashunin, arXiv 1603.09320) over vectors that stand elsewhere: links alone, by slot numbers.
//!
//! Place: [`super::memory`] owns one; [`super::indexer`] fills it. Adding a point has two halves, so that searches go on beside it: what
//! it will be linked to is found with shared access ([`Graph::plan`]), and the links are set with exclusive access ([`Graph::link`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Links of a point in the upper layers; twice as many in the lowest. More: better recall, more memory and time.
const LINKS: usize = 16;
/// A list of links may grow by so many before it is cut back: cutting costs about 500 distances, and so happens every eighth time.
const SLACK: usize = 8;
/// Points looked at for a new point's links. More: better recall, slower indexing.
const EF_CONSTRUCTION: usize = 100;
/// Layers are bounded: 16^12 points would be needed for more.
const MAX_LEVEL: usize = 12;

/// A slot and how far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// Smaller is nearer; any monotonic measure.
    pub distance: f32,
    /// Which.
    pub slot: u32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then(self.slot.cmp(&other.slot))
    }
}

/// Distances between points that stand in slots.
pub trait Space {
    /// Between two slots.
    fn between(&self, a: u32, b: u32) -> f32;
    /// How many slots there are.
    fn slots(&self) -> usize;
}

/// What a new point will be linked to: a list per layer, from the lowest.
#[derive(Debug)]
pub struct Plan {
    slot: u32,
    layers: Vec<Vec<u32>>,
}

/// The links.
#[derive(Debug, Default)]
pub struct Graph {
    base: Vec<Vec<u32>>,
    upper: HashMap<u32, Vec<Vec<u32>>>,
    entry: Option<(u32, usize)>,
}

impl Graph {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entry.is_none()
    }

    /// The nearest `ef` of the slots that `accepts` takes; `to` measures the query to a slot. Nearest first.
    pub fn search(&self, ef: usize, slots: usize, to: &dyn Fn(u32) -> f32, accepts: &dyn Fn(u32) -> bool) -> Vec<Near> {
        let Some((entry, top)) = self.entry else { return Vec::new() };
        let start = self.descend(Near { distance: to(entry), slot: entry }, top, 0, to);
        self.layer(vec![start], ef, 0, slots, to, accepts)
    }

    /// Finds what `slot` will be linked to.
    pub fn plan(&self, slot: u32, space: &dyn Space) -> Plan {
        let level = level_of(slot);
        let mut layers = vec![Vec::new(); level + 1];
        if let Some((entry, top)) = self.entry {
            let to = |other| space.between(slot, other);
            let start = self.descend(Near { distance: to(entry), slot: entry }, top, level, &to);
            let mut starts = vec![start];
            for layer in (0..=level.min(top)).rev() {
                let found = self.layer(starts, EF_CONSTRUCTION, layer, space.slots(), &to, &|_| true);
                layers[layer] = select(&found, LINKS, space);
                starts = found;
            }
        }
        Plan { slot, layers }
    }

    /// Links a point as planned.
    pub fn link(&mut self, plan: Plan, space: &dyn Space) {
        let Plan { slot, layers } = plan;
        let level = layers.len() - 1;
        if self.base.len() <= slot as usize {
            self.base.resize_with(slot as usize + 1, Vec::new);
        }
        if level > 0 {
            self.upper.insert(slot, vec![Vec::new(); level]);
        }
        for (layer, links) in layers.into_iter().enumerate() {
            for other in &links {
                self.add_link(*other, slot, layer, space);
            }
            if let Some(own) = self.links_mut(slot, layer) {
                *own = links;
            }
        }
        if self.entry.is_none_or(|(_, top)| level > top) {
            self.entry = Some((slot, level));
        }
    }

    fn add_link(&mut self, from: u32, to: u32, layer: usize, space: &dyn Space) {
        let most = if layer == 0 { 2 * LINKS } else { LINKS };
        let Some(links) = self.links_mut(from, layer) else { return };
        links.push(to);
        if links.len() > most + SLACK {
            let mut found: Vec<Near> = links.iter().map(|slot| Near { distance: space.between(from, *slot), slot: *slot }).collect();
            found.sort_unstable();
            *links = select(&found, most, space);
        }
    }

    fn links(&self, slot: u32, layer: usize) -> &[u32] {
        let links = match layer {
            0 => self.base.get(slot as usize),
            _ => self.upper.get(&slot).and_then(|layers| layers.get(layer - 1)),
        };
        links.map_or(&[], Vec::as_slice)
    }

    fn links_mut(&mut self, slot: u32, layer: usize) -> Option<&mut Vec<u32>> {
        match layer {
            0 => self.base.get_mut(slot as usize),
            _ => self.upper.get_mut(&slot).and_then(|layers| layers.get_mut(layer - 1)),
        }
    }

    /// Greedily from layer `top` to the layer above `bottom`.
    fn descend(&self, mut best: Near, top: usize, bottom: usize, to: &dyn Fn(u32) -> f32) -> Near {
        for layer in (bottom + 1..=top).rev() {
            loop {
                let nearer = self.links(best.slot, layer).iter().map(|slot| Near { distance: to(*slot), slot: *slot }).min();
                match nearer.filter(|near| near.distance < best.distance) {
                    Some(near) => best = near,
                    None => break,
                }
            }
        }
        best
    }

    /// The nearest `ef` in one layer, nearest first. Slots that are not accepted are walked through, and are no answer.
    fn layer(
        &self,
        starts: Vec<Near>,
        ef: usize,
        layer: usize,
        slots: usize,
        to: &dyn Fn(u32) -> f32,
        accepts: &dyn Fn(u32) -> bool,
    ) -> Vec<Near> {
        let mut seen = Seen::new(slots);
        let mut open: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
        let mut best: BinaryHeap<Near> = BinaryHeap::with_capacity(ef + 1);
        for start in starts {
            if seen.first(start.slot) {
                open.push(Reverse(start));
                if accepts(start.slot) {
                    best.push(start);
                }
            }
        }
        while let Some(Reverse(near)) = open.pop() {
            if best.len() >= ef && best.peek().is_some_and(|worst| near.distance > worst.distance) {
                break;
            }
            for slot in self.links(near.slot, layer) {
                if !seen.first(*slot) {
                    continue;
                }
                let next = Near { distance: to(*slot), slot: *slot };
                if best.len() < ef || best.peek().is_some_and(|worst| next.distance < worst.distance) {
                    open.push(Reverse(next));
                    if accepts(*slot) {
                        best.push(next);
                        if best.len() > ef {
                            best.pop();
                        }
                    }
                }
            }
        }
        best.into_sorted_vec()
    }
}

/// The heuristic of the paper's algorithm 4, pruned ones kept while there is room: links go in different directions.
fn select(found: &[Near], most: usize, space: &dyn Space) -> Vec<u32> {
    let mut chosen: Vec<u32> = Vec::with_capacity(most);
    let mut passed = Vec::new();
    for near in found {
        if chosen.len() >= most {
            break;
        }
        if chosen.iter().all(|other| space.between(near.slot, *other) >= near.distance) {
            chosen.push(near.slot)
        } else {
            passed.push(near.slot)
        }
    }
    let room = most - chosen.len();
    chosen.extend(passed.into_iter().take(room));
    chosen
}

/// The layers above the lowest that a slot has: geometric, out of the slot's own number, so that one history makes one graph.
fn level_of(slot: u32) -> usize {
    // splitmix64
    let mut bits = (u64::from(slot) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    let uniform = ((bits >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    ((-uniform.ln() / (LINKS as f64).ln()) as usize).min(MAX_LEVEL)
}

/// Which slots were met.
struct Seen(Vec<u64>);

impl Seen {
    fn new(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    /// Whether this is the first time; a slot beyond the space counts as met.
    fn first(&mut self, slot: u32) -> bool {
        let Some(word) = self.0.get_mut(slot as usize / 64) else { return false };
        let bit = 1 << (slot % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}
