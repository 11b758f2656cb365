//! SRTP session keys: from what DTLS exported (RFC 5764 section 4.2) to sealers and openers (RFC 3711 section 4.3,
//! RFC 7714 section 11). Place in the flow: the DTLS wrapper of `transport::identity` captures the keying material, this
//! module splits and derives, [`super::seal`] uses the result.
//!
//! Rule: a key is derived once per DTLS session; a new DTLS session means new keys and a fresh [`super::Egress`].

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};

/// Label of RFC 3711 section 4.3.2: RTP encryption key.
const LABEL_RTP_ENCRYPTION: u8 = 0;
/// Label: RTP authentication key.
const LABEL_RTP_AUTHENTICATION: u8 = 1;
/// Label: RTP salt.
const LABEL_RTP_SALT: u8 = 2;
/// Distance from an RTP label to the RTCP label of the same use.
const RTCP_LABELS: u8 = 3;

/// The SRTP protection profiles that DTLS can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// AEAD_AES_256_GCM, RFC 7714.
    Aes256Gcm,
    /// AEAD_AES_128_GCM, RFC 7714.
    Aes128Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80, RFC 3711.
    Aes128CmSha1,
}

impl Profile {
    /// Length of the master and session keys in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Profile::Aes256Gcm => 32,
            Profile::Aes128Gcm | Profile::Aes128CmSha1 => 16,
        }
    }

    /// Length of the master and session salts in bytes.
    pub const fn salt_len(self) -> usize {
        match self {
            Profile::Aes256Gcm | Profile::Aes128Gcm => 12,
            Profile::Aes128CmSha1 => 14,
        }
    }

    /// Bytes that the authentication tag adds to a packet.
    pub const fn tag_len(self) -> usize {
        match self {
            Profile::Aes256Gcm | Profile::Aes128Gcm => 16,
            Profile::Aes128CmSha1 => 10,
        }
    }
}

/// Master key and salt of one direction.
#[derive(Clone)]
pub struct MasterKey {
    profile: Profile,
    key: Vec<u8>,
    salt: Vec<u8>,
}

impl std::fmt::Debug for MasterKey {
    /// Names the profile only: keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterKey").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// Both directions of one DTLS session.
#[derive(Debug, Clone)]
pub struct MasterKeys {
    /// What we send is sealed with this one.
    pub local: MasterKey,
    /// What the peer sends opens with this one.
    pub remote: MasterKey,
}

impl MasterKeys {
    /// Splits exported keying material: client key, server key, client salt, server salt (RFC 5764 section 4.2).
    /// `client` says whether we were the DTLS client. None when the length does not fit the profile.
    pub fn split(profile: Profile, material: &[u8], client: bool) -> Option<MasterKeys> {
        let (key, salt) = (profile.key_len(), profile.salt_len());
        if material.len() < 2 * (key + salt) {
            return None;
        }
        let (keys, salts) = material.split_at(2 * key);
        let half = |index: usize| MasterKey {
            profile,
            key: keys[index * key..(index + 1) * key].to_vec(),
            salt: salts[index * salt..(index + 1) * salt].to_vec(),
        };
        let (ours, theirs) = if client { (0, 1) } else { (1, 0) };
        Some(MasterKeys { local: half(ours), remote: half(theirs) })
    }
}

/// Session keys of one direction for RTP or for RTCP.
pub(super) struct SessionKeys {
    pub(super) encryption: Vec<u8>,
    /// 20 bytes, used by [`Profile::Aes128CmSha1`] alone.
    pub(super) authentication: Vec<u8>,
    pub(super) salt: Vec<u8>,
}

impl MasterKey {
    /// The chosen profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Session keys for RTP (`rtcp` false) or RTCP, with a key derivation rate of zero.
    pub(super) fn derive(&self, rtcp: bool) -> SessionKeys {
        let base = if rtcp { RTCP_LABELS } else { 0 };
        SessionKeys {
            encryption: self.expand(base + LABEL_RTP_ENCRYPTION, self.profile.key_len()),
            authentication: self.expand(base + LABEL_RTP_AUTHENTICATION, 20),
            salt: self.expand(base + LABEL_RTP_SALT, self.profile.salt_len()),
        }
    }

    /// AES-CM as the pseudo-random function (RFC 3711 section 4.3.3; AES-256 by RFC 6188): the key stream for the block
    /// `(label << 48) XOR salt`, the salt padded on the right to 112 bits.
    fn expand(&self, label: u8, len: usize) -> Vec<u8> {
        let mut counter = [0u8; 16];
        counter[..self.salt.len()].copy_from_slice(&self.salt);
        counter[7] ^= label;
        let algorithm = if self.profile.key_len() == 32 { &AES_256 } else { &AES_128 };
        let key = UnboundCipherKey::new(algorithm, &self.key).expect("the key has the profile's length");
        let cipher = EncryptingKey::ctr(key).expect("AES runs in counter mode");
        let mut out = vec![0u8; len];
        cipher.less_safe_encrypt(&mut out, EncryptionContext::Iv128(counter.into())).expect("counter mode takes any length");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 3711 appendix B.3.
    #[test]
    fn key_derivation_equals_the_rfc_test_vectors() {
        let master = MasterKey {
            profile: Profile::Aes128CmSha1,
            key: hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
            salt: hex("0EC675AD498AFEEBB6960B3AABE6"),
        };
        let keys = master.derive(false);
        assert_eq!(keys.encryption, hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(keys.salt, hex("30CBBC08863D8C85D49DB34A9AE1"));
        assert_eq!(keys.authentication, hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
    }
}
