//! A publication: one track of one participant with its layers, their histories, and those who subscribed to it.
//!
//! A packet's way: [`crate::room`] finds the publication and layer by one look-up, [`Publication::receive`] notes what concerns
//! all subscribers once (history, level, rate, key frame), then each [`Subscription`] decides for itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::control::{LayerSpec, TrackSettings, TrackSpec};
use crate::forward::{PacketFacts, StreamKey, TimeReference};
use crate::history::History;
use crate::ids::{ParticipantKey, TrackKey};
use crate::packet::{Codec, MediaKind, RtpPacket};
use crate::red::RedUnpacker;
use crate::shard::peers::PeerKey;
use crate::speakers::AudioLevel;
use crate::subscription::Subscription;
use crate::tap::SourcePacket;
use crate::transport::RecvId;

/// Layers of one publication; a client that sends more gets the rest ignored and counted.
pub const MAX_LAYERS: usize = 4;

/// A layer that was silent for this long is not offered to subscribers. Screen shares send 1 to 5 frames a second.
const LAYER_SILENT_AFTER: Duration = Duration::from_millis(2500);

/// A new subscriber is sent what came since the last key frame if it is at most this old and this many packets: more of either
/// is a burst that its link may not take, and a new key frame is there sooner.
const CATCH_UP_AGE: Duration = Duration::from_secs(1);
const CATCH_UP_PACKETS: u64 = 96;

/// Where a publication's packets come from.
#[derive(Debug)]
pub enum Source {
    /// Announced; its media section is not known yet.
    Announced,
    /// A participant of this shard, over its transport.
    Local {
        /// The transport.
        peer: PeerKey,
        /// Its section.
        mid: String,
    },
    /// The room's other part, on another shard or node: packets come one way, wishes go the other.
    Relayed(Relay),
    /// Made in the server: the publisher seam.
    Made {
        /// The packets.
        packets: rtrb::Consumer<SourcePacket>,
        /// Codec.
        codec: Codec,
        /// Next sequence number.
        next_seq: u64,
    },
}

/// This side of a relay: a bounded ring each way, whatever carries them on.
#[derive(Debug)]
pub struct Relay {
    /// Packets with the layer that they belong to.
    pub packets: rtrb::Consumer<RelayedPacket>,
    /// What this side's subscribers need.
    pub wishes: rtrb::Producer<RelayWish>,
}

/// A packet that another part of the room received.
#[derive(Debug, Clone)]
pub struct RelayedPacket {
    /// Spatial layer.
    pub layer: u8,
    /// The packet.
    pub packet: RtpPacket,
}

/// What travels back over a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayWish {
    /// A key frame of a layer.
    KeyFrame {
        /// Spatial layer.
        layer: u8,
    },
}

/// One simulcast layer (or the only one).
#[derive(Debug)]
pub struct Layer {
    /// As announced; the rid orders it.
    pub spec: LayerSpec,
    /// Its present source stream.
    pub stream: StreamKey,
    /// The stream of its transport, for key-frame requests.
    pub recv: Option<RecvId>,
    /// What can be sent again.
    pub history: History,
    /// Its time line.
    pub reference: TimeReference,
    /// Highest extended sequence number.
    pub highest: u64,
    /// Where its last key frame starts, and that frame's timestamp.
    key_frame: Option<(u64, u32)>,
    /// First sequence number of the stream, to count what was lost.
    first: Option<u64>,
    received: u64,
    rate: RateMeter,
    last_packet: Option<Instant>,
    last_key_request: Option<Instant>,
}

impl Layer {
    /// Packets came lately.
    pub fn is_live(&self, now: Instant) -> bool {
        self.last_packet.is_some_and(|at| now.saturating_duration_since(at) < LAYER_SILENT_AFTER)
    }

    /// Bits per second measured; in its first second at least what was announced.
    pub fn rate_bps(&self, now: Instant) -> u64 {
        let measured = self.rate.bps(now);
        if measured == 0 || self.rate.is_young(now) { measured.max(self.spec.bitrate_bps) } else { measured }
    }

    /// The sequence numbers since the last key frame, when a new subscriber can begin with them: few, fresh, all there, and at
    /// least one whole frame.
    pub fn since_key_frame(&self, now: Instant) -> Option<std::ops::RangeInclusive<u64>> {
        let (first, _) = self.key_frame?;
        let age = now.saturating_duration_since(self.history.get(first)?.arrival);
        if age > CATCH_UP_AGE || self.highest - first >= CATCH_UP_PACKETS {
            return None;
        }
        // A stream's first packets may be lost for good: a receiver asks for nothing before it has heard two in a row.
        let mut whole_frame = false;
        for seq in first..=self.highest {
            whole_frame |= self.history.get(seq)?.marker;
        }
        whole_frame.then_some(first..=self.highest)
    }

    /// Packets expected and received since the stream began.
    pub fn counts(&self) -> (u64, u64) {
        match self.first {
            Some(first) => (self.highest + 1 - first, self.received),
            None => (0, 0),
        }
    }
}

/// Bits per second over the last second, in eight parts.
#[derive(Debug, Default)]
struct RateMeter {
    parts: [u32; 8],
    /// Index of the newest part since `origin`, and `origin`.
    newest: u64,
    origin: Option<Instant>,
}

impl RateMeter {
    fn part(&mut self, now: Instant) -> usize {
        let origin = *self.origin.get_or_insert(now);
        let index = (now.saturating_duration_since(origin).as_millis() / 125) as u64;
        let passed = index.saturating_sub(self.newest).min(8);
        for step in 1..=passed {
            self.parts[((self.newest + step) % 8) as usize] = 0;
        }
        if passed == 8 {
            self.parts = [0; 8];
        }
        self.newest = self.newest.max(index);
        (self.newest % 8) as usize
    }

    fn add(&mut self, now: Instant, bytes: usize) {
        let part = self.part(now);
        self.parts[part] = self.parts[part].saturating_add(bytes as u32);
    }

    /// Less than a full second was measured.
    fn is_young(&self, now: Instant) -> bool {
        self.origin.is_none_or(|origin| now.saturating_duration_since(origin) < Duration::from_secs(1))
    }

    fn bps(&self, now: Instant) -> u64 {
        let Some(origin) = self.origin else { return 0 };
        let index = (now.saturating_duration_since(origin).as_millis() / 125) as u64;
        if index >= self.newest + 8 {
            return 0;
        }
        self.parts.iter().map(|&b| u64::from(b) * 8).sum()
    }
}

/// One track of one participant.
#[derive(Debug)]
pub struct Publication {
    /// Its key.
    pub key: TrackKey,
    /// Whose it is.
    pub publisher: ParticipantKey,
    /// As announced.
    pub spec: TrackSpec,
    /// Where packets come from.
    pub source: Source,
    /// Muted by its publisher.
    pub muted: bool,
    /// Codec of the first packet; later packets of audio may change between RED and Opus.
    pub codec: Option<Codec>,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Those who want it.
    pub subscriptions: BTreeMap<ParticipantKey, Subscription>,
    /// Heard by the tap.
    pub tapped: bool,
    /// Takes RED apart for those who did not negotiate it.
    pub unpacker: RedUnpacker,
    /// Grows when the source changes.
    pub epoch: u32,
    /// Loudness, for the active speakers.
    pub level: AudioLevel,
    /// Common origin of the layers' time lines.
    origin: Instant,
    next_stream: u32,
}

impl Publication {
    /// An announced publication without media.
    pub fn new(key: TrackKey, publisher: ParticipantKey, mut spec: TrackSpec, now: Instant) -> Publication {
        spec.layers.truncate(MAX_LAYERS);
        Publication {
            key,
            publisher,
            muted: spec.muted,
            spec,
            source: Source::Announced,
            codec: None,
            layers: Vec::new(),
            subscriptions: BTreeMap::new(),
            tapped: false,
            unpacker: RedUnpacker::default(),
            epoch: 0,
            level: AudioLevel::default(),
            origin: now,
            next_stream: 0,
        }
    }

    /// Audio or video.
    pub fn kind(&self) -> MediaKind {
        self.spec.kind
    }

    /// Codecs that a subscriber's section should offer, best first.
    pub fn codecs_to_offer(&self) -> Vec<Codec> {
        match self.codec {
            // A publisher may switch RED off at any time.
            Some(Codec::Red) => vec![Codec::Red, Codec::Opus],
            Some(codec) => vec![codec],
            None => Vec::new(),
        }
    }

    /// A source stream of layer `layer` begins (first packet of an SSRC): numbers start anew.
    pub fn begin_stream(&mut self, layer: u8, recv: Option<RecvId>, clock_rate: u32) {
        let index = usize::from(layer);
        while self.layers.len() <= index {
            let spatial = self.layers.len() as u8;
            let stream = self.new_stream();
            // By rank, not by announced quality: a client that sends one layer may call it the highest.
            let spec = self.spec.layers.get(self.layers.len()).cloned().unwrap_or(LayerSpec {
                rid: String::new(),
                spatial,
                width: 0,
                height: 0,
                bitrate_bps: 0,
            });
            self.layers.push(Layer {
                spec,
                stream,
                recv: None,
                history: History::new(self.spec.kind),
                reference: TimeReference::new(clock_rate, self.origin),
                highest: 0,
                key_frame: None,
                first: None,
                received: 0,
                rate: RateMeter::default(),
                last_packet: None,
                last_key_request: None,
            });
        }
        let stream = self.new_stream();
        let layer = &mut self.layers[index];
        if layer.first.is_some() {
            layer.stream = stream;
            layer.history = History::new(self.spec.kind);
            layer.reference = TimeReference::new(clock_rate, self.origin);
            layer.key_frame = None;
            layer.first = None;
            layer.received = 0;
            self.epoch += 1;
            self.unpacker = RedUnpacker::default();
        }
        self.layers[index].recv = recv;
    }

    fn new_stream(&mut self) -> StreamKey {
        self.next_stream += 1;
        StreamKey(self.next_stream)
    }

    /// Notes a packet: what all subscribers share. Returns its facts and whether it is late (older than the newest).
    pub fn receive(&mut self, now: Instant, layer: u8, packet: &RtpPacket) -> Option<(PacketFacts, bool)> {
        let kind = self.spec.kind;
        let layer = self.layers.get_mut(usize::from(layer))?;
        let late = layer.first.is_some() && packet.seq <= layer.highest;
        if layer.first.is_none() {
            layer.first = Some(packet.seq);
            layer.highest = packet.seq;
        }
        layer.first = layer.first.map(|first| first.min(packet.seq));
        layer.highest = layer.highest.max(packet.seq);
        layer.received += 1;
        layer.last_packet = Some(now);
        layer.rate.add(now, packet.payload.len());
        layer.history.push(packet);
        if !late {
            layer.reference.observe(packet.timestamp, packet.arrival);
        }
        let facts = PacketFacts::of(layer.stream, packet);
        // Parameter sets and slices of one H264 frame each look like a start: the first of them is.
        if facts.key_frame && !late && layer.key_frame.is_none_or(|(_, timestamp)| timestamp != packet.timestamp) {
            layer.key_frame = Some((packet.seq, packet.timestamp));
        }
        if kind == MediaKind::Audio && !late {
            self.level.observe(packet);
        }
        Some((facts, late))
    }

    /// May a key frame of `layer` be asked for now? Notes that it is. LiveKit's throttle: 500 ms on the lowest layer, 1 s above.
    pub fn take_key_request(&mut self, now: Instant, layer: u8) -> bool {
        let several = self.layers.len() > 1;
        let Some(state) = self.layers.get_mut(usize::from(layer)) else { return false };
        let interval = if layer == 0 || !several { Duration::from_millis(500) } else { Duration::from_secs(1) };
        if state.last_key_request.is_some_and(|at| now.saturating_duration_since(at) < interval) {
            return false;
        }
        state.last_key_request = Some(now);
        true
    }

    /// The highest layer that a subscriber with these settings can use, from what is announced or live. `None`: unwanted.
    pub fn wanted_layer(&self, settings: &TrackSettings) -> Option<u8> {
        if settings.disabled || self.layers.is_empty() {
            return None;
        }
        let top = (self.layers.len() - 1) as u8;
        let by_quality = settings.max_spatial.map_or(top, |max| max.min(top));
        if settings.width == 0 && settings.height == 0 {
            return Some(by_quality);
        }
        // The smallest layer that is not blurred at the size shown; a layer without announced size satisfies nothing.
        let by_size = self
            .layers
            .iter()
            .position(|l| l.spec.width > 0 && l.spec.width >= settings.width && l.spec.height >= settings.height)
            .map_or(top, |index| index as u8);
        Some(by_size.min(by_quality))
    }

    /// The layer that `stream` belongs to.
    pub fn layer_of(&self, stream: StreamKey) -> Option<&Layer> {
        self.layers.iter().find(|l| l.stream == stream)
    }

    /// Ends what came from a transport; subscriptions stay and go on with the next source.
    pub fn detach(&mut self) {
        self.source = Source::Announced;
        for layer in &mut self.layers {
            layer.recv = None;
        }
    }
}
