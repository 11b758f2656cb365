//! Data packets (`livekit.DataPacket`): read, stamped with their sender, bounded.
//!
//! Rule: nobody speaks in another's name: sender fields are always overwritten. A sender that floods is dropped from, counted,
//! and disturbs nobody else.

use std::time::Instant;

use auralink_proto::livekit::{self, data_packet};
use prost::Message;

/// Largest data packet that is taken, bytes. LiveKit's clients split streams into 15,000-byte chunks; SCTP messages beyond 64 KiB
/// are not portable.
pub const MAX_PACKET: usize = 65_535;

/// Messages a second that one participant may send, over time, and at once.
const MESSAGES_PER_SECOND: f64 = 1_000.0;
const MESSAGE_BURST: f64 = 2_000.0;
/// Bytes a second that one participant may send, over time, and at once. Enough for a file at 32 Mbit/s.
const BYTES_PER_SECOND: f64 = 4_000_000.0;
const BYTE_BURST: f64 = 8_000_000.0;

/// What one participant may still send.
#[derive(Debug)]
pub struct SenderBudget {
    messages: f64,
    bytes: f64,
    filled: Instant,
}

impl SenderBudget {
    /// A full one.
    pub fn new(now: Instant) -> SenderBudget {
        SenderBudget { messages: MESSAGE_BURST, bytes: BYTE_BURST, filled: now }
    }

    /// Takes one message of `bytes` out; false when it is over the bound.
    pub fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.messages = (self.messages + seconds * MESSAGES_PER_SECOND).min(MESSAGE_BURST);
        self.bytes = (self.bytes + seconds * BYTES_PER_SECOND).min(BYTE_BURST);
        if self.messages < 1.0 || self.bytes < bytes as f64 {
            return false;
        }
        self.messages -= 1.0;
        self.bytes -= bytes as f64;
        true
    }
}

/// Reads a packet and puts the sender's name into it. `None`: it is not a data packet, or empty.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
pub fn stamp(bytes: &[u8], sid: &str, identity: &str, reliable: bool) -> Option<livekit::DataPacket> {
    if bytes.len() > MAX_PACKET {
        return None;
    }
    let mut packet = livekit::DataPacket::decode(bytes).ok()?;
    let kind = if reliable { data_packet::Kind::Reliable } else { data_packet::Kind::Lossy };
    packet.kind = kind as i32;
    sid.clone_into(&mut packet.participant_sid);
    identity.clone_into(&mut packet.participant_identity);
    match packet.value.as_mut()? {
        data_packet::Value::User(user) => {
            sid.clone_into(&mut user.participant_sid);
            identity.clone_into(&mut user.participant_identity);
            // Where older clients say to whom.
            if packet.destination_identities.is_empty() {
                packet.destination_identities.clone_from(&user.destination_identities);
            } else if user.destination_identities.is_empty() {
                user.destination_identities.clone_from(&packet.destination_identities);
            }
        }
        // The server alone says who speaks.
        data_packet::Value::Speaker(_) => return None,
        _ => {}
    }
    Some(packet)
}

/// What came over a channel of a client's own as a user packet of its. `None`: empty, or with the packet around it too large.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
pub fn wrap(bytes: &[u8], sid: &str, identity: &str) -> Option<livekit::DataPacket> {
    let user = livekit::UserPacket {
        payload: bytes.to_vec(),
        participant_sid: sid.to_owned(),
        participant_identity: identity.to_owned(),
        ..Default::default()
    };
    let packet = livekit::DataPacket {
        kind: data_packet::Kind::Reliable as i32,
        participant_sid: sid.to_owned(),
        participant_identity: identity.to_owned(),
        value: Some(data_packet::Value::User(user)),
        ..Default::default()
    };
    (!bytes.is_empty() && packet.encoded_len() <= MAX_PACKET).then_some(packet)
}

#[cfg(test)]
#[allow(deprecated)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn user(to: &[&str], claimed: &str) -> Vec<u8> {
        livekit::DataPacket {
            participant_identity: claimed.to_owned(),
            participant_sid: "PA_other".to_owned(),
            destination_identities: to.iter().map(|s| s.to_string()).collect(),
            value: Some(data_packet::Value::User(livekit::UserPacket {
                payload: b"hi".to_vec(),
                participant_identity: claimed.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn nobody_speaks_in_anothers_name() {
        let packet = stamp(&user(&["bob"], "mallory"), "PA_1", "alice", true).unwrap();
        assert_eq!((packet.participant_identity.as_str(), packet.participant_sid.as_str()), ("alice", "PA_1"));
        let Some(data_packet::Value::User(user)) = packet.value else { panic!() };
        assert_eq!((user.participant_identity.as_str(), user.participant_sid.as_str()), ("alice", "PA_1"));
        assert_eq!(user.destination_identities, ["bob"]);
    }

    #[test]
    fn what_is_empty_or_too_large_is_refused() {
        assert!(stamp(&[], "PA_1", "alice", true).is_none());
        assert!(stamp(&vec![0; MAX_PACKET + 1], "PA_1", "alice", true).is_none());
    }

    #[test]
    fn bare_bytes_become_a_user_packet_unless_they_are_none_or_too_many() {
        let packet = wrap(b"\xff\x00", "PA_1", "alice").unwrap();
        assert_eq!((packet.participant_identity.as_str(), packet.participant_sid.as_str()), ("alice", "PA_1"));
        let Some(data_packet::Value::User(user)) = packet.value else { panic!() };
        assert_eq!((&user.payload[..], user.participant_identity.as_str()), (&b"\xff\x00"[..], "alice"));
        assert!(wrap(b"", "PA_1", "alice").is_none());
        assert!(wrap(&vec![0; MAX_PACKET - 100], "PA_1", "alice").is_some());
        assert!(wrap(&vec![0; MAX_PACKET], "PA_1", "alice").is_none());
    }

    #[test]
    fn a_flood_is_bounded_and_the_budget_fills_again() {
        let now = Instant::now();
        let mut budget = SenderBudget::new(now);
        let taken = (0..10_000).filter(|_| budget.take(now, 100)).count();
        assert_eq!(taken, MESSAGE_BURST as usize);
        assert!(budget.take(now + Duration::from_secs(1), 100));
        assert!(!budget.take(now + Duration::from_secs(1), BYTE_BURST as usize + 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            stamp(&bytes, "PA_1", "alice", false);
        }
    }
}
