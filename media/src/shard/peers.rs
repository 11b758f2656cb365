//! All transports of a shard and the ways to find one: by key, by validated address, by ICE ufrag, by deadline.
//!
//! Rule: only validated peers are heard. A STUN request names its transport by our ufrag and must carry the right MAC
//! ([`Transport::accepts`]); only then is its address known, and only known addresses are heard with anything else.
//! No operation here looks at all transports.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use crate::control::{ShardStats, Target};
use crate::ids::{ParticipantKey, RoomKey, TrackKey};
use crate::transport::{ChannelId, RecvId, SendId, Transport, TransportStats};

/// Addresses remembered of one peer: its candidates behind NATs. More are refused and counted.
const MAX_ADDRESSES: usize = 16;
/// Our ufrags that lead to one peer: the present one and the one before an ICE restart.
const MAX_UFRAGS: usize = 2;

/// Names a transport of this shard; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    index: u32,
    generation: u32,
}

/// A transport and what hangs on it.
pub struct Peer {
    /// The machine.
    pub transport: Transport,
    /// Its room.
    pub room: RoomKey,
    /// Whose it is.
    pub participant: ParticipantKey,
    /// Which of the participant's connections.
    pub target: Target,
    /// Where received streams belong: publication and layer.
    pub receives: BTreeMap<RecvId, (TrackKey, u8)>,
    /// What each sending track carries.
    pub sends: BTreeMap<SendId, TrackKey>,
    /// `_reliable`.
    pub reliable: Option<ChannelId>,
    /// `_lossy`.
    pub lossy: Option<ChannelId>,
    /// Channels with labels of the client's own; the transport bounds how many there are.
    pub own_channels: BTreeSet<ChannelId>,
    /// What [`Peer::count_dropped`] has counted already.
    counted: TransportStats,
    addresses: Vec<SocketAddr>,
    ufrags: VecDeque<String>,
    needs_drain: bool,
    deadline: Instant,
    scheduled: Option<Instant>,
}

impl Peer {
    /// Adds what the transport dropped since the last call.
    pub fn count_dropped(&mut self, stats: &mut ShardStats) {
        let now = self.transport.stats();
        let before = std::mem::replace(&mut self.counted, now);
        stats.dropped_bad_tag += now.bad_tag - before.bad_tag + now.replayed - before.replayed;
        stats.dropped_unknown_address += now.unvalidated - before.unvalidated;
        stats.dropped_unknown_ssrc += now.unknown_ssrc - before.unknown_ssrc;
        stats.limit_hits += now.limit_hits - before.limit_hits;
        stats.connection_faults += now.faults - before.faults;
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("room", &self.room).field("participant", &self.participant).field("target", &self.target).finish()
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    peer: Option<Box<Peer>>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Peers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    addresses: HashMap<SocketAddr, PeerKey>,
    ufrags: HashMap<String, PeerKey>,
    /// Due times, with lazy deletion: an entry that is earlier than its peer's deadline is put back.
    deadlines: BinaryHeap<Reverse<(Instant, PeerKey)>>,
    to_drain: VecDeque<PeerKey>,
    count: usize,
}

impl Peers {
    /// Takes in a new transport, reachable by `ufrag`. It will be drained.
    #[allow(clippy::too_many_arguments, reason = "a constructor of a plain record")]
    pub fn insert(
        &mut self,
        transport: Transport,
        room: RoomKey,
        participant: ParticipantKey,
        target: Target,
        ufrag: String,
        now: Instant,
    ) -> PeerKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, peer: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let key = PeerKey { index, generation: slot.generation };
        slot.peer = Some(Box::new(Peer {
            transport,
            room,
            participant,
            target,
            receives: BTreeMap::new(),
            sends: BTreeMap::new(),
            reliable: None,
            lossy: None,
            own_channels: BTreeSet::new(),
            counted: TransportStats::default(),
            addresses: Vec::new(),
            ufrags: VecDeque::new(),
            needs_drain: false,
            deadline: now,
            scheduled: None,
        }));
        self.count += 1;
        self.add_ufrag(key, ufrag);
        self.mark(key);
        key
    }

    /// Forgets a transport and every way to it.
    pub fn remove(&mut self, key: PeerKey) -> Option<Box<Peer>> {
        let slot = self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?;
        let peer = slot.peer.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        self.count -= 1;
        for address in &peer.addresses {
            if self.addresses.get(address) == Some(&key) {
                self.addresses.remove(address);
            }
        }
        for ufrag in &peer.ufrags {
            self.ufrags.remove(ufrag);
        }
        Some(peer)
    }

    /// A transport by key.
    pub fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.slots.get(key.index as usize).filter(|s| s.generation == key.generation)?.peer.as_deref()
    }

    /// A transport by key. Whoever changes its transport calls [`Peers::mark`] afterwards, or uses [`Peers::touch`].
    pub fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?.peer.as_deref_mut()
    }

    /// A transport that is about to be changed: it will be drained before the turn ends.
    pub fn touch(&mut self, key: PeerKey) -> Option<&mut Peer> {
        let peer = self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?.peer.as_deref_mut()?;
        if !peer.needs_drain {
            peer.needs_drain = true;
            self.to_drain.push_back(key);
        }
        Some(peer)
    }

    /// Has it drained before the turn ends.
    pub fn mark(&mut self, key: PeerKey) {
        self.touch(key);
    }

    /// The next transport that must be drained; it counts as drained from now on.
    pub fn next_to_drain(&mut self) -> Option<PeerKey> {
        while let Some(key) = self.to_drain.pop_front() {
            if let Some(peer) = self.get_mut(key) {
                peer.needs_drain = false;
                return Some(key);
            }
        }
        None
    }

    /// Who was heard from this address and proved to be itself.
    pub fn by_address(&self, source: SocketAddr) -> Option<PeerKey> {
        self.addresses.get(&source).copied()
    }

    /// Whose ufrag this is. After a restart by the client a transport's ufrag is the first one with `/1`, `/2`... behind it.
    pub fn by_ufrag(&self, ufrag: &str) -> Option<PeerKey> {
        let first = ufrag.split('/').next().unwrap_or(ufrag);
        self.ufrags.get(first).copied()
    }

    /// The peer proved that it is behind `source`. False: it has too many addresses.
    pub fn validate(&mut self, key: PeerKey, source: SocketAddr) -> bool {
        if self.addresses.get(&source) == Some(&key) {
            return true;
        }
        let Some(peer) = self.get_mut(key) else { return false };
        if peer.addresses.len() >= MAX_ADDRESSES {
            return false;
        }
        peer.addresses.push(source);
        // A newer proof wins: the address was given to someone else (NAT rebinding).
        if let Some(before) = self.addresses.insert(source, key)
            && let Some(other) = self.get_mut(before)
        {
            other.addresses.retain(|a| *a != source);
        }
        true
    }

    /// Someone else proved to be behind `source`.
    pub fn forget_address(&mut self, source: SocketAddr) {
        if let Some(before) = self.addresses.remove(&source)
            && let Some(peer) = self.get_mut(before)
        {
            peer.addresses.retain(|a| *a != source);
        }
    }

    /// A further ufrag leads to the peer (ICE restart).
    pub fn add_ufrag(&mut self, key: PeerKey, ufrag: String) {
        let Some(peer) = self.get_mut(key) else { return };
        peer.ufrags.push_back(ufrag.clone());
        let old = if peer.ufrags.len() > MAX_UFRAGS { peer.ufrags.pop_front() } else { None };
        if let Some(old) = old {
            self.ufrags.remove(&old);
        }
        self.ufrags.insert(ufrag, key);
    }

    /// The transport asked for time at `deadline`.
    pub fn schedule(&mut self, key: PeerKey, deadline: Instant) {
        let Some(peer) = self.get_mut(key) else { return };
        peer.deadline = deadline;
        if peer.scheduled.is_none_or(|at| deadline < at) {
            peer.scheduled = Some(deadline);
            self.deadlines.push(Reverse((deadline, key)));
        }
    }

    /// A transport whose time has come.
    pub fn next_due(&mut self, now: Instant) -> Option<PeerKey> {
        while let Some(&Reverse((at, key))) = self.deadlines.peek() {
            if at > now {
                return None;
            }
            self.deadlines.pop();
            let Some(peer) = self.get_mut(key) else { continue };
            if peer.scheduled != Some(at) {
                continue;
            }
            peer.scheduled = None;
            let deadline = peer.deadline;
            if deadline <= now {
                return Some(key);
            }
            self.schedule(key, deadline);
        }
        None
    }

    /// When the next transport is due, at the latest: an entry may turn out to have moved.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// Transports now.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Entries of the address and ufrag tables: zero when no transport is left.
    pub fn table_sizes(&self) -> (usize, usize) {
        (self.addresses.len(), self.ufrags.len())
    }
}
