//! Data packets (`livekit.DataPacket`): read, stamped with their sender, bounded.
//!
//! Rule: nobody speaks in another's name: sender fields are always overwritten, and what names another inside is refused. Agents,
//! which turn others' speech into text, are excepted where LiveKit's are: transcriptions, the header of a text stream, chat messages.
//! A sender that floods is dropped from, counted, and disturbs nobody else.

use std::collections::HashMap;
use std::time::Instant;

use auralink_proto::livekit::data_stream::header::ContentHeader;
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

/// Topic of text streams that carry captions, and the attribute that says whose track they write down.
const CAPTIONS: &str = "lk.transcription";
const CAPTIONED_TRACK: &str = "lk.transcribed_track_id";
/// Numbers of a metrics batch from here on stand for its own strings; those below, for labels that everyone knows.
const FIRST_STRING: u32 = livekit::MetricLabel::PredefinedMaxValue as u32;

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

/// Who sends.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// `PA_...`.
    pub sid: &'a str,
    /// Identity.
    pub identity: &'a str,
    /// An agent by its token.
    pub agent: bool,
}

/// Why a packet is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No data packet, or an empty or too large one.
    #[error("it cannot be read, is empty, or longer than {MAX_PACKET} bytes")]
    Unreadable,
    /// It speaks of someone for whom its sender may not speak.
    #[error("it speaks in the name of someone else, which is for agents: their token says `kind: agent`")]
    AnothersName,
}

/// Reads a packet and puts the sender's name into it. `owns` says whether a track, by its sid, is the sender's.
///
/// # Errors
///
/// [`Refused`]: it is not forwarded.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
pub fn stamp(bytes: &[u8], sender: Sender<'_>, owns: impl Fn(&str) -> bool, reliable: bool) -> Result<livekit::DataPacket, Refused> {
    if bytes.len() > MAX_PACKET {
        return Err(Refused::Unreadable);
    }
    let mut packet = livekit::DataPacket::decode(bytes).map_err(|_| Refused::Unreadable)?;
    let kind = if reliable { data_packet::Kind::Reliable } else { data_packet::Kind::Lossy };
    packet.kind = kind as i32;
    sender.sid.clone_into(&mut packet.participant_sid);
    let speaks_for = std::mem::replace(&mut packet.participant_identity, sender.identity.to_owned());
    let speaks_for = Some(speaks_for).filter(|name| sender.agent && !name.is_empty() && name != sender.identity);
    let of_anothers_track = |attributes: &HashMap<String, String>| {
        let track = attributes.get(CAPTIONED_TRACK).filter(|track| !track.is_empty());
        !sender.agent && track.is_some_and(|track| !owns(track))
    };
    match packet.value.as_mut().ok_or(Refused::Unreadable)? {
        data_packet::Value::User(user) => {
            sender.sid.clone_into(&mut user.participant_sid);
            sender.identity.clone_into(&mut user.participant_identity);
            // Where older clients say to whom.
            if packet.destination_identities.is_empty() {
                packet.destination_identities.clone_from(&user.destination_identities);
            } else if user.destination_identities.is_empty() {
                user.destination_identities.clone_from(&packet.destination_identities);
            }
        }
        // The server alone says who speaks.
        data_packet::Value::Speaker(_) => return Err(Refused::AnothersName),
        data_packet::Value::Transcription(_) if !sender.agent => return Err(Refused::AnothersName),
        data_packet::Value::ChatMessage(message) => {
            if let Some(name) = speaks_for {
                message.generated = true;
                packet.participant_identity = name;
            }
        }
        data_packet::Value::StreamHeader(header) => match (&mut header.content_header, speaks_for) {
            (Some(ContentHeader::TextHeader(text)), Some(name)) => {
                text.generated = true;
                packet.participant_identity = name;
            }
            _ if header.topic == CAPTIONS && of_anothers_track(&header.attributes) => return Err(Refused::AnothersName),
            _ => {}
        },
        // At its end a stream may change the attributes of its header.
        data_packet::Value::StreamTrailer(trailer) if of_anothers_track(&trailer.attributes) => return Err(Refused::AnothersName),
        data_packet::Value::Metrics(metrics) if !sender.agent && !is_about(metrics, sender.identity) => return Err(Refused::AnothersName),
        _ => {}
    }
    Ok(packet)
}

/// Every metric of the batch is of this participant, or of nobody.
fn is_about(metrics: &livekit::MetricsBatch, identity: &str) -> bool {
    let series = metrics.time_series.iter().map(|series| series.participant_identity);
    series.chain(metrics.events.iter().map(|event| event.participant_identity)).all(|named| {
        let name = named.checked_sub(FIRST_STRING).and_then(|index| metrics.str_data.get(index as usize));
        name.is_none_or(|name| name.is_empty() || name == identity)
    })
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

    const ALICE: Sender<'_> = Sender { sid: "PA_1", identity: "alice", agent: false };
    const AGENT: Sender<'_> = Sender { sid: "PA_2", identity: "scribe", agent: true };

    fn no_track(_: &str) -> bool {
        false
    }

    /// A packet that claims to be bob's.
    fn of_bob(value: data_packet::Value) -> Vec<u8> {
        livekit::DataPacket { participant_identity: "bob".to_owned(), value: Some(value), ..Default::default() }.encode_to_vec()
    }

    fn transcription() -> Vec<u8> {
        let transcription = livekit::Transcription { transcribed_participant_identity: "bob".to_owned(), ..Default::default() };
        of_bob(data_packet::Value::Transcription(transcription))
    }

    fn captions(track: Option<&str>) -> Vec<u8> {
        let header = livekit::data_stream::Header {
            topic: CAPTIONS.to_owned(),
            attributes: track.map(|track| (CAPTIONED_TRACK.to_owned(), track.to_owned())).into_iter().collect(),
            content_header: Some(ContentHeader::TextHeader(Default::default())),
            ..Default::default()
        };
        of_bob(data_packet::Value::StreamHeader(header))
    }

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
        let packet = stamp(&user(&["bob"], "mallory"), ALICE, no_track, true).unwrap();
        assert_eq!((packet.participant_identity.as_str(), packet.participant_sid.as_str()), ("alice", "PA_1"));
        let Some(data_packet::Value::User(user)) = packet.value else { panic!() };
        assert_eq!((user.participant_identity.as_str(), user.participant_sid.as_str()), ("alice", "PA_1"));
        assert_eq!(user.destination_identities, ["bob"]);
    }

    #[test]
    fn only_agents_write_down_what_others_say() {
        assert_eq!(stamp(&transcription(), ALICE, no_track, true), Err(Refused::AnothersName));
        let packet = stamp(&transcription(), AGENT, no_track, true).unwrap();
        assert_eq!(packet.participant_identity, "scribe");
        // Text streams: a claimed name is overwritten, a track must be the sender's own.
        for (track, taken) in [(None, true), (Some(""), true), (Some("TR_own"), true), (Some("TR_bobs"), false)] {
            let stamped = stamp(&captions(track), ALICE, |sid| sid == "TR_own", true);
            assert_eq!(
                stamped.map(|packet| packet.participant_identity),
                if taken { Ok("alice".to_owned()) } else { Err(Refused::AnothersName) }
            );
        }
        let trailer =
            livekit::data_stream::Trailer { attributes: [(CAPTIONED_TRACK.to_owned(), "TR_bobs".to_owned())].into(), ..Default::default() };
        let trailer = of_bob(data_packet::Value::StreamTrailer(trailer));
        assert_eq!(stamp(&trailer, ALICE, no_track, true), Err(Refused::AnothersName));
        assert!(stamp(&trailer, AGENT, no_track, true).is_ok());
        let packet = stamp(&captions(Some("TR_bobs")), AGENT, no_track, true).unwrap();
        assert_eq!((packet.participant_identity.as_str(), packet.participant_sid.as_str()), ("bob", "PA_2"));
        let Some(data_packet::Value::StreamHeader(header)) = packet.value else { panic!() };
        assert_eq!(
            header.content_header,
            Some(ContentHeader::TextHeader(livekit::data_stream::TextHeader { generated: true, ..Default::default() }))
        );
    }

    #[test]
    fn an_agents_chat_for_another_is_marked_and_its_files_are_its_own() {
        let chat = of_bob(data_packet::Value::ChatMessage(livekit::ChatMessage { message: "hi".to_owned(), ..Default::default() }));
        let stamped = |sender| {
            let packet = stamp(&chat, sender, no_track, true).unwrap();
            let Some(data_packet::Value::ChatMessage(message)) = packet.value else { panic!() };
            (packet.participant_identity, message.generated)
        };
        assert_eq!(stamped(ALICE), ("alice".to_owned(), false));
        assert_eq!(stamped(AGENT), ("bob".to_owned(), true));
        let file =
            livekit::data_stream::Header { content_header: Some(ContentHeader::ByteHeader(Default::default())), ..Default::default() };
        let file = of_bob(data_packet::Value::StreamHeader(file));
        assert_eq!(stamp(&file, AGENT, no_track, true).unwrap().participant_identity, "scribe");
    }

    #[test]
    fn metrics_are_of_their_sender() {
        let metrics = |of: u32| {
            let series = livekit::TimeSeriesMetric { participant_identity: of, ..Default::default() };
            let batch = livekit::MetricsBatch {
                str_data: vec!["alice".to_owned(), "bob".to_owned()],
                time_series: vec![series],
                ..Default::default()
            };
            of_bob(data_packet::Value::Metrics(batch))
        };
        for (of, taken) in [(0, true), (FIRST_STRING, true), (FIRST_STRING + 1, false), (FIRST_STRING + 2, true)] {
            assert_eq!(stamp(&metrics(of), ALICE, no_track, true).is_ok(), taken, "{of}");
        }
    }

    #[test]
    fn what_is_empty_or_too_large_is_refused() {
        assert_eq!(stamp(&[], ALICE, no_track, true), Err(Refused::Unreadable));
        assert_eq!(stamp(&vec![0; MAX_PACKET + 1], ALICE, no_track, true), Err(Refused::Unreadable));
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
            let _ = stamp(&bytes, ALICE, no_track, false);
        }
    }
}
