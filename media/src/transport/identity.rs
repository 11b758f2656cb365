//! The process's DTLS certificate and the crypto provider that lets us see the SRTP keys: str0m exports none, but its DTLS
//! is pluggable, so a wrapper around the real one notes the keying material as it passes.
//!
//! Rule: every `Rtc` is built by [`Identity::build`]; nothing else calls into the wrapper.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};
use str0m::crypto::{CryptoError, Fingerprint};
use str0m::{Rtc, RtcConfig};

use crate::egress::keys::{MasterKeys, Profile};

/// Where a DTLS session leaves its keys for the transport that owns it. Written once, at the end of the handshake.
pub(super) type KeySlot = Arc<OnceLock<MasterKeys>>;

thread_local! {
    /// Hands the slot from `new_dtls`, which str0m calls while it builds an `Rtc`, to [`Identity::build`] around it.
    static SLOT: RefCell<Option<KeySlot>> = const { RefCell::new(None) };
}

/// The process's one DTLS certificate and the crypto provider that all transports share.
pub struct Identity {
    certificate: DtlsCert,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a certificate. Once per process: a key pair costs milliseconds, and its provider lives as long as the process.
    pub fn new() -> Arc<Identity> {
        Identity::with_provider(str0m::crypto::from_feature_flags())
    }

    /// The same around another crypto provider, for simulations whose handshake must follow from a seed.
    ///
    /// # Panics
    ///
    /// When the provider cannot generate a certificate.
    pub fn with_provider(mut provider: CryptoProvider) -> Arc<Identity> {
        let certificate = provider.dtls_provider.generate_certificate().expect("the crypto provider generates certificates");
        // str0m wants a 'static provider: leaked once per process.
        provider.dtls_provider = Box::leak(Box::new(CapturingProvider { inner: provider.dtls_provider }));
        Arc::new(Identity { certificate, provider: Arc::new(provider) })
    }

    /// Builds an `Rtc` with our certificate, and the slot that its keys will appear in.
    pub(super) fn build(&self, config: RtcConfig, now: Instant) -> (Rtc, KeySlot) {
        let rtc = config.set_crypto_provider(self.provider.clone()).set_dtls_cert(self.certificate.clone()).build(now);
        let slot = SLOT.take().expect("building an Rtc makes its DTLS instance through our provider");
        (rtc, slot)
    }

    /// SHA-256 fingerprint of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { hash_func: "sha-256".to_owned(), bytes: self.provider.sha256_provider.sha256(&self.certificate.certificate).to_vec() }
    }
}

#[derive(Debug)]
struct CapturingProvider {
    inner: &'static dyn DtlsProvider,
}

impl DtlsProvider for CapturingProvider {
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
        let slot = KeySlot::default();
        SLOT.set(Some(slot.clone()));
        Ok(Box::new(CapturingInstance { inner, slot }))
    }

    fn is_test(&self) -> bool {
        self.inner.is_test()
    }
}

#[derive(Debug)]
struct CapturingInstance {
    inner: Box<dyn DtlsInstance>,
    slot: KeySlot,
}

impl DtlsInstance for CapturingInstance {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let client = self.inner.is_active();
        let output = self.inner.poll_output(buf);
        if let DtlsOutput::KeyingMaterial(material, profile) = &output {
            let profile = match profile {
                SrtpProfile::AEAD_AES_256_GCM => Some(Profile::Aes256Gcm),
                SrtpProfile::AEAD_AES_128_GCM => Some(Profile::Aes128Gcm),
                SrtpProfile::AES128_CM_SHA1_80 => Some(Profile::Aes128CmSha1),
                _ => None,
            };
            // Only the first set counts: DTLS exports once per session, and an `Egress` must never see a second one.
            if let Some(keys) = profile.and_then(|profile| MasterKeys::split(profile, material.as_ref(), client)) {
                let _ = self.slot.set(keys);
            }
        }
        output
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
