//! Whose a datagram is where several shards read from one port: mine, a neighbour's, or nobody's.
//!
//! The kernel spreads clients over the sockets of a port by their addresses and knows nothing of rooms, so a shard reads datagrams of
//! rooms that live in others. A STUN request names its shard: our ufrag begins with it. Everything else is known by its source
//! address: the shard that found a request's MAC right *claims* the address from the shard that read it, which sends it the rest.
//!
//! Rule: only a proved address is remembered, so nobody can direct another's packets; what was handed over is not handed on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::entropy::shard_of;

/// A claim is forgotten after one to two of these without a new one. Clients prove themselves every few seconds, and must within
/// 30 s (RFC 7675). Longer: addresses of those who left are handed over in vain for longer.
const GENERATION: Duration = Duration::from_secs(60);
/// Claims of one generation: an address takes about 100 bytes. More: a reader of many mobile clients forgets none.
const MAX_CLAIMS: usize = 32_768;

/// What a turn has for the neighbours: filled by [`super::Shard::handle`], emptied by `net` before it writes the send slab. Its
/// memory is kept, and bounded by what is read in one turn.
#[derive(Debug, Default)]
pub struct HandoverSlab {
    /// All bytes, back to back.
    pub bytes: Vec<u8>,
    /// What is to be handed over, in order.
    pub parcels: Vec<Parcel>,
}

/// One thing for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    /// Which shard.
    pub to: u16,
    /// Of the datagram, or the address that is claimed.
    pub source: SocketAddr,
    /// What it is.
    pub content: Content,
}

/// What is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A datagram that is the neighbour's.
    Datagram {
        /// To which of our addresses it was sent.
        destination: SocketAddr,
        /// Offset in the slab.
        start: u32,
        /// Bytes.
        len: u32,
    },
    /// The address proved to be of a peer of ours: what comes from it is for us.
    Claim,
}

impl HandoverSlab {
    pub(super) fn datagram(&mut self, to: u16, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.parcels.push(Parcel { to, source, content: Content::Datagram { destination, start, len: bytes.len() as u32 } });
    }

    pub(super) fn claim(&mut self, to: u16, source: SocketAddr) {
        self.parcels.push(Parcel { to, source, content: Content::Claim });
    }

    /// Nothing is left to hand over.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parcels.clear();
    }
}

/// The shards that read from the same port, and which addresses they claimed.
#[derive(Debug)]
pub(super) struct Neighbours {
    me: u16,
    /// How many read from the port, this one included: they are numbered from 0.
    shards: u16,
    recent: HashMap<SocketAddr, u16>,
    before: HashMap<SocketAddr, u16>,
    since: Option<Instant>,
}

impl Neighbours {
    /// Shard `me` of `shards` on one port.
    pub(super) fn new(me: u16, shards: u16) -> Neighbours {
        Neighbours { me, shards, recent: HashMap::new(), before: HashMap::new(), since: None }
    }

    /// The neighbour that a ufrag of ours names. `None`: this shard, or none that there is.
    pub(super) fn by_ufrag(&self, ufrag: &str) -> Option<u16> {
        if self.shards < 2 {
            return None;
        }
        shard_of(ufrag).filter(|shard| *shard != self.me && *shard < self.shards)
    }

    /// The neighbour that claimed an address.
    pub(super) fn by_address(&mut self, now: Instant, source: SocketAddr) -> Option<u16> {
        if self.shards < 2 {
            return None;
        }
        self.age(now);
        self.recent.get(&source).or_else(|| self.before.get(&source)).copied()
    }

    /// A neighbour claims an address; the newest claim counts. False: too many are remembered.
    pub(super) fn claim(&mut self, now: Instant, source: SocketAddr, by: u16) -> bool {
        self.age(now);
        if self.recent.len() >= MAX_CLAIMS && !self.recent.contains_key(&source) {
            return false;
        }
        self.recent.insert(source, by);
        true
    }

    fn age(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < GENERATION {
            return;
        }
        std::mem::swap(&mut self.recent, &mut self.before);
        self.recent.clear();
        if age >= 2 * GENERATION {
            self.before.clear();
        }
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::entropy::Entropy;

    fn remembered(neighbours: &Neighbours) -> usize {
        neighbours.recent.len() + neighbours.before.len()
    }

    fn address(n: u32) -> SocketAddr {
        let [a, b, c, d] = n.to_be_bytes();
        ([10, a | b, c, d], 5_000).into()
    }

    #[test]
    fn a_ufrag_is_the_neighbours_only_if_there_is_one() {
        let mut entropy = Entropy::seeded(1);
        let neighbours = Neighbours::new(1, 3);
        let owner = |neighbours: &Neighbours, entropy: &mut Entropy, shard| neighbours.by_ufrag(&entropy.ice_credentials(shard).0);
        assert_eq!(owner(&neighbours, &mut entropy, 0), Some(0));
        assert_eq!(owner(&neighbours, &mut entropy, 1), None, "its own");
        assert_eq!(owner(&neighbours, &mut entropy, 2), Some(2));
        assert_eq!(owner(&neighbours, &mut entropy, 3), None, "there is no shard 3");
        assert_eq!(owner(&Neighbours::new(0, 1), &mut entropy, 2), None, "a port of its own");
        for nonsense in ["", "A", "é!", "+/abc"] {
            assert_eq!(neighbours.by_ufrag(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_claim_lives_as_long_as_it_is_renewed() {
        let (mut neighbours, start) = (Neighbours::new(0, 3), Instant::now());
        assert_eq!(neighbours.by_address(start, address(1)), None);
        assert!(neighbours.claim(start, address(1), 1) && neighbours.claim(start, address(2), 1));
        let mut now = start;
        for _ in 0..20 {
            now += GENERATION / 2;
            assert!(neighbours.claim(now, address(1), 2), "the newest claim counts");
            assert_eq!(neighbours.by_address(now, address(1)), Some(2));
        }
        assert_eq!((neighbours.by_address(now, address(2)), remembered(&neighbours) <= 2), (None, true));
        assert_eq!(neighbours.by_address(now + 2 * GENERATION, address(1)), None);
        assert_eq!(remembered(&neighbours), 0);
    }

    #[test]
    fn claims_are_bounded() {
        let (mut neighbours, now) = (Neighbours::new(0, 2), Instant::now());
        let taken = (0..MAX_CLAIMS as u32 + 10).filter(|n| neighbours.claim(now, address(*n), 1)).count();
        assert_eq!((taken, remembered(&neighbours)), (MAX_CLAIMS, MAX_CLAIMS));
        assert!(neighbours.claim(now, address(3), 1), "one that is known is renewed");
    }
}
