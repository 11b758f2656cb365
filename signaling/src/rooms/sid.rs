//! Server-made identifiers as LiveKit writes them: a prefix and twelve letters of an alphabet without look-alikes.

use aws_lc_rs::rand;

const ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const LETTERS: usize = 12;

/// Prefix of a room's sid.
pub const ROOM: &str = "RM_";
/// Prefix of a participant's sid.
pub const PARTICIPANT: &str = "PA_";

/// A new identifier: 70 bits from the system's cryptographic source.
pub fn new(prefix: &str) -> String {
    let mut sid = String::with_capacity(prefix.len() + LETTERS);
    sid.push_str(prefix);
    let mut bytes = [0u8; 32];
    let mut letters = 0;
    while letters < LETTERS {
        rand::fill(&mut bytes).expect("the system's random source answers");
        // 228 is the largest multiple of 57 in a byte: larger ones would favour the first letters.
        for byte in bytes.iter().filter(|byte| **byte < 228).take(LETTERS - letters) {
            sid.push(char::from(ALPHABET[usize::from(byte % 57)]));
            letters += 1;
        }
    }
    sid
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn sids_are_prefixed_and_differ() {
        let sids: HashSet<String> = (0..1000).map(|_| new(PARTICIPANT)).collect();
        assert_eq!(sids.len(), 1000);
        for sid in sids {
            assert_eq!(sid.len(), 15);
            assert!(sid.starts_with("PA_") && sid[3..].bytes().all(|byte| ALPHABET.contains(&byte)), "{sid}");
        }
    }
}
