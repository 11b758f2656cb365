//! The real network: threads, clock, sockets. The only module of this crate that knows them, and the only one with `unsafe`.
//!
//! [`Sfu::start`] binds one UDP socket per shard and runs each [`Shard`] on a thread of its own: it sleeps in epoll until the
//! shard's next deadline, a datagram or a command; reads what came in batches; drains the shard; writes what it sealed in
//! batches grouped by destination. A room lives in one shard; [`MediaHandle`] sends a command to the shard of its room.
//! Shards have a port each, or share one; then a datagram that the kernel gave to the wrong one crosses a bounded ring.
//!
//! Rule: a media packet crosses no lock and no unbounded queue between its read and its write. Commands cross a bounded queue.

mod handover;
mod poll;
mod socket;
mod worker;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crate::control::{Command, Event, MAX_SHARDS, MediaConfig, ShardStats};
use crate::fault;
use crate::ids::RoomKey;
use crate::net::handover::{INBOUND_SLOTS, Rings};
use crate::net::poll::Wake;
use crate::net::socket::UdpSocket;
use crate::net::worker::Worker;
use crate::room::Site;
use crate::shard::entropy::Entropy;
use crate::shard::{Limits, Shard, ShardConfig, room_of};
use crate::tap::TapPacket;
use crate::transport::Identity;

#[expect(clippy::disallowed_types, reason = "control plane only: which shard a room is in, and the last report of a shard")]
type Lock<T> = std::sync::Mutex<T>;

/// Commands that may wait for one shard. More: a stalled shard costs more memory before callers hear of it.
const COMMANDS: usize = 8_192;

/// Why the media plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A socket could not be bound.
    #[error("cannot bind UDP {address}: {source}; is another process using the port? Give media another port or address")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Bound to every address, and none to tell clients.
    #[error("UDP {address} is bound to all addresses and none is given to advertise; name this machine's addresses, or bind one of them")]
    NoAddress {
        /// Where.
        address: SocketAddr,
    },
    /// Nothing to bind.
    #[error("no UDP address is given for media; give one for all shards, or one for each")]
    NoSocket,
    /// The number of shards does not fit.
    #[error("{shards} media shards on {addresses} UDP addresses: give one address for all, or one for each, and 1 to {MAX_SHARDS} shards")]
    Shards {
        /// Asked for.
        shards: usize,
        /// Given.
        addresses: usize,
    },
    /// The number of taps does not fit.
    #[error("{taps} tap rings were given for {shards} shards; give one per shard, or none")]
    Taps {
        /// Given.
        taps: usize,
        /// Needed.
        shards: usize,
    },
    /// The system refused a thread, epoll or eventfd.
    #[error("the system refused {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The shard's queue is full.
    #[error("the media shard has {COMMANDS} commands waiting; try again in a moment")]
    Full,
    /// The media plane has stopped.
    #[error("the media plane has stopped")]
    Stopped,
    /// No such room.
    #[error("{0:?} is not open; open it first")]
    UnknownRoom(RoomKey),
}

/// The running media plane: owns the shard threads.
pub struct Sfu {
    handle: MediaHandle,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
}

impl Sfu {
    /// Binds the sockets and starts the shards. `events` is called on shard threads and must not block. `taps`: one ring per
    /// shard, or none.
    ///
    /// # Errors
    ///
    /// [`NetError`]: a port in use, no address, no thread.
    pub fn start(
        config: MediaConfig,
        events: Arc<dyn Fn(Event) + Send + Sync>,
        taps: Vec<rtrb::Producer<TapPacket>>,
    ) -> Result<Sfu, NetError> {
        let shards = config.shards;
        let sockets = bind(&config)?;
        if !taps.is_empty() && taps.len() != shards {
            return Err(NetError::Taps { taps: taps.len(), shards });
        }
        let identity = Identity::new();
        let mut taps: Vec<Option<rtrb::Producer<TapPacket>>> = taps.into_iter().map(Some).collect();
        taps.resize_with(shards, || None);
        let wakes: Vec<Arc<Wake>> = (0..shards)
            .map(|_| Wake::new().map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|source| NetError::System { what: "an eventfd", source })?;
        let shared = config.udp_bind.len() == 1;
        let mut rings = if shared { Rings::join(&wakes, INBOUND_SLOTS) } else { Vec::new() };
        rings.resize_with(shards, Rings::default);
        let (mut ports, mut workers, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (((mut socket, tap), wake), rings)) in sockets.into_iter().zip(taps).zip(wakes).zip(rings).enumerate() {
            let bound = socket.local_address();
            let candidates = candidates(bound, &config.advertised)?;
            socket.advertise(&candidates);
            tracing::info!(shard = index, %bound, ?candidates, "media shard listens");
            addresses.push(bound);
            let shard = Shard::new(ShardConfig {
                site: Site { shard: index as u16, candidates: candidates.clone(), ice_lite: config.ice_lite },
                sharing: if shared { shards as u16 } else { 1 },
                limits: Limits {
                    participants: config.max_participants,
                    tracks_per_participant: config.max_tracks_per_participant,
                    ..Limits::default()
                },
                identity: Arc::clone(&identity),
                entropy: Entropy::system(),
                tap,
            });
            let (sender, commands) = sync_channel(COMMANDS);
            let stats = Arc::new(Lock::new(ShardStats::default()));
            let (woken_by, report, events) = (Arc::clone(&wake), Arc::clone(&stats), Arc::clone(&events));
            let worker = Worker::new(shard, socket, candidates, commands, woken_by, report, events, rings)
                .map_err(|source| NetError::System { what: "an epoll instance", source })?;
            ports.push(ShardPort { commands: sender, wake, stats, ended: OnceLock::new() });
            workers.push(worker);
        }
        // All sockets are bound: now nothing but the system can refuse.
        let mut sfu = Sfu { handle: MediaHandle::new(ports, None), threads: Vec::new(), addresses };
        for (index, worker) in workers.into_iter().enumerate() {
            let (handle, events) = (sfu.handle.clone(), Arc::clone(&events));
            let thread = std::thread::Builder::new().name(format!("media-{index}")).spawn(move || {
                if let Err(fault) = fault::caught(|| worker.run()) {
                    handle.shard_ended(index, fault, &*events);
                }
            });
            match thread {
                Ok(thread) => sfu.threads.push(thread),
                Err(source) => {
                    sfu.stop();
                    return Err(NetError::System { what: "a thread", source });
                }
            }
        }
        Ok(sfu)
    }

    /// For the control plane.
    pub fn handle(&self) -> MediaHandle {
        self.handle.clone()
    }

    /// How many shards run.
    pub fn shards(&self) -> usize {
        self.threads.len()
    }

    /// Where each shard listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes every transport politely and ends the threads.
    pub fn stop(self) {
        for port in &self.handle.shared.ports {
            // A full queue drains; one that is gone needs no stop.
            let mut command = Command::Shutdown;
            while let Err(TrySendError::Full(back)) = port.commands.try_send(command) {
                command = back;
                port.wake.wake();
                std::thread::yield_now();
            }
            port.wake.wake();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a media shard ended by a fault while it said that it had ended");
            }
        }
    }
}

/// One socket per shard.
fn bind(config: &MediaConfig) -> Result<Vec<UdpSocket>, NetError> {
    let refused = |address| move |source| NetError::Bind { address, source };
    let (shards, addresses) = (config.shards, config.udp_bind.len());
    match config.udp_bind.as_slice() {
        [] => Err(NetError::NoSocket),
        _ if !(1..=MAX_SHARDS).contains(&shards) || addresses > 1 && addresses != shards => Err(NetError::Shards { shards, addresses }),
        [one] => UdpSocket::bind_shared(*one, shards).map_err(refused(*one)),
        each => each.iter().map(|address| UdpSocket::bind(*address).map_err(refused(*address))).collect(),
    }
}

/// What we advertise for a bound address.
fn candidates(bound: SocketAddr, advertised: &[IpAddr]) -> Result<Vec<SocketAddr>, NetError> {
    if !bound.ip().is_unspecified() {
        return Ok(vec![bound]);
    }
    let fits = |ip: &&IpAddr| bound.is_ipv6() || ip.is_ipv4();
    let candidates: Vec<SocketAddr> = advertised.iter().filter(fits).map(|&ip| SocketAddr::new(ip, bound.port())).collect();
    if candidates.is_empty() { Err(NetError::NoAddress { address: bound }) } else { Ok(candidates) }
}

/// The control plane's end of one shard.
struct ShardPort {
    commands: SyncSender<Command>,
    wake: Arc<Wake>,
    stats: Arc<Lock<ShardStats>>,
    /// The fault that ended it.
    ended: OnceLock<String>,
}

/// A shard that a fault has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedShard {
    /// Its number.
    pub shard: usize,
    /// What the panic said.
    pub fault: String,
}

/// Which rooms are where.
#[derive(Default)]
struct Directory {
    /// Shard of each room, and its participants.
    rooms: HashMap<RoomKey, (usize, usize)>,
    /// Participants of each shard, plus one for each room so that empty rooms spread too.
    loads: Vec<usize>,
    /// Shards that have ended: no room is put there.
    ended: BTreeSet<usize>,
}

struct Shared {
    ports: Vec<ShardPort>,
    directory: Lock<Directory>,
    next_key: AtomicU64,
    /// Of a handle without shards: where commands go.
    detached: Option<SyncSender<Command>>,
}

/// Sends commands to the shards. Cheap to clone.
#[derive(Clone)]
pub struct MediaHandle {
    shared: Arc<Shared>,
}

impl MediaHandle {
    fn new(ports: Vec<ShardPort>, detached: Option<SyncSender<Command>>) -> MediaHandle {
        let directory = Directory { loads: vec![0; ports.len()], ..Directory::default() };
        let shared = Shared { ports, directory: Lock::new(directory), next_key: AtomicU64::new(1), detached };
        MediaHandle { shared: Arc::new(shared) }
    }

    /// For signaling's own tests: commands land in the receiver, nothing is sent.
    pub fn detached() -> (MediaHandle, Receiver<Command>) {
        let (sender, receiver) = sync_channel(COMMANDS);
        (MediaHandle::new(Vec::new(), Some(sender)), receiver)
    }

    /// To the shard that owns the room. `OpenRoom` chooses the least loaded shard; later commands follow.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the queue is full, the media plane has stopped, or the room is not open.
    pub fn send(&self, command: Command) -> Result<(), Refused> {
        let taken = |result: Result<(), TrySendError<Command>>| match result {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Refused::Full),
            Err(TrySendError::Disconnected(_)) => Err(Refused::Stopped),
        };
        if let Some(sender) = &self.shared.detached {
            return taken(sender.try_send(command));
        }
        let Some(room) = room_of(&command) else {
            // Only `Sfu::stop` ends the shards.
            return Ok(());
        };
        // The lock is held while the command is queued, so that a room's commands reach its shard in the order of the directory.
        let mut directory = self.shared.directory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shard = directory.place(&command, room)?;
        let port = &self.shared.ports[shard];
        let change = Change::of(&command);
        taken(port.commands.try_send(command))?;
        directory.note(change, room, shard);
        drop(directory);
        port.wake.wake();
        Ok(())
    }

    /// After pushing into a publisher ring of this room.
    pub fn wake(&self, room: RoomKey) {
        let directory = self.shared.directory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(port) = directory.rooms.get(&room).and_then(|(shard, _)| self.shared.ports.get(*shard)) {
            port.wake.wake();
        }
    }

    /// Each shard's counters, at most a second old.
    pub fn stats(&self) -> Vec<ShardStats> {
        self.shared.ports.iter().map(|p| p.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()).collect()
    }

    /// Shards that a fault has ended, each with it. They do not come back: the process should be started anew.
    pub fn ended(&self) -> Vec<EndedShard> {
        let ended = self.shared.ports.iter().enumerate();
        ended.filter_map(|(shard, port)| port.ended.get().map(|fault| EndedShard { shard, fault: fault.clone() })).collect()
    }

    /// On the thread of a shard that a fault has ended; its socket and queue are closed by now.
    fn shard_ended(&self, shard: usize, fault: String, events: &(dyn Fn(Event) + Send + Sync)) {
        tracing::error!(shard, fault, "a fault ended a media shard: its rooms are closed, and no room is opened there any more");
        let Some(port) = self.shared.ports.get(shard) else { return };
        // An end is told once.
        let _ = port.ended.set(fault);
        let mut report = port.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *report = ShardStats { ended: 1, rooms: 0, participants: 0, publications: 0, subscriptions: 0, ..report.clone() };
        drop(report);
        for room in self.shared.directory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).lose(shard) {
            events(Event::RoomLost { room });
        }
    }

    /// A number that this process has not used for a room, participant or track.
    pub fn next_key(&self) -> u64 {
        self.shared.next_key.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a command does to the directory.
enum Change {
    Nothing,
    Open,
    Close,
    Enter,
    Leave,
}

impl Change {
    fn of(command: &Command) -> Change {
        match command {
            Command::OpenRoom { .. } => Change::Open,
            Command::CloseRoom { .. } => Change::Close,
            Command::AddParticipant { .. } => Change::Enter,
            Command::RemoveParticipant { .. } => Change::Leave,
            _ => Change::Nothing,
        }
    }
}

impl Directory {
    fn place(&self, command: &Command, room: RoomKey) -> Result<usize, Refused> {
        if let Some((shard, _)) = self.rooms.get(&room) {
            return Ok(*shard);
        }
        if !matches!(command, Command::OpenRoom { .. }) {
            return Err(Refused::UnknownRoom(room));
        }
        let running = self.loads.iter().enumerate().filter(|(shard, _)| !self.ended.contains(shard));
        let least = running.min_by_key(|(_, load)| **load);
        least.map(|(shard, _)| shard).ok_or(Refused::Stopped)
    }

    /// A shard has ended; gives the rooms that were there.
    fn lose(&mut self, ended: usize) -> Vec<RoomKey> {
        self.ended.insert(ended);
        self.loads[ended] = 0;
        let mut lost: Vec<RoomKey> = self.rooms.extract_if(|_, (shard, _)| *shard == ended).map(|(room, _)| room).collect();
        lost.sort_unstable();
        lost
    }

    fn note(&mut self, change: Change, room: RoomKey, shard: usize) {
        match change {
            Change::Nothing => {}
            Change::Open => {
                if self.rooms.insert(room, (shard, 0)).is_none() {
                    self.loads[shard] += 1;
                }
            }
            Change::Close => {
                if let Some((shard, participants)) = self.rooms.remove(&room) {
                    self.loads[shard] -= participants + 1;
                }
            }
            Change::Enter => {
                if let Some((_, participants)) = self.rooms.get_mut(&room) {
                    *participants += 1;
                    self.loads[shard] += 1;
                }
            }
            Change::Leave => {
                if let Some((_, participants)) = self.rooms.get_mut(&room).filter(|(_, p)| *p > 0) {
                    *participants -= 1;
                    self.loads[shard] -= 1;
                }
            }
        }
    }
}
