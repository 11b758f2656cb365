//! A transport and a client joined by a network in memory, under a clock that only the test moves.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_media::packet::{Codec, Extensions, MediaKind};
use auralink_media::transport::{
    Identity, OutgoingRtp, RemoteAnswer, RemoteCandidate, RemoteOffer, SendId, SendSlab, SendTrack, Sent, Transport, TransportConfig,
    TransportEvent, TransportOutput,
};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion, KeyingMaterial};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpPacket;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

/// One-way delay of the network unless a test says otherwise.
pub const DELAY: Duration = Duration::from_millis(5);

/// A datagram under way.
#[derive(Debug, Clone)]
pub struct Packet {
    pub at: Instant,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub bytes: Vec<u8>,
}

impl Packet {
    pub fn is_rtp(&self) -> bool {
        self.bytes[0] & 0xc0 == 0x80 && !(64..96).contains(&(self.bytes[1] & 0x7f))
    }

    pub fn is_rtcp(&self) -> bool {
        self.bytes[0] & 0xc0 == 0x80 && (64..96).contains(&(self.bytes[1] & 0x7f))
    }
}

/// The independent client.
pub struct Client {
    pub rtc: Rtc,
    pub address: SocketAddr,
    pub events: Vec<Event>,
    pub rtp: Vec<RtpPacket>,
    deadline: Instant,
}

/// What the network does with a datagram: None drops it, else its delay.
pub type Fate = Box<dyn FnMut(&Packet) -> Option<Duration>>;

pub struct World {
    pub now: Instant,
    pub server: Transport,
    pub server_address: SocketAddr,
    pub client: Client,
    pub events: Vec<TransportEvent>,
    pub fate: Fate,
    /// Everything the server sent, as it was.
    pub sent: Vec<Packet>,
    slab: SendSlab,
    wire: VecDeque<Packet>,
    server_deadline: Instant,
}

pub struct Setup {
    pub offerer: bool,
    pub ice_lite: bool,
    pub profile: Option<SrtpProfile>,
    pub client: fn(RtcConfig) -> RtcConfig,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { offerer: true, ice_lite: false, profile: None, client: |config| config }
    }
}

pub fn server_address() -> SocketAddr {
    "10.0.0.1:7882".parse().unwrap()
}

/// A trickled line as signaling reads it.
pub fn candidate(line: &str) -> RemoteCandidate {
    RemoteCandidate::parse(line).unwrap().expect("a line that can be used")
}

impl World {
    pub fn new(setup: Setup) -> World {
        let now = Instant::now();
        let provider = forced_provider(setup.profile);
        let identity = Identity::with_provider(provider.clone());
        World::with_identity(setup, &identity, provider, now)
    }

    fn with_identity(setup: Setup, identity: &Arc<Identity>, provider: CryptoProvider, now: Instant) -> World {
        let server = Transport::new(
            TransportConfig {
                ice_ufrag: "s0abcdefgh".to_owned(),
                ice_pwd: "a-password-of-enough-letters".to_owned(),
                candidates: vec![server_address()],
                ice_lite: setup.ice_lite,
                offerer: setup.offerer,
                seed: 7,
            },
            identity,
            now,
        );
        let address: SocketAddr = "10.0.0.2:5000".parse().unwrap();
        let config = RtcConfig::new()
            .set_rtp_mode(true)
            .set_crypto_provider(Arc::new(provider))
            .enable_opus(true, true)
            .set_rtcp_report_interval_audio(Duration::from_secs(1));
        let mut rtc = (setup.client)(config).build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        World {
            now,
            server,
            server_address: server_address(),
            client: Client { rtc, address, events: vec![], rtp: vec![], deadline: now },
            events: vec![],
            fate: Box::new(|_| Some(DELAY)),
            sent: vec![],
            slab: SendSlab::default(),
            wire: VecDeque::new(),
            server_deadline: now,
        }
    }

    /// The server offers, the client answers.
    pub fn negotiate(&mut self) -> bool {
        let Some(offer) = self.server.create_offer(self.now) else {
            return false;
        };
        let offer = SdpOffer::from_sdp_string(&offer.sdp).expect("the client reads our offer");
        let answer = self.client.rtc.sdp_api().accept_offer(offer).expect("the client takes our offer");
        self.server.accept_answer(self.now, RemoteAnswer::parse(&answer.to_sdp_string()).unwrap()).expect("the server takes the answer");
        self.settle();
        true
    }

    /// The client offers what it prepared, the server answers.
    pub fn client_offers(&mut self, offer: SdpOffer, pending: SdpPendingOffer) -> String {
        let answer =
            self.server.accept_offer(self.now, RemoteOffer::parse(&offer.to_sdp_string()).unwrap()).expect("the server takes the offer");
        let parsed = SdpAnswer::from_sdp_string(&answer.sdp).expect("the client reads our answer");
        self.client.rtc.sdp_api().accept_answer(pending, parsed).expect("the client takes the answer");
        self.settle();
        answer.sdp
    }

    /// Negotiates and runs until both sides are connected.
    pub fn connect(&mut self) {
        self.negotiate();
        self.run_until_connected();
    }

    pub fn run_until_connected(&mut self) {
        for _ in 0..100 {
            self.run(Duration::from_millis(50));
            if self.server.is_connected() && self.client.rtc.is_connected() {
                return;
            }
        }
        panic!("not connected after 5 s: server {}", self.server.is_connected());
    }

    /// Lets everything that is due happen for a time.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let next =
                self.wire.iter().map(|packet| packet.at).chain([self.server_deadline, self.client.deadline]).min().unwrap().max(self.now);
            if next > end {
                break;
            }
            // A machine that names the same instant for ever would hang the shard: time moves by a microsecond at least.
            self.now = next.max(self.now + Duration::from_micros(1)).min(end.max(self.now + Duration::from_micros(1)));
            self.deliver();
        }
        self.now = self.now.max(end);
        self.deliver();
        self.settle();
    }

    fn deliver(&mut self) {
        let mut due: Vec<Packet> = self.wire.iter().filter(|packet| packet.at <= self.now).cloned().collect();
        self.wire.retain(|packet| packet.at > self.now);
        due.sort_by_key(|packet| packet.at);
        for packet in due {
            if packet.destination == self.server_address {
                self.reach_server(packet.source, &packet.bytes);
            } else {
                let receive = Receive::new(Protocol::Udp, packet.source, packet.destination, &packet.bytes);
                if let Ok(receive) = receive {
                    let input = Input::Receive(self.now, receive);
                    if self.client.rtc.accepts(&input) {
                        self.client.rtc.handle_input(input).unwrap();
                    }
                }
                self.settle();
            }
        }
        if self.server_deadline <= self.now {
            self.server.handle_timeout(self.now, &mut self.slab);
        }
        if self.client.deadline <= self.now {
            self.client.rtc.handle_input(Input::Timeout(self.now)).unwrap();
        }
    }

    /// Hands bytes to the server as if they had come from `source`.
    pub fn reach_server(&mut self, source: SocketAddr, bytes: &[u8]) {
        self.server.handle_datagram(self.now, source, self.server_address, bytes, &mut self.slab);
        self.settle();
    }

    /// Drains both machines.
    pub fn settle(&mut self) {
        loop {
            match self.server.poll_output(self.now, &mut self.slab) {
                TransportOutput::Event(event) => self.events.push(event),
                TransportOutput::Timeout(deadline) => {
                    self.server_deadline = deadline;
                    break;
                }
            }
        }
        for datagram in std::mem::take(&mut self.slab.datagrams) {
            let range = datagram.start as usize..(datagram.start + datagram.len) as usize;
            let packet =
                Packet { at: self.now, source: datagram.source, destination: datagram.destination, bytes: self.slab.bytes[range].to_vec() };
            self.sent.push(packet.clone());
            self.launch(packet);
        }
        self.slab.bytes.clear();
        loop {
            match self.client.rtc.poll_output().unwrap() {
                Output::Timeout(deadline) => {
                    self.client.deadline = deadline;
                    break;
                }
                Output::Transmit(transmit) => self.launch(Packet {
                    at: self.now,
                    source: transmit.source,
                    destination: transmit.destination,
                    bytes: transmit.contents.to_vec(),
                }),
                Output::Event(Event::RtpPacket(packet)) => self.client.rtp.push(packet),
                Output::Event(event) => self.client.events.push(event),
            }
        }
    }

    fn launch(&mut self, mut packet: Packet) {
        if let Some(delay) = (self.fate)(&packet) {
            packet.at = self.now + delay;
            self.wire.push_back(packet);
        }
    }

    pub fn send(&mut self, send: SendId, codec: Codec, seq: u64, timestamp: u32, body: &[u8]) -> Sent {
        self.send_with(send, codec, seq, timestamp, &Extensions::default(), body)
    }

    pub fn send_with(&mut self, send: SendId, codec: Codec, seq: u64, timestamp: u32, ext: &Extensions, body: &[u8]) -> Sent {
        let packet = OutgoingRtp { seq, timestamp, marker: true, codec, ext, head: &[], body };
        let sent = self.server.send_rtp(self.now, send, &packet, &mut self.slab);
        self.settle();
        sent
    }

    pub fn resend(&mut self, send: SendId, codec: Codec, seq: u64, timestamp: u32, body: &[u8]) -> Sent {
        let ext = Extensions::default();
        let packet = OutgoingRtp { seq, timestamp, marker: true, codec, ext: &ext, head: &[], body };
        let sent = self.server.send_retransmission(self.now, send, &packet, &mut self.slab);
        self.settle();
        sent
    }

    /// Negotiated sends of the last negotiation: track -> (mid, codecs).
    pub fn negotiated(&self) -> HashMap<SendId, (String, Vec<Codec>)> {
        self.events
            .iter()
            .rev()
            .find_map(|event| match event {
                TransportEvent::Negotiated { sends } => {
                    Some(sends.iter().map(|(mid, send, codecs)| (*send, (mid.clone(), codecs.clone()))).collect())
                }
                _ => None,
            })
            .unwrap_or_default()
    }
}

pub fn track(kind: MediaKind, name: &str, codecs: &[Codec]) -> SendTrack {
    SendTrack { kind, stream_id: format!("PA_x|TR_{name}"), track_id: format!("TR_{name}"), codecs: codecs.to_vec() }
}

/// The real provider; with a profile, both sides take the exported keying material for that profile's. DTLS chooses one
/// profile by a fixed preference, so this is how the other two are reached.
fn forced_provider(profile: Option<SrtpProfile>) -> CryptoProvider {
    let mut provider = str0m::crypto::from_feature_flags();
    if let Some(profile) = profile {
        provider.dtls_provider = Box::leak(Box::new(ForcedProvider { inner: provider.dtls_provider, profile }));
    }
    provider
}

#[derive(Debug)]
struct ForcedProvider {
    inner: &'static dyn DtlsProvider,
    profile: SrtpProfile,
}

impl DtlsProvider for ForcedProvider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        self.inner.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = self.inner.new_dtls(certificate, now, version, mtu)?;
        Ok(Box::new(ForcedInstance { inner, profile: self.profile }))
    }
}

#[derive(Debug)]
struct ForcedInstance {
    inner: Box<dyn DtlsInstance>,
    profile: SrtpProfile,
}

impl DtlsInstance for ForcedInstance {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }
    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }
    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.inner.poll_output(buf) {
            DtlsOutput::KeyingMaterial(material, _) => {
                let material = KeyingMaterial::new(&material.as_ref()[..self.profile.keying_material_len()]);
                DtlsOutput::KeyingMaterial(material, self.profile)
            }
            other => other,
        }
    }
    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }
    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }
    fn is_active(&self) -> bool {
        self.inner.is_active()
    }
    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }
    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }
    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
