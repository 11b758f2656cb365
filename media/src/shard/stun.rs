//! Just enough STUN (RFC 8489) to find the peer that a datagram is for: is it STUN, is it a request, whose ufrag is in USERNAME.
//!
//! The message itself is checked and answered by the transport. Rule: any bytes are taken.

/// What a datagram is, by its first byte (RFC 7983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// A binding request; `ufrag` is the receiver's half of USERNAME.
    StunRequest {
        /// Our ufrag.
        ufrag: &'a str,
    },
    /// Other STUN: a response or indication, known by its source address.
    Stun,
    /// STUN by its first byte but not readable.
    Malformed,
    /// DTLS, SRTP or SRTCP.
    Session,
    /// Nothing that we speak.
    Unknown,
}

const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const USERNAME: u16 = 0x0006;

/// Looks at a datagram.
pub fn classify(datagram: &[u8]) -> Datagram<'_> {
    match datagram.first() {
        Some(0..=3) => stun(datagram).unwrap_or(Datagram::Malformed),
        Some(20..=63 | 128..=191) => Datagram::Session,
        _ => Datagram::Unknown,
    }
}

fn stun(datagram: &[u8]) -> Option<Datagram<'_>> {
    let header = datagram.get(..HEADER)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != MAGIC_COOKIE || length % 4 != 0 || datagram.len() != HEADER + length {
        return None;
    }
    if kind != BINDING_REQUEST {
        return Some(Datagram::Stun);
    }
    let mut rest = &datagram[HEADER..];
    while let [t0, t1, l0, l1, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(4..4 + len)?;
        if u16::from_be_bytes([t0, t1]) == USERNAME {
            let name = std::str::from_utf8(value).ok()?;
            let (ufrag, _) = name.split_once(':')?;
            return Some(Datagram::StunRequest { ufrag });
        }
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(username: &[u8]) -> Vec<u8> {
        let padded = username.len().next_multiple_of(4);
        let mut bytes = vec![0, 1, 0, (4 + padded) as u8];
        bytes.extend(MAGIC_COOKIE);
        bytes.extend([7; 12]);
        bytes.extend([0, 6, 0, username.len() as u8]);
        bytes.extend(username);
        bytes.resize(24 + padded, 0);
        bytes
    }

    #[test]
    fn a_binding_request_names_our_ufrag() {
        assert_eq!(classify(&request(b"0aXYZ:them")), Datagram::StunRequest { ufrag: "0aXYZ" });
    }

    #[test]
    fn truncated_or_nameless_requests_are_malformed() {
        let whole = request(b"ours:theirs");
        for cut in 1..whole.len() {
            assert_eq!(classify(&whole[..cut]), Datagram::Malformed, "cut at {cut}");
        }
        assert_eq!(classify(&request(b"no colon")), Datagram::Malformed);
    }

    #[test]
    fn the_first_byte_tells_the_protocols_apart() {
        assert_eq!(classify(&[22, 254, 253]), Datagram::Session);
        assert_eq!(classify(&[0x80, 96]), Datagram::Session);
        assert_eq!(classify(&[0x40]), Datagram::Unknown);
        assert_eq!(classify(&[]), Datagram::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), first in 0u8..4) {
            classify(&bytes);
            if bytes.len() >= HEADER {
                let len = (bytes.len() - HEADER) as u16;
                bytes[0] = 0;
                bytes[1] = first;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
                classify(&bytes);
            }
        }
    }
}
