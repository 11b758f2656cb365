//! What the engine heard, in the words of followers, of the room, and of the people who are told why they are not heard.

use std::time::{SystemTime, UNIX_EPOCH};

use auralink_ai::audio::Samples;
use auralink_ai::session::{self, DegradeRule, SegmentId};
use auralink_proto::livekit::{DataPacket, UserPacket, data_packet};
use auralink_proto::v1::{TranscriptEvent, Word};

use super::By;
use super::packets::CaptionUpdate;
use super::room::Speaker;

/// Topic of the data packets that say who turned captions on or off.
const SWITCH_TOPIC: &str = "auralink.captions";

/// Told to people whose microphone is end-to-end encrypted.
pub const ENCRYPTED: &str = "the microphone is end-to-end encrypted: the server cannot hear it";

/// Told to people for whom there is no stream.
pub const NO_STREAM: &str = "as many microphones are captioned as this server can; this one waits for another to end";

/// A position on the stream's clock, for the wire.
pub fn wire_ms(samples: Samples) -> i64 {
    i64::try_from(samples.as_ms()).unwrap_or(i64::MAX)
}

/// What a degradation means for the reader.
pub fn degraded_text(rule: DegradeRule) -> String {
    match rule {
        DegradeRule::InterimSuspended => "the machine is busy: text appears once it is certain".into(),
        DegradeRule::SmallerModel => "the machine is busy: a smaller model recognises what is said".into(),
        DegradeRule::AudioDropped { length } => format!("the machine is busy: {} ms of speech were not heard", length.as_ms()),
        DegradeRule::ModelFailed => "the speech model failed on this audio; the server's log says why".into(),
    }
}

/// What a degradation means for the speaker, who is told once and not for each of many; and whether it lasts until it is taken back.
pub fn trouble_text(rule: DegradeRule) -> (&'static str, bool) {
    match rule {
        DegradeRule::InterimSuspended => ("the server is busy: what you say appears later than usual", true),
        DegradeRule::SmallerModel => ("the server is busy: what you say is captioned less well than usual", true),
        DegradeRule::AudioDropped { .. } => ("the server is busy: some of what you say is not captioned", false),
        DegradeRule::ModelFailed => ("the speech model failed on some of what you say", false),
    }
}

/// Text of a speaker's open or just closed segment, with its words.
pub fn caption(
    speaker: &Speaker,
    language: &str,
    segment: SegmentId,
    text: String,
    committed_chars: Option<usize>,
    words: &[session::Word],
) -> (CaptionUpdate, Vec<Word>) {
    let words = proto_words(words);
    let update = CaptionUpdate {
        identity: speaker.participant.identity.to_string(),
        participant_sid: speaker.participant.sid.to_string(),
        track_sid: speaker.track_sid.clone(),
        segment_id: format!("SG_{}_{}", speaker.track_sid, segment.0),
        committed_chars: committed_chars.unwrap_or_else(|| text.chars().count()),
        is_final: committed_chars.is_none(),
        text,
        language: language.to_owned(),
        start_ms: words.first().map_or(0, |w| w.start_ms.unsigned_abs()),
        end_ms: words.last().map_or(0, |w| w.end_ms.unsigned_abs()),
    };
    (update, words)
}

/// Words on the wire.
pub fn proto_words(words: &[session::Word]) -> Vec<Word> {
    words
        .iter()
        .map(|word| Word { text: word.text.clone(), start_ms: wire_ms(word.start), end_ms: wire_ms(word.end), confidence: word.confidence })
        .collect()
}

/// An update as followers get it.
pub fn transcript_event(update: &CaptionUpdate, participant_name: String, words: Vec<Word>) -> TranscriptEvent {
    let committed: usize = update.text.chars().take(update.committed_chars).map(char::len_utf8).sum();
    TranscriptEvent {
        participant_identity: update.identity.clone(),
        participant_name,
        track_sid: update.track_sid.clone(),
        segment_id: update.segment_id.clone(),
        text: update.text.clone(),
        committed: u32::try_from(committed).unwrap_or(u32::MAX),
        r#final: update.is_final,
        words,
        language: update.language.clone(),
        received_at_ms: unix_ms(),
        notice: String::new(),
    }
}

/// A sentence for followers about a speaker.
pub fn notice_event(speaker: &Speaker, participant_name: String, notice: String) -> TranscriptEvent {
    TranscriptEvent {
        participant_identity: speaker.participant.identity.to_string(),
        participant_name,
        track_sid: speaker.track_sid.clone(),
        received_at_ms: unix_ms(),
        notice,
        ..TranscriptEvent::default()
    }
}

/// Tells clients who turned captions on or off: JSON on [`SWITCH_TOPIC`], from no participant.
pub fn switched_packet(enabled: bool, by: &By) -> DataPacket {
    let payload = serde_json::json!({ "enabled": enabled, "by": { "identity": by.identity, "name": by.name } });
    let user = UserPacket { payload: payload.to_string().into_bytes(), topic: Some(SWITCH_TOPIC.to_owned()), ..UserPacket::default() };
    DataPacket { value: Some(data_packet::Value::User(user)), ..DataPacket::default() }
}

/// Tells followers the same.
pub fn switched_event(enabled: bool, by: &By) -> TranscriptEvent {
    TranscriptEvent {
        participant_identity: by.identity.clone(),
        participant_name: by.name.clone(),
        received_at_ms: unix_ms(),
        notice: format!("{} turned captions {}", by.name, if enabled { "on" } else { "off" }),
        ..TranscriptEvent::default()
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
