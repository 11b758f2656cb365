//! Where ICE credentials and stream numbers come from: the system's cryptographic generator, or a seed in a simulation.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Characters of ICE credentials (RFC 8445 allows these and `+`, `/`).
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Characters of the random part of a ufrag: 71 bits.
const UFRAG_RANDOM: usize = 12;
/// Characters of a password: 143 bits (RFC 8445 asks for 128).
const PASSWORD: usize = 24;

/// A source of randomness.
#[derive(Debug)]
pub enum Entropy {
    /// Production.
    System(SystemRandom),
    /// Simulation: the same numbers from the same seed.
    Seeded(fastrand::Rng),
}

impl Entropy {
    /// The system's generator.
    pub fn system() -> Entropy {
        Entropy::System(SystemRandom::new())
    }

    /// A reproducible one. Never for a real network.
    pub fn seeded(seed: u64) -> Entropy {
        Entropy::Seeded(fastrand::Rng::with_seed(seed))
    }

    /// A random number.
    pub fn next_u64(&mut self) -> u64 {
        match self {
            Entropy::System(system) => {
                let mut bytes = [0; 8];
                system.fill(&mut bytes).expect("the operating system gives random bytes");
                u64::from_ne_bytes(bytes)
            }
            Entropy::Seeded(rng) => rng.u64(..),
        }
    }

    /// A ufrag that names shard `shard`, and a password.
    pub fn ice_credentials(&mut self, shard: u16) -> (String, String) {
        (format!("{}{}", shard_prefix(shard), self.text(UFRAG_RANDOM)), self.text(PASSWORD))
    }

    fn text(&mut self, len: usize) -> String {
        let mut text = String::with_capacity(len);
        while text.len() < len {
            for byte in self.next_u64().to_ne_bytes() {
                // Six bits of each byte; the two values beyond the alphabet are drawn again, so all letters are equally likely.
                if let Some(&letter) = ALPHABET.get(usize::from(byte & 0x3f))
                    && text.len() < len
                {
                    text.push(char::from(letter));
                }
            }
        }
        text
    }
}

/// How a ufrag of this shard begins: two letters.
pub fn shard_prefix(shard: u16) -> String {
    let letter = |n: u16| char::from(ALPHABET[usize::from(n) % ALPHABET.len()]);
    [letter(shard / ALPHABET.len() as u16), letter(shard)].iter().collect()
}

/// The shard that a ufrag names.
pub fn shard_of(ufrag: &str) -> Option<u16> {
    let digit = |byte: u8| ALPHABET.iter().position(|&b| b == byte).map(|p| p as u16);
    match ufrag.as_bytes() {
        [high, low, ..] => Some(digit(*high)? * ALPHABET.len() as u16 + digit(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ufrag_names_its_shard() {
        let mut entropy = Entropy::system();
        for shard in [0, 1, 61, 62, 500] {
            let (ufrag, password) = entropy.ice_credentials(shard);
            assert_eq!(shard_of(&ufrag), Some(shard));
            assert_eq!((ufrag.len(), password.len()), (14, 24));
        }
    }

    #[test]
    fn a_seed_gives_the_same_credentials_and_the_system_never_does() {
        assert_eq!(Entropy::seeded(7).ice_credentials(3), Entropy::seeded(7).ice_credentials(3));
        assert_ne!(Entropy::system().ice_credentials(3), Entropy::system().ice_credentials(3));
    }
}
