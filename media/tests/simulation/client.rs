//! A virtual participant: an independent WebRTC stack (str0m, sending by itself) on one or two connections, which behaves like a
//! LiveKit client: it offers what it publishes, answers our offers, adds sections when asked, and checks all it receives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_media::ids::{ParticipantKey, TrackKey};
use auralink_media::packet::{Codec, MediaKind};
use auralink_media::red;
use auralink_media::vp8::Vp8Descriptor;
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::config::CryptoProvider;
use str0m::format::Codec as ClientCodec;
use str0m::media::{Direction, MediaKind as ClientKind, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig};

use crate::marks::{self, Mark};

pub const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
pub const VIDEO_INTERVAL: Duration = Duration::from_millis(66);

/// One peer connection of a client.
pub struct Connection {
    pub rtc: Rtc,
    pub address: SocketAddr,
    pub deadline: Instant,
    pending: Option<SdpPendingOffer>,
    /// For the next offer, which may have to wait for the answer to the last.
    changes: Vec<Change>,
    receiving: Vec<Mid>,
    channels: BTreeMap<String, ChannelId>,
    /// By SSRC.
    pub received: BTreeMap<u32, ReceivedStream>,
}

enum Change {
    Publish {
        track: TrackKey,
        kind: ClientKind,
        cid: String,
        simulcast: Option<Simulcast>,
    },
    Receive(ClientKind),
    /// Receiving sections that the server answered as inactive are offered again.
    Revive,
    Inactivate(Mid),
    /// One with a label of its own.
    Channel(String),
    Channels,
}

/// What came over one SSRC, by extended sequence number.
#[derive(Debug, Default)]
pub struct ReceivedStream {
    pub packets: BTreeMap<u64, ReceivedPacket>,
}

#[derive(Debug, Clone)]
pub struct ReceivedPacket {
    pub at: Instant,
    pub mark: Mark,
    pub timestamp: u32,
    pub picture_id: Option<u16>,
    pub tl0: Option<u8>,
    pub key_frame: bool,
    pub codec: Codec,
}

/// A track that the client publishes.
pub struct Published {
    pub track: TrackKey,
    pub kind: MediaKind,
    pub cid: String,
    pub red: bool,
    pub muted: bool,
    pub ended: bool,
    pub layers: Vec<SentLayer>,
    mid: Option<Mid>,
    next_at: Instant,
    frame: u32,
    last_payload: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct SentLayer {
    rid: Option<Rid>,
    pub seq: u64,
    time: u32,
    picture_id: u16,
    tl0: u8,
    key_wanted: bool,
    pub key_frames: u32,
}

/// What the client tells the control plane.
pub enum Said {
    Offer { sdp: String },
    Answer { id: u32, sdp: String },
}

pub struct Client {
    pub sid: String,
    pub identity: String,
    pub publisher: Connection,
    pub subscriber: Option<Connection>,
    pub published: Vec<Published>,
    /// Data packets received, with whether they came reliably.
    pub data: Vec<(bool, Vec<u8>)>,
    pub events: u64,
    pub said: Vec<Said>,
    /// Sends no audio level with its packets.
    pub without_levels: bool,
}

pub struct ClientSpec {
    pub key: ParticipantKey,
    pub single: bool,
    pub red: bool,
    pub address: [SocketAddr; 2],
    /// Where its crypto comes from: the real one, or one whose handshake follows from a seed.
    pub crypto: fn() -> CryptoProvider,
}

impl Client {
    pub fn new(spec: &ClientSpec, now: Instant) -> Client {
        let mut publisher = Connection::new(spec, 0, now);
        publisher.changes.push(Change::Channels);
        let subscriber = (!spec.single).then(|| Connection::new(spec, 1, now));
        Client {
            sid: format!("PA_{}", spec.key.0),
            identity: format!("user-{}", spec.key.0),
            publisher,
            subscriber,
            published: Vec::new(),
            data: Vec::new(),
            events: 0,
            said: Vec::new(),
            without_levels: false,
        }
    }

    pub fn connections(&mut self) -> impl Iterator<Item = &mut Connection> {
        std::iter::once(&mut self.publisher).chain(self.subscriber.as_mut())
    }

    /// The connection over which it receives.
    pub fn receiving(&self) -> &Connection {
        self.subscriber.as_ref().unwrap_or(&self.publisher)
    }

    /// Begins to publish.
    pub fn publish(&mut self, now: Instant, track: TrackKey, kind: MediaKind, layers: usize, red: bool) {
        let cid = format!("cid-{}", track.0);
        const RIDS: [&str; 3] = ["q", "h", "f"];
        let simulcast = (layers > 1).then(|| {
            let mut simulcast = Simulcast::new();
            for rid in &RIDS[..layers] {
                simulcast.add_send_layer(SimulcastLayer::new(rid));
            }
            simulcast
        });
        let client_kind = match kind {
            MediaKind::Audio => ClientKind::Audio,
            MediaKind::Video => ClientKind::Video,
        };
        self.publisher.changes.push(Change::Publish { track, kind: client_kind, cid: cid.clone(), simulcast });
        let layers = (0..layers.max(1))
            .map(|i| SentLayer {
                rid: (layers > 1).then(|| RIDS[i].into()),
                seq: u64::from(fastrand::u16(..)),
                time: fastrand::u32(..),
                picture_id: fastrand::u16(..) & 0x7fff,
                tl0: fastrand::u8(..),
                key_wanted: true,
                key_frames: 0,
            })
            .collect();
        self.published.push(Published {
            track,
            kind,
            cid,
            red,
            muted: false,
            ended: false,
            layers,
            mid: None,
            next_at: now,
            frame: 0,
            last_payload: Vec::new(),
        });
    }

    /// Ends a track: its section goes inactive.
    pub fn unpublish(&mut self, track: TrackKey) {
        if let Some(published) = self.published.iter_mut().find(|p| p.track == track) {
            published.ended = true;
            self.publisher.changes.extend(published.mid.map(Change::Inactivate));
        }
    }

    /// Single connection: more receiving sections.
    pub fn add_sections(&mut self, audios: u32, videos: u32) {
        let sections =
            std::iter::repeat_n(ClientKind::Audio, audios as usize).chain(std::iter::repeat_n(ClientKind::Video, videos as usize));
        self.publisher.changes.extend(sections.map(Change::Receive));
        self.publisher.changes.push(Change::Revive);
    }

    /// The server's answer.
    pub fn take_answer(&mut self, sdp: &str) {
        let Some(pending) = self.publisher.pending.take() else { return };
        let answer = SdpAnswer::from_sdp_string(sdp).expect("the client reads our answer");
        self.publisher.rtc.sdp_api().accept_answer(pending, answer).expect("the client takes our answer");
        // The library does not say whether RED was taken.
        for section in sdp.split("\r\nm=").filter(|section| !section.contains(" red/48000")) {
            let mid = section.lines().find_map(|line| line.strip_prefix("a=mid:"));
            let refused = self.published.iter_mut().filter(|p| p.mid.is_some_and(|m| Some(&*m.to_string()) == mid));
            refused.for_each(|p| p.red = false);
        }
    }

    pub fn take_offer(&mut self, id: u32, sdp: &str) {
        let subscriber = self.subscriber.as_mut().expect("only a client with two connections is offered to");
        let offer = SdpOffer::from_sdp_string(sdp).expect("the client reads our offer");
        let answer = subscriber.rtc.sdp_api().accept_offer(offer).expect("the client takes our offer");
        self.said.push(Said::Answer { id, sdp: answer.to_sdp_string() });
    }

    /// When the next packet is due.
    pub fn next_media(&self) -> Option<Instant> {
        self.published.iter().filter(|p| !p.ended && !p.muted).map(|p| p.next_at).min()
    }

    /// Sends what is due; says what it has to say.
    pub fn advance(&mut self, now: Instant, media: bool) {
        if let Some(sdp) = self.publisher.offer_if_due(&mut self.published) {
            self.said.push(Said::Offer { sdp });
        }
        let connected = self.publisher.rtc.is_connected();
        for published in &mut self.published {
            while published.next_at <= now {
                published.next_at += match published.kind {
                    MediaKind::Audio => AUDIO_INTERVAL,
                    MediaKind::Video => VIDEO_INTERVAL,
                };
                for layer in &mut published.layers {
                    layer.time = layer.time.wrapping_add(match published.kind {
                        MediaKind::Audio => 960,
                        MediaKind::Video => 5940,
                    });
                }
                if media && connected && !published.muted && !published.ended {
                    send_frame(&mut self.publisher.rtc, published, now, self.without_levels);
                }
            }
        }
    }

    /// Takes a datagram for one of its addresses.
    pub fn receive(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        for connection in self.connections().filter(|c| c.address == destination) {
            let Ok(receive) = Receive::new(Protocol::Udp, source, destination, bytes) else { return };
            let input = Input::Receive(now, receive);
            if connection.rtc.accepts(&input) {
                connection.rtc.handle_input(input).expect("the client takes what we send");
            }
        }
    }

    /// Drains both connections into `send(source, destination, bytes)`.
    pub fn drain(&mut self, now: Instant, mut send: impl FnMut(SocketAddr, SocketAddr, &[u8])) {
        let Client { publisher, subscriber, published, data, events, .. } = self;
        for connection in std::iter::once(publisher).chain(subscriber.as_mut()) {
            if connection.deadline <= now {
                connection.rtc.handle_input(Input::Timeout(now)).expect("the client's clock advances");
            }
            loop {
                match connection.rtc.poll_output().expect("the client runs") {
                    Output::Timeout(at) => {
                        connection.deadline = at;
                        break;
                    }
                    Output::Transmit(t) => send(t.source, t.destination, &t.contents),
                    Output::Event(event) => {
                        *events += 1;
                        connection.event(now, event, published, data);
                    }
                }
            }
        }
    }

    /// Sends a data packet.
    pub fn send_data(&mut self, reliable: bool, bytes: &[u8]) -> bool {
        self.send_over(if reliable { "_reliable" } else { "_lossy" }, bytes)
    }

    /// Opens a channel with a label of its own.
    pub fn open_channel(&mut self, label: &str) {
        self.publisher.changes.push(Change::Channel(label.to_owned()));
    }

    /// Sends bytes over a channel.
    pub fn send_over(&mut self, label: &str, bytes: &[u8]) -> bool {
        let Some(&id) = self.publisher.channels.get(label) else { return false };
        self.publisher.rtc.channel(id).is_some_and(|mut c| c.write(true, bytes).unwrap_or(false))
    }

    pub fn has_address(&self, address: SocketAddr) -> bool {
        self.publisher.address == address || self.subscriber.as_ref().is_some_and(|s| s.address == address)
    }
}

fn send_frame(rtc: &mut Rtc, published: &mut Published, now: Instant, without_levels: bool) {
    published.frame += 1;
    let codec = match published.kind {
        MediaKind::Audio => ClientCodec::Opus,
        MediaKind::Video => ClientCodec::Vp8,
    };
    let Some(mid) = published.mid else { return };
    let Some(params) = rtc.codec_config().params().iter().find(|p| p.spec().codec == codec).copied() else { return };
    for (index, layer) in published.layers.iter_mut().enumerate() {
        let packets = match published.kind {
            MediaKind::Audio => 1,
            MediaKind::Video => index as u32 + 1,
        };
        let key = published.kind == MediaKind::Video && std::mem::take(&mut layer.key_wanted);
        layer.key_frames += u32::from(key);
        layer.picture_id = (layer.picture_id + 1) & 0x7fff;
        layer.tl0 = layer.tl0.wrapping_add(1);
        for packet in 0..packets {
            let mark = Mark { publication: published.track.0, layer: index as u8, seq: layer.seq, frame: published.frame };
            let (payload, pt) = match published.kind {
                MediaKind::Audio => {
                    let opus = marks::body(mark, 60 + fastrand::usize(..40));
                    let before = std::mem::replace(&mut published.last_payload, opus.clone());
                    match params.red().filter(|_| published.red) {
                        Some(pt) => (marks::red((!before.is_empty()).then_some(&before[..]), &opus), pt),
                        None => (opus, params.pt()),
                    }
                }
                MediaKind::Video => (
                    marks::vp8(mark, layer.picture_id, layer.tl0, packet == 0, key, 300 + 300 * index + fastrand::usize(..200)),
                    params.pt(),
                ),
            };
            let mut api = rtc.direct_api();
            let Some(stream) = api.stream_tx_by_mid(mid, layer.rid) else { return };
            let ext = ExtensionValues {
                audio_level: (published.kind == MediaKind::Audio && !without_levels).then_some(-20),
                voice_activity: (published.kind == MediaKind::Audio && !without_levels).then_some(true),
                mid: Some(mid),
                rid: layer.rid,
                ..Default::default()
            };
            let write =
                RtpWrite::new(pt, layer.seq.into(), layer.time, now, payload).ext_vals(ext).marker(packet + 1 == packets).nackable(true);
            stream.write_rtp(write);
            layer.seq += 1;
        }
    }
}

impl Connection {
    fn new(spec: &ClientSpec, which: usize, now: Instant) -> Connection {
        let address = spec.address[which];
        let text = |n: usize| std::iter::repeat_with(fastrand::alphanumeric).take(n).collect::<String>();
        let mut rtc = RtcConfig::new()
            .set_rtp_mode(true)
            .set_crypto_provider(Arc::new((spec.crypto)()))
            .set_local_ice_credentials(IceCreds { ufrag: text(8), pass: text(24) })
            .clear_codecs()
            .enable_opus(true, spec.red)
            .enable_vp8(true)
            .build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        Connection {
            rtc,
            address,
            deadline: now,
            pending: None,
            changes: Vec::new(),
            receiving: Vec::new(),
            channels: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    /// Offers what changed, unless an offer is under way.
    fn offer_if_due(&mut self, published: &mut [Published]) -> Option<String> {
        if self.changes.is_empty() || self.pending.is_some() {
            return None;
        }
        let inactive: Vec<Mid> =
            self.receiving.iter().copied().filter(|m| self.rtc.media(*m).is_some_and(|m| m.direction() == Direction::Inactive)).collect();
        let mut api = self.rtc.sdp_api();
        for change in self.changes.drain(..) {
            match change {
                Change::Publish { track, kind, cid, simulcast } => {
                    let mid = api.add_media(kind, Direction::SendOnly, Some("stream".into()), Some(cid), simulcast);
                    if let Some(published) = published.iter_mut().find(|p| p.track == track) {
                        published.mid = Some(mid);
                    }
                }
                Change::Receive(kind) => self.receiving.push(api.add_media(kind, Direction::RecvOnly, None, None, None)),
                Change::Revive if inactive.is_empty() && !api.has_changes() => {
                    // str0m makes no offer without a change, as a browser would: one more section is a change.
                    self.receiving.push(api.add_media(ClientKind::Audio, Direction::RecvOnly, None, None, None));
                }
                Change::Revive => inactive.iter().for_each(|mid| api.set_direction(*mid, Direction::RecvOnly)),
                Change::Inactivate(mid) => api.set_direction(mid, Direction::Inactive),
                Change::Channel(label) => {
                    api.add_channel(label);
                }
                Change::Channels => {
                    api.add_channel("_reliable".into());
                    let lossy = Reliability::MaxRetransmits { retransmits: 0 };
                    api.add_channel_with_config(ChannelConfig {
                        label: "_lossy".into(),
                        ordered: false,
                        reliability: lossy,
                        ..Default::default()
                    });
                }
            }
        }
        let (offer, pending) = api.apply()?;
        self.pending = Some(pending);
        Some(offer.to_sdp_string())
    }

    fn event(&mut self, now: Instant, event: Event, published: &mut [Published], data: &mut Vec<(bool, Vec<u8>)>) {
        match event {
            Event::RtpPacket(packet) => self.packet(now, &packet),
            Event::ChannelOpen(id, label) => {
                self.channels.insert(label, id);
            }
            Event::ChannelData(message) => {
                let reliable = self.channels.get("_reliable") == Some(&message.id);
                data.push((reliable, message.data));
            }
            Event::KeyframeRequest(request) => {
                for track in published.iter_mut().filter(|p| p.mid == Some(request.mid)) {
                    for layer in track.layers.iter_mut().filter(|l| l.rid == request.rid) {
                        layer.key_wanted = true;
                    }
                }
            }
            _ => {}
        }
    }

    fn packet(&mut self, now: Instant, packet: &RtpPacket) {
        let params = self.rtc.codec_config().params();
        let pt = packet.header.payload_type;
        let codec = if params.iter().any(|p| p.red() == Some(pt)) {
            Codec::Red
        } else if params.iter().any(|p| p.pt() == pt && p.spec().codec == ClientCodec::Opus) {
            Codec::Opus
        } else {
            Codec::Vp8
        };
        let payload = &packet.payload[..];
        let (mark, vp8) = match codec {
            Codec::Red => {
                let blocks = red::parse(payload).expect("RED arrives whole");
                for block in &blocks {
                    marks::check(block.data);
                }
                (marks::check(blocks.last().unwrap().data), None)
            }
            Codec::Vp8 => {
                let descriptor = Vp8Descriptor::parse(payload).expect("the descriptor is whole");
                (marks::check(&payload[descriptor.len + 1..]), Some(descriptor))
            }
            _ => (marks::check(payload), None),
        };
        let received = ReceivedPacket {
            at: now,
            mark,
            timestamp: packet.header.timestamp,
            picture_id: vp8.and_then(|d| d.picture_id),
            tl0: vp8.and_then(|d| d.tl0_pic_idx),
            key_frame: vp8.is_some_and(|d| d.key_frame),
            codec,
        };
        let stream = self.received.entry(*packet.header.ssrc).or_default();
        let before = stream.packets.insert(*packet.seq_no, received);
        assert!(before.is_none(), "sequence number {} came twice", *packet.seq_no);
    }
}
