//! The way of datagrams between the shards of one port: a bounded ring for each ordered pair, and the receiver's eventfd.
//!
//! Who gets what is decided in [`crate::shard::handover`]. Rule: slots are made once; a full ring drops and counts, it never waits;
//! a receiver is woken once for everything of a turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::poll::Wake;
use crate::control::ShardStats;
use crate::shard::ShardInput;
use crate::shard::handover::{Content, HandoverSlab};

/// Bytes of a slot. WebRTC stays below what Ethernet carries (1,472); a longer datagram is dropped.
const SLOT_BYTES: usize = 1_500;
/// Slots of all rings into one shard, divided among its neighbours: about 6 MB, or 30 ms of 1.5 Gbit/s.
pub(super) const INBOUND_SLOTS: usize = 4_096;
/// A ring is never shorter: a burst that the kernel's segmentation gave us as one.
const MIN_SLOTS: usize = 64;

/// One parcel on its way.
struct Slot {
    source: SocketAddr,
    destination: SocketAddr,
    claim: bool,
    len: u16,
    bytes: [u8; SLOT_BYTES],
}

impl Default for Slot {
    fn default() -> Slot {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Slot { source: nowhere, destination: nowhere, claim: false, len: 0, bytes: [0; SLOT_BYTES] }
    }
}

struct Outbound {
    to: u16,
    ring: rtrb::Producer<Slot>,
    wake: Arc<Wake>,
    /// Something was pushed in this turn.
    pushed: bool,
}

struct Inbound {
    from: u16,
    ring: rtrb::Consumer<Slot>,
}

/// One shard's ends of the rings to and from its neighbours; none where it has a port of its own.
#[derive(Default)]
pub(super) struct Rings {
    outbound: Vec<Outbound>,
    inbound: Vec<Inbound>,
}

impl Rings {
    /// Joins shards that read from one port, each with each. `wakes`: of each shard, by its number.
    pub(super) fn join(wakes: &[Arc<Wake>], inbound_slots: usize) -> Vec<Rings> {
        let mut all: Vec<Rings> = wakes.iter().map(|_| Rings::default()).collect();
        let slots = (inbound_slots / wakes.len().saturating_sub(1).max(1)).max(MIN_SLOTS);
        for from in 0..wakes.len() {
            for to in (0..wakes.len()).filter(|to| *to != from) {
                let (producer, consumer) = rtrb::RingBuffer::new(slots);
                let wake = Arc::clone(&wakes[to]);
                all[from].outbound.push(Outbound { to: to as u16, ring: producer, wake, pushed: false });
                all[to].inbound.push(Inbound { from: from as u16, ring: consumer });
            }
        }
        all
    }

    /// Hands over what the turn left, wakes who got something, and clears the slab.
    pub(super) fn send(&mut self, slab: &mut HandoverSlab, stats: &mut ShardStats) {
        if slab.parcels.is_empty() {
            return;
        }
        for parcel in &slab.parcels {
            let Some(outbound) = self.outbound.iter_mut().find(|o| o.to == parcel.to) else { continue };
            let (bytes, destination, claim) = match parcel.content {
                Content::Datagram { destination, start, len } => (&slab.bytes[start as usize..(start + len) as usize], destination, false),
                Content::Claim => (&[][..], parcel.source, true),
            };
            let chunk = if bytes.len() <= SLOT_BYTES { outbound.ring.write_chunk(1).ok() } else { None };
            let Some(mut chunk) = chunk else {
                stats.handover_dropped += 1;
                continue;
            };
            if let [slot] = chunk.as_mut_slices().0 {
                slot.source = parcel.source;
                slot.destination = destination;
                slot.claim = claim;
                slot.len = bytes.len() as u16;
                slot.bytes[..bytes.len()].copy_from_slice(bytes);
            }
            chunk.commit_all();
            outbound.pushed = true;
            stats.handed_out += u64::from(!claim);
        }
        slab.clear();
        for outbound in self.outbound.iter_mut().filter(|o| o.pushed) {
            outbound.pushed = false;
            outbound.wake.wake();
        }
    }

    /// Takes what the neighbours handed over so far. What they push meanwhile comes with their next wake-up.
    pub(super) fn receive(&mut self, mut take: impl FnMut(ShardInput<'_>)) {
        for Inbound { from, ring } in &mut self.inbound {
            let Ok(chunk) = ring.read_chunk(ring.slots()) else { continue };
            let (first, second) = chunk.as_slices();
            for slot in first.iter().chain(second) {
                take(if slot.claim {
                    ShardInput::Claimed { by: *from, source: slot.source }
                } else {
                    let bytes = &slot.bytes[..usize::from(slot.len).min(SLOT_BYTES)];
                    ShardInput::Handed { from: *from, source: slot.source, destination: slot.destination, bytes }
                });
            }
            chunk.commit_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::handover::Parcel;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn slab(parcels: &[(u16, &[u8])]) -> HandoverSlab {
        let mut slab = HandoverSlab::default();
        for (to, bytes) in parcels {
            let (start, len) = (slab.bytes.len() as u32, bytes.len() as u32);
            slab.bytes.extend_from_slice(bytes);
            let content = Content::Datagram { destination: address(1), start, len };
            slab.parcels.push(Parcel { to: *to, source: address(9), content });
        }
        slab
    }

    fn join(shards: usize, slots: usize) -> Vec<Rings> {
        let wakes: Vec<Arc<Wake>> = (0..shards).map(|_| Arc::new(Wake::new().unwrap())).collect();
        Rings::join(&wakes, slots)
    }

    fn received(rings: &mut Rings) -> Vec<(u16, Vec<u8>)> {
        let mut all = Vec::new();
        rings.receive(|input| match input {
            ShardInput::Handed { from, bytes, .. } => all.push((from, bytes.to_vec())),
            ShardInput::Claimed { by, source } => all.push((by, source.to_string().into_bytes())),
            other => panic!("{other:?}"),
        });
        all
    }

    #[test]
    fn what_is_handed_over_arrives_at_whom_it_is_for_and_in_order() {
        let mut rings = join(3, 1_000);
        let mut stats = ShardStats::default();
        let mut parcels = slab(&[(1, b"one"), (2, b"two"), (1, b"three")]);
        parcels.parcels.push(Parcel { to: 1, source: address(7), content: Content::Claim });
        rings[0].send(&mut parcels, &mut stats);
        rings[2].send(&mut slab(&[(1, b"four")]), &mut stats);
        assert!(parcels.parcels.is_empty() && parcels.bytes.is_empty());
        let expected = [(0, b"one".to_vec()), (0, b"three".to_vec()), (0, b"127.0.0.1:7".to_vec()), (2, b"four".to_vec())];
        assert_eq!(received(&mut rings[1]), expected);
        assert_eq!(received(&mut rings[2]), [(0, b"two".to_vec())]);
        assert!(received(&mut rings[0]).is_empty() && received(&mut rings[1]).is_empty());
        assert_eq!((stats.handed_out, stats.handover_dropped), (4, 0));
    }

    #[test]
    fn a_full_ring_drops_and_counts_and_takes_again_when_it_was_read() {
        let mut rings = join(2, MIN_SLOTS);
        let mut stats = ShardStats::default();
        for _ in 0..MIN_SLOTS + 5 {
            rings[0].send(&mut slab(&[(1, b"x")]), &mut stats);
        }
        assert_eq!((stats.handed_out, stats.handover_dropped), (MIN_SLOTS as u64, 5));
        assert_eq!(received(&mut rings[1]).len(), MIN_SLOTS);
        rings[0].send(&mut slab(&[(1, b"y")]), &mut stats);
        assert_eq!(received(&mut rings[1]), [(0, b"y".to_vec())]);
    }

    #[test]
    fn a_datagram_longer_than_a_slot_is_dropped_and_counted() {
        let mut rings = join(2, MIN_SLOTS);
        let mut stats = ShardStats::default();
        rings[0].send(&mut slab(&[(1, &[7; SLOT_BYTES]), (1, &[7; SLOT_BYTES + 1])]), &mut stats);
        assert_eq!((stats.handed_out, stats.handover_dropped), (1, 1));
        assert_eq!(received(&mut rings[1]), [(0, vec![7; SLOT_BYTES])]);
    }
}
