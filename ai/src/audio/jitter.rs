//! The jitter buffer: packets in any order in, an unbroken line of audio out.
//!
//! Place: between the tap and the Opus decoder. Rules: a packet that is in order leaves at once (a recogniser has no
//! playout clock, so waiting would only cost latency); only a missing one is waited for, three times the measured
//! jitter long (RFC 3550 section 6.4.1), and then called lost. A gap in time without a gap in sequence numbers is DTX.
//! The number of held packets is bounded; what is dropped is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::packet::TapPacket;

/// RTP clock of Opus, ticks per millisecond (RFC 7587).
const TICKS_PER_MS: u64 = 48;
/// Packets held behind a missing one. 64 are 1.3 s of 20 ms packets; fewer call reordered packets lost too soon.
const CAPACITY: usize = 64;
/// A missing packet is waited for at least so long: less would call every swapped pair lost.
const MIN_WAIT: Duration = Duration::from_millis(20);
/// ... and at most so long: more delays every caption after a loss.
const MAX_WAIT: Duration = Duration::from_millis(160);
/// Losses longer than this become silence: concealment of libopus fades out by then.
const MAX_CONCEALED_TICKS: u64 = 100 * TICKS_PER_MS;
/// A stream without packets for so long is silent (DTX, mute): silence is handed out so that segments close.
const IDLE: Duration = Duration::from_millis(120);
/// A jump in the timestamps by more than this is a new clock, not a gap. It also bounds the silence of one frame.
const MAX_GAP_TICKS: u64 = 60_000 * TICKS_PER_MS;
/// So many packets in a row behind the position mean that the sender began anew without saying so (RFC 3550 section A.1).
const LATE_BEFORE_RESTART: u32 = 25;
/// Opus packets of at most this many bytes carry no audio: libopus sends them for DTX.
pub(super) const DTX_BYTES: usize = 2;

/// The next piece of the line. Durations are in RTP ticks of 48 kHz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A packet to decode.
    Packet {
        /// The Opus packet.
        payload: Arc<[u8]>,
        /// Its duration.
        ticks: u64,
        /// Its level in -dBov, where the sender says it.
        level: Option<u8>,
    },
    /// Audio that did not arrive.
    Lost {
        /// How much.
        ticks: u64,
        /// The packet after it, when its in-band error correction covers exactly this loss.
        next: Option<Arc<[u8]>>,
    },
    /// The sender had nothing to say.
    Silence {
        /// For how long.
        ticks: u64,
    },
    /// Another source: forget the decoder's state.
    Reset,
}

/// Cumulative counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// Packets taken in.
    pub received: u64,
    /// Packets that came after they had been given up, or from an older source.
    pub late: u64,
    /// Packets that were there already.
    pub duplicate: u64,
    /// Packets given up.
    pub lost: u64,
    /// Packets without a valid Opus header.
    pub malformed: u64,
    /// Times that the buffer was full and a gap had to be given up early.
    pub overflow: u64,
}

/// The state after the newest frame handed out.
#[derive(Debug)]
struct Position {
    epoch: u32,
    next_seq: u64,
    next_timestamp: u32,
    last_arrival: Instant,
    last_ticks: u64,
    last_was_dtx: bool,
    /// Silence handed out while nothing arrived, to be subtracted from the gap that the next packet shows.
    idle_ticks: u64,
}

#[derive(Debug)]
struct Held {
    packet: TapPacket,
    ticks: u64,
}

/// Puts the packets of one track in order. See the module for its rules.
#[derive(Debug, Default)]
pub struct JitterBuffer {
    held: BTreeMap<u64, Held>,
    epoch: Option<u32>,
    position: Option<Position>,
    ready: std::collections::VecDeque<Frame>,
    jitter_ticks: f64,
    last_transit: Option<(Instant, u32)>,
    late_in_row: u32,
    stats: JitterStats,
}

impl JitterBuffer {
    /// An empty buffer; the first packet sets the position.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a packet in. It never grows beyond its capacity.
    pub fn push(&mut self, packet: TapPacket) {
        let Some(ticks) = packet_ticks(&packet.payload) else {
            self.stats.malformed += 1;
            return;
        };
        self.stats.received += 1;
        match self.epoch {
            Some(epoch) if newer(epoch, packet.epoch) => {
                self.stats.late += 1;
                return;
            }
            Some(epoch) if epoch != packet.epoch => {
                // What the old source still had waiting is played out before the new one begins.
                while self.release_head(true) {}
                self.held.clear();
                self.last_transit = None;
            }
            _ => {}
        }
        self.epoch = Some(packet.epoch);
        let expected = self.position.as_ref().filter(|p| p.epoch == packet.epoch).map(|p| p.next_seq);
        if expected.is_some_and(|expected| packet.seq < expected) {
            self.stats.late += 1;
            self.late_in_row += 1;
            if self.late_in_row < LATE_BEFORE_RESTART {
                return;
            }
            self.held.clear();
            self.position = None;
            self.ready.push_back(Frame::Reset);
        }
        self.late_in_row = 0;
        self.measure(&packet);
        if self.held.insert(packet.seq, Held { packet, ticks }).is_some() {
            self.stats.duplicate += 1;
        }
        if self.held.len() > CAPACITY {
            self.stats.overflow += 1;
            self.release_head(true);
        }
    }

    /// The next frame, or `None` when nothing is due at `now`. Call until it answers `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let waited = self.held.values().next().map(|head| now.saturating_duration_since(head.packet.arrival));
            match waited {
                Some(waited) => {
                    if !self.release_head(waited >= self.wait()) {
                        return None;
                    }
                }
                None => return self.idle(now),
            }
        }
    }

    /// Cumulative counts.
    pub fn stats(&self) -> JitterStats {
        self.stats
    }

    /// How long a missing packet is waited for at present.
    pub fn wait(&self) -> Duration {
        let jitter = Duration::from_micros((self.jitter_ticks * 1000.0 / TICKS_PER_MS as f64) as u64);
        (jitter * 3).clamp(MIN_WAIT, MAX_WAIT)
    }

    /// Interarrival jitter of RFC 3550 section 6.4.1.
    fn measure(&mut self, packet: &TapPacket) {
        if let Some((arrival, timestamp)) = self.last_transit {
            let sent = f64::from(packet.timestamp.wrapping_sub(timestamp) as i32);
            let received = signed_seconds(arrival, packet.arrival) * 1000.0 * TICKS_PER_MS as f64;
            // A talk spurt after DTX tells nothing about the network's jitter; a jump of the clock neither.
            let difference = (received - sent).abs().min((MAX_WAIT.as_millis() as u64 * TICKS_PER_MS) as f64);
            self.jitter_ticks += (difference - self.jitter_ticks) / 16.0;
        }
        self.last_transit = Some((packet.arrival, packet.timestamp));
    }

    /// Moves the first held packet to the line when it is next, or when the gap before it is to be given up.
    fn release_head(&mut self, give_up: bool) -> bool {
        let Some((&seq, held)) = self.held.first_key_value() else { return false };
        let in_order = match &self.position {
            Some(position) => position.epoch != held.packet.epoch || position.next_seq == seq,
            None => true,
        };
        if !in_order && !give_up {
            return false;
        }
        let (_, held) = self.held.pop_first().expect("the head was just seen");
        self.bridge(&held);
        let Held { packet, ticks } = held;
        self.position = Some(Position {
            epoch: packet.epoch,
            next_seq: seq + 1,
            next_timestamp: packet.timestamp.wrapping_add(ticks as u32),
            last_arrival: packet.arrival,
            last_ticks: ticks,
            last_was_dtx: packet.payload.len() <= DTX_BYTES,
            idle_ticks: 0,
        });
        self.ready.push_back(Frame::Packet { payload: packet.payload, ticks, level: packet.level });
        true
    }

    /// Fills the time between the last frame and this packet: losses first, silence for the rest.
    fn bridge(&mut self, held: &Held) {
        let Some(position) = &self.position else { return };
        let packet = &held.packet;
        let elapsed = packet.arrival.saturating_duration_since(position.last_arrival).as_millis() as u64 * TICKS_PER_MS;
        let by_arrival = elapsed.saturating_sub(position.last_ticks).min(MAX_GAP_TICKS).saturating_sub(position.idle_ticks);
        if position.epoch != packet.epoch {
            self.ready.push_back(Frame::Reset);
            push_silence(&mut self.ready, by_arrival);
            return;
        }
        let missing = packet.seq - position.next_seq;
        self.stats.lost += missing;
        let gap = u64::from(packet.timestamp.wrapping_sub(position.next_timestamp));
        if gap > MAX_GAP_TICKS {
            // Backwards, or minutes ahead: the sender's clock was set anew. The time of arrival is what is left.
            if missing > 0 || packet.timestamp != position.next_timestamp {
                self.ready.push_back(Frame::Reset);
            }
            push_silence(&mut self.ready, by_arrival);
            return;
        }
        let gap = gap.saturating_sub(position.idle_ticks);
        let spoken = if position.last_was_dtx { 0 } else { missing.saturating_mul(position.last_ticks).min(gap) };
        let concealed = spoken.min(MAX_CONCEALED_TICKS);
        // In-band error correction of a packet covers the frame just before it.
        let covered = if spoken == gap && spoken <= MAX_CONCEALED_TICKS { position.last_ticks.min(concealed) } else { 0 };
        let mut rest = concealed - covered;
        while rest > 0 {
            let ticks = rest.min(position.last_ticks);
            self.ready.push_back(Frame::Lost { ticks, next: None });
            rest -= ticks;
        }
        if covered > 0 {
            self.ready.push_back(Frame::Lost { ticks: covered, next: Some(packet.payload.clone()) });
        }
        push_silence(&mut self.ready, gap - concealed);
    }

    /// Silence for the time since the last packet, once the stream counts as idle.
    fn idle(&mut self, now: Instant) -> Option<Frame> {
        let position = self.position.as_mut()?;
        let quiet = now.saturating_duration_since(position.last_arrival);
        if quiet < IDLE {
            return None;
        }
        // Stay one threshold behind, so that a packet which is merely late still finds its place.
        let due = ((quiet - IDLE).as_millis() as u64 * TICKS_PER_MS).min(MAX_GAP_TICKS);
        let ticks = due.saturating_sub(position.idle_ticks) / (20 * TICKS_PER_MS) * (20 * TICKS_PER_MS);
        if ticks == 0 {
            return None;
        }
        position.idle_ticks += ticks;
        Some(Frame::Silence { ticks })
    }
}

fn push_silence(ready: &mut std::collections::VecDeque<Frame>, ticks: u64) {
    // Opus durations are multiples of 2.5 ms; a remainder below one 16 kHz sample is dropped.
    if ticks >= 3 {
        ready.push_back(Frame::Silence { ticks });
    }
}

/// Whether epoch `a` comes after epoch `b`, with wrapping.
fn newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < u32::MAX / 2
}

fn signed_seconds(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(forward) => forward.as_secs_f64(),
        None => -from.saturating_duration_since(to).as_secs_f64(),
    }
}

/// Duration of an Opus packet from its table of contents (RFC 6716 section 3), in 48 kHz ticks; `None` if malformed.
pub fn packet_ticks(payload: &[u8]) -> Option<u64> {
    let &toc = payload.first()?;
    let configuration = toc >> 3;
    // Frame sizes in ticks: SILK 10, 20, 40, 60 ms; hybrid 10, 20 ms; CELT 2.5, 5, 10, 20 ms.
    let frame = match configuration {
        0..=11 => [480, 960, 1920, 2880][usize::from(configuration % 4)],
        12..=15 => [480, 960][usize::from(configuration % 2)],
        _ => [120, 240, 480, 960][usize::from(configuration % 4)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(payload.get(1)? & 0x3f),
    };
    let ticks = frame * frames;
    (ticks > 0 && ticks <= 120 * TICKS_PER_MS).then_some(ticks)
}
