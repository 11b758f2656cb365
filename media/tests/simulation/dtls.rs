//! DTLS for simulations: a fixed two-message handshake whose keys follow from the seed, and records in the clear. It keeps DTLS's
//! contract (certificate checked against the fingerprint, keying material exported, close_notify) and none of its secrecy.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion, KeyingMaterial};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};

const HELLO: u8 = 1;
const REPLY: u8 = 2;
/// A record of this kind makes the session that reads it panic, as an unforeseen one might in a real library.
pub const FAULT: u8 = 99;
/// First bytes as DTLS has them (RFC 7983): handshake, application data, alert.
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const ALERT: u8 = 21;
const RESEND: Duration = Duration::from_millis(60);

/// str0m's provider with its DTLS replaced.
pub fn provider() -> CryptoProvider {
    let mut provider = str0m::crypto::from_feature_flags();
    provider.dtls_provider = &SimulatedDtls;
    provider
}

#[derive(Debug)]
struct SimulatedDtls;

impl DtlsProvider for SimulatedDtls {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        let bytes = || std::iter::repeat_with(|| fastrand::u8(..)).take(64).collect::<Vec<u8>>();
        Some(DtlsCert { certificate: bytes(), private_key: bytes() })
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        _: DtlsVersion,
        _: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        Ok(Box::new(Session {
            certificate: certificate.certificate.clone(),
            active: false,
            keys: None,
            peer: None,
            events: VecDeque::new(),
            now,
            resend_at: None,
            closing: false,
        }))
    }
}

#[derive(Debug)]
enum Pending {
    Packet(Vec<u8>),
    PeerCertificate(Vec<u8>),
    Keys(u64),
    Connected,
    Data(Vec<u8>),
    Closed,
}

#[derive(Debug)]
struct Session {
    certificate: Vec<u8>,
    active: bool,
    keys: Option<u64>,
    peer: Option<Vec<u8>>,
    events: VecDeque<Pending>,
    now: Instant,
    resend_at: Option<Instant>,
    closing: bool,
}

impl Session {
    fn handshake(&self, kind: u8, keys: u64) -> Pending {
        let mut bytes = vec![HANDSHAKE, 254, 253, kind];
        bytes.extend(keys.to_be_bytes());
        bytes.extend(&self.certificate);
        Pending::Packet(bytes)
    }

    fn established(&mut self, certificate: &[u8], keys: u64) {
        if self.peer.is_none() {
            self.peer = Some(certificate.to_vec());
            self.keys = Some(keys);
            self.resend_at = None;
            self.events.push_back(Pending::PeerCertificate(certificate.to_vec()));
            self.events.push_back(Pending::Keys(keys));
            self.events.push_back(Pending::Connected);
        }
    }
}

impl DtlsInstance for Session {
    fn set_active(&mut self, active: bool) {
        self.active = active;
        if active && self.keys.is_none() {
            let keys = fastrand::u64(..);
            self.keys = Some(keys);
            self.events.push_back(self.handshake(HELLO, keys));
            self.resend_at = Some(self.now + RESEND);
        }
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        match *packet {
            [HANDSHAKE, _, _, HELLO, ref rest @ ..] if !self.active && rest.len() > 8 => {
                let keys = u64::from_be_bytes(rest[..8].try_into().unwrap());
                self.established(&rest[8..], keys);
                let keys = self.keys.unwrap();
                self.events.push_back(self.handshake(REPLY, keys));
            }
            [HANDSHAKE, _, _, REPLY, ref rest @ ..] if self.active && rest.len() > 8 => {
                let keys = u64::from_be_bytes(rest[..8].try_into().unwrap());
                if self.keys == Some(keys) {
                    self.established(&rest[8..], keys);
                }
            }
            [HANDSHAKE, _, _, FAULT, ..] => panic!("a fault in DTLS"),
            [DATA, ref rest @ ..] if self.peer.is_some() => self.events.push_back(Pending::Data(rest.to_vec())),
            [ALERT, ..] if self.peer.is_some() => self.events.push_back(Pending::Closed),
            _ => {}
        }
        Ok(())
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let Some(pending) = self.events.pop_front() else {
            return DtlsOutput::Timeout(self.resend_at.unwrap_or(self.now + Duration::from_secs(3600)));
        };
        let copy = |buf: &'a mut [u8], bytes: &[u8]| -> &'a [u8] {
            buf[..bytes.len()].copy_from_slice(bytes);
            &buf[..bytes.len()]
        };
        match pending {
            Pending::Packet(bytes) => DtlsOutput::Packet(copy(buf, &bytes)),
            Pending::PeerCertificate(bytes) => DtlsOutput::PeerCert(copy(buf, &bytes)),
            Pending::Data(bytes) => DtlsOutput::ApplicationData(copy(buf, &bytes)),
            Pending::Keys(seed) => DtlsOutput::KeyingMaterial(keying_material(seed), SrtpProfile::AEAD_AES_256_GCM),
            Pending::Connected => DtlsOutput::Connected,
            Pending::Closed => DtlsOutput::CloseNotify,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.now = now;
        if let (Some(at), Some(keys)) = (self.resend_at, self.keys)
            && now >= at
        {
            self.events.push_back(self.handshake(HELLO, keys));
            self.resend_at = Some(now + RESEND);
        }
        Ok(())
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        if self.peer.is_none() {
            return Ok(0);
        }
        self.events.push_back(Pending::Packet([&[DATA], data].concat()));
        Ok(data.len())
    }

    fn is_active(&self) -> bool {
        self.active
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.peer.as_ref().map(|_| ProtocolVersion::DTLS1_2)
    }

    fn is_closing(&self) -> bool {
        self.closing
    }

    fn is_closed(&self) -> bool {
        self.closing && self.events.is_empty()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        if !self.closing && self.peer.is_some() {
            self.events.push_back(Pending::Packet(vec![ALERT, 254, 253, 0]));
        }
        self.closing = true;
        Ok(())
    }
}

/// Keys of one session: client key, server key, client salt, server salt of AES-256-GCM.
fn keying_material(seed: u64) -> KeyingMaterial {
    let mut rng = fastrand::Rng::with_seed(seed);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(SrtpProfile::AEAD_AES_256_GCM.keying_material_len()).collect();
    KeyingMaterial::new(&bytes)
}
