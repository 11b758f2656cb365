//! SRTP and SRTCP: sealing what we send and opening what the peer reports, for all three profiles.
//!
//! Rule of nonces: a [`Sealer`] never sees the same (SSRC, index) twice. [`super::Egress`] keeps that by u64 indices that
//! only it hands out and by SSRCs that are never reused under one key.

use std::collections::HashMap;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::keys::{MasterKey, Profile, SessionKeys};

/// Bytes of an RTCP header that stay in the clear: type, length, SSRC.
const RTCP_CLEAR: usize = 8;
/// SRTCP's E flag and index.
const SRTCP_INDEX: usize = 4;
/// SHA1-80.
const HMAC_TAG: usize = 10;

/// One direction's key for RTP or RTCP.
enum Cipher {
    Gcm {
        key: LessSafeKey,
        salt: [u8; 12],
    },
    /// Boxed: rare, and three times the size.
    Counter(Box<CounterKeys>),
}

/// Keys of AES in counter mode with HMAC-SHA1.
struct CounterKeys {
    key: EncryptingKey,
    salt: [u8; 14],
    authentication: hmac::Key,
}

impl Cipher {
    fn new(profile: Profile, keys: &SessionKeys) -> Cipher {
        match profile {
            Profile::Aes256Gcm | Profile::Aes128Gcm => {
                let algorithm = if profile == Profile::Aes256Gcm { &AES_256_GCM } else { &AES_128_GCM };
                let key = UnboundKey::new(algorithm, &keys.encryption).expect("the key has the profile's length");
                let mut salt = [0; 12];
                salt.copy_from_slice(&keys.salt);
                Cipher::Gcm { key: LessSafeKey::new(key), salt }
            }
            Profile::Aes128CmSha1 => {
                let key = UnboundCipherKey::new(&AES_128, &keys.encryption).expect("the key has the profile's length");
                let mut salt = [0; 14];
                salt.copy_from_slice(&keys.salt);
                Cipher::Counter(Box::new(CounterKeys {
                    key: EncryptingKey::ctr(key).expect("AES runs in counter mode"),
                    salt,
                    authentication: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &keys.authentication),
                }))
            }
        }
    }
}

/// RFC 7714 section 8.1.
fn gcm_rtp_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let mut iv = *salt;
    xor(&mut iv[2..6], &ssrc.to_be_bytes());
    // 32-bit roll-over counter, then the 16-bit sequence number: the 48-bit index.
    xor(&mut iv[6..12], &index.to_be_bytes()[2..8]);
    Nonce::assume_unique_for_key(iv)
}

/// RFC 7714 section 9.1.
fn gcm_rtcp_nonce(salt: &[u8; 12], ssrc: u32, index: u32) -> Nonce {
    let mut iv = *salt;
    xor(&mut iv[2..6], &ssrc.to_be_bytes());
    xor(&mut iv[8..12], &index.to_be_bytes());
    Nonce::assume_unique_for_key(iv)
}

/// RFC 3711 section 4.1.1, RTP and RTCP alike.
fn counter_block(salt: &[u8; 14], ssrc: u32, index: u64) -> EncryptionContext {
    let mut iv = [0u8; 16];
    iv[..14].copy_from_slice(salt);
    xor(&mut iv[4..8], &ssrc.to_be_bytes());
    xor(&mut iv[8..14], &index.to_be_bytes()[2..8]);
    EncryptionContext::Iv128(iv.into())
}

fn xor(target: &mut [u8], with: &[u8]) {
    for (byte, other) in target.iter_mut().zip(with) {
        *byte ^= other;
    }
}

fn sha1_80(key: &hmac::Key, parts: &[&[u8]]) -> [u8; HMAC_TAG] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let mut tag = [0; HMAC_TAG];
    tag.copy_from_slice(&context.sign().as_ref()[..HMAC_TAG]);
    tag
}

/// Seals what we send.
pub struct Sealer {
    rtp: Cipher,
    rtcp: Cipher,
    tag_len: usize,
}

impl Sealer {
    /// Derives the session keys of our direction.
    pub fn new(master: &MasterKey) -> Sealer {
        let profile = master.profile();
        Sealer {
            rtp: Cipher::new(profile, &master.derive(false)),
            rtcp: Cipher::new(profile, &master.derive(true)),
            tag_len: profile.tag_len(),
        }
    }

    /// Bytes that sealing adds to an RTP packet.
    pub fn tag_len(&self) -> usize {
        self.tag_len
    }

    /// Seals the RTP packet that begins at `start` of `out` and ends at its end: encrypts what follows `header_len` bytes
    /// and appends the tag. `index` is the extended sequence number (roll-over counter and sequence number).
    pub fn seal_rtp(&self, out: &mut Vec<u8>, start: usize, header_len: usize, ssrc: u32, index: u64) {
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let (header, payload) = out[start..].split_at_mut(header_len);
                let tag = key
                    .seal_in_place_separate_tag(gcm_rtp_nonce(salt, ssrc, index), Aad::from(&*header), payload)
                    .expect("an RTP packet is far below GCM's limit");
                out.extend_from_slice(tag.as_ref());
            }
            Cipher::Counter(keys) => {
                let CounterKeys { key, salt, authentication } = &**keys;
                key.less_safe_encrypt(&mut out[start + header_len..], counter_block(salt, ssrc, index))
                    .expect("counter mode takes any length");
                let roll_over = ((index >> 16) as u32).to_be_bytes();
                let tag = sha1_80(authentication, &[&out[start..], &roll_over]);
                out.extend_from_slice(&tag);
            }
        }
    }

    /// Seals the RTCP packet that begins at `start` of `out` and ends at its end. `index` counts SRTCP packets of this
    /// sealer, 31 bits.
    pub fn seal_rtcp(&self, out: &mut Vec<u8>, start: usize, ssrc: u32, index: u32) {
        let word = (0x8000_0000 | index).to_be_bytes();
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let mut aad = [0u8; RTCP_CLEAR + SRTCP_INDEX];
                aad[..RTCP_CLEAR].copy_from_slice(&out[start..start + RTCP_CLEAR]);
                aad[RTCP_CLEAR..].copy_from_slice(&word);
                let tag = key
                    .seal_in_place_separate_tag(gcm_rtcp_nonce(salt, ssrc, index), Aad::from(&aad), &mut out[start + RTCP_CLEAR..])
                    .expect("an RTCP packet is far below GCM's limit");
                out.extend_from_slice(tag.as_ref());
                out.extend_from_slice(&word);
            }
            Cipher::Counter(keys) => {
                let CounterKeys { key, salt, authentication } = &**keys;
                key.less_safe_encrypt(&mut out[start + RTCP_CLEAR..], counter_block(salt, ssrc, u64::from(index)))
                    .expect("counter mode takes any length");
                out.extend_from_slice(&word);
                let tag = sha1_80(authentication, &[&out[start..]]);
                out.extend_from_slice(&tag);
            }
        }
    }
}

/// SSRCs under which a peer may send RTCP: one for each of its streams, and a few of its own.
const MAX_REPORTERS: usize = 256;

/// Why an SRTCP packet gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unopened {
    /// Too short, not encrypted, or a wrong tag.
    BadTag,
    /// Its index was seen before, or is too old to know: a duplicate, or someone's replay.
    Replayed,
    /// More SSRCs than a peer may report under.
    Limit,
}

/// Opens what the peer sends: RTCP always, RTP only to judge packets that the WebRTC library did not take.
pub struct Opener {
    rtp: Cipher,
    rtcp: Cipher,
    scratch: Vec<u8>,
    reporters: HashMap<u32, ReplayWindow>,
}

/// The indices of the last 64 SRTCP packets of an SSRC (RFC 3711 section 3.3.2).
#[derive(Debug, Default)]
struct ReplayWindow {
    highest: u32,
    /// Bit n: the highest less n was seen.
    seen: u64,
}

impl ReplayWindow {
    /// Marks an index; false when it is no news.
    fn take(&mut self, index: u32) -> bool {
        if self.seen == 0 || index > self.highest {
            let step = if self.seen == 0 { 64 } else { index - self.highest };
            self.seen = self.seen.checked_shl(step).unwrap_or(0) | 1;
            self.highest = index;
            return true;
        }
        let bit = 1u64.checked_shl(self.highest - index).unwrap_or(0);
        let news = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        news
    }
}

impl Opener {
    /// Derives the session keys of the peer's direction.
    pub fn new(master: &MasterKey) -> Opener {
        let profile = master.profile();
        Opener {
            rtp: Cipher::new(profile, &master.derive(false)),
            rtcp: Cipher::new(profile, &master.derive(true)),
            scratch: Vec::new(),
            reporters: HashMap::new(),
        }
    }

    /// Whether an RTP packet's tag is right for this index.
    pub fn verify_rtp(&mut self, packet: &[u8], header_len: usize, ssrc: u32, index: u64) -> bool {
        if packet.len() < header_len {
            return false;
        }
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let (header, sealed) = packet.split_at(header_len);
                self.scratch.clear();
                self.scratch.extend_from_slice(sealed);
                key.open_in_place(gcm_rtp_nonce(salt, ssrc, index), Aad::from(header), &mut self.scratch).is_ok()
            }
            Cipher::Counter(keys) => {
                let Some(split) = packet.len().checked_sub(HMAC_TAG).filter(|split| *split >= header_len) else {
                    return false;
                };
                let roll_over = ((index >> 16) as u32).to_be_bytes();
                let tag = sha1_80(&keys.authentication, &[&packet[..split], &roll_over]);
                verify_slices_are_equal(&tag, &packet[split..]).is_ok()
            }
        }
    }

    /// Opens an SRTCP packet. The answer lives until the next call.
    ///
    /// # Errors
    ///
    /// [`Unopened`] with the reason.
    pub fn open_rtcp(&mut self, packet: &[u8]) -> Result<&[u8], Unopened> {
        let (ssrc, index) = self.decrypt_rtcp(packet).ok_or(Unopened::BadTag)?;
        if self.reporters.len() >= MAX_REPORTERS && !self.reporters.contains_key(&ssrc) {
            return Err(Unopened::Limit);
        }
        if !self.reporters.entry(ssrc).or_default().take(index) {
            return Err(Unopened::Replayed);
        }
        Ok(&self.scratch)
    }

    /// Decrypts into the scratch; the answer is SSRC and index.
    fn decrypt_rtcp(&mut self, packet: &[u8]) -> Option<(u32, u32)> {
        if packet.len() < RTCP_CLEAR + SRTCP_INDEX + HMAC_TAG {
            return None;
        }
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        self.scratch.clear();
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let (sealed, word) = packet.split_at(packet.len() - SRTCP_INDEX);
                let index = index_of(word)?;
                let mut aad = [0u8; RTCP_CLEAR + SRTCP_INDEX];
                aad[..RTCP_CLEAR].copy_from_slice(&packet[..RTCP_CLEAR]);
                aad[RTCP_CLEAR..].copy_from_slice(word);
                self.scratch.extend_from_slice(sealed);
                let opened =
                    key.open_in_place(gcm_rtcp_nonce(salt, ssrc, index), Aad::from(&aad), &mut self.scratch[RTCP_CLEAR..]).ok()?.len();
                self.scratch.truncate(RTCP_CLEAR + opened);
                Some((ssrc, index))
            }
            Cipher::Counter(keys) => {
                let CounterKeys { key, salt, authentication } = &**keys;
                let (authenticated, tag) = packet.split_at(packet.len() - HMAC_TAG);
                verify_slices_are_equal(&sha1_80(authentication, &[authenticated]), tag).ok()?;
                let (sealed, word) = authenticated.split_at(authenticated.len() - SRTCP_INDEX);
                let index = index_of(word)?;
                self.scratch.extend_from_slice(sealed);
                let block = counter_block(salt, ssrc, u64::from(index));
                key.less_safe_encrypt(&mut self.scratch[RTCP_CLEAR..], block).ok()?;
                Some((ssrc, index))
            }
        }
    }
}

/// The SRTCP index, when the packet says that it is encrypted.
fn index_of(word: &[u8]) -> Option<u32> {
    let word = u32::from_be_bytes(word.try_into().ok()?);
    (word & 0x8000_0000 != 0).then_some(word & 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::super::keys::MasterKeys;
    use super::*;

    const PROFILES: [Profile; 3] = [Profile::Aes256Gcm, Profile::Aes128Gcm, Profile::Aes128CmSha1];

    fn pair(profile: Profile) -> (Sealer, Opener) {
        let material: Vec<u8> = (0..120u8).collect();
        let client = MasterKeys::split(profile, &material, true).unwrap();
        let server = MasterKeys::split(profile, &material, false).unwrap();
        (Sealer::new(&client.local), Opener::new(&server.remote))
    }

    #[test]
    fn rtcp_opens_in_every_profile_and_a_flipped_bit_does_not() {
        for profile in PROFILES {
            let (sealer, mut opener) = pair(profile);
            let plain = [0x81, 206, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8];
            let mut packet = plain.to_vec();
            sealer.seal_rtcp(&mut packet, 0, 0x0102_0304, 7);
            assert_ne!(packet[8..12], plain[8..12]);
            assert_eq!(opener.open_rtcp(&packet), Ok(&plain[..]), "{profile:?}");
            assert_eq!(opener.open_rtcp(&packet), Err(Unopened::Replayed), "{profile:?}");
            for byte in 0..packet.len() {
                let mut broken = packet.clone();
                broken[byte] ^= 1;
                assert_eq!(opener.open_rtcp(&broken), Err(Unopened::BadTag), "{profile:?} byte {byte}");
            }
        }
    }

    #[test]
    fn a_replay_window_takes_each_index_once() {
        let mut window = ReplayWindow::default();
        assert!(window.take(5) && !window.take(5));
        assert!(window.take(3) && !window.take(3), "late, but new");
        assert!(window.take(69) && !window.take(5), "64 below is too old");
        assert!(window.take(6) && !window.take(6));
        assert!(window.take(10_000) && !window.take(69));
    }

    #[test]
    fn rtp_verifies_at_its_own_index_only() {
        for profile in PROFILES {
            let (sealer, mut opener) = pair(profile);
            let mut packet = vec![9u8; 3];
            packet.extend([0x80, 96, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 5, 1, 2, 3]);
            sealer.seal_rtp(&mut packet, 3, 12, 5, 0x1_ffff);
            assert_eq!(packet.len(), 3 + 15 + profile.tag_len());
            assert!(opener.verify_rtp(&packet[3..], 12, 5, 0x1_ffff), "{profile:?}");
            assert!(!opener.verify_rtp(&packet[3..], 12, 5, 0xffff), "{profile:?}");
            assert!(!opener.verify_rtp(&packet[3..], 12, 6, 0x1_ffff) || profile == Profile::Aes128CmSha1);
        }
    }
}
