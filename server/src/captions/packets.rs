//! A caption update as LiveKit's components expect it: a `Transcription` packet for older clients, and a text stream on topic
//! `lk.transcription` for newer ones. Both under the speaker's identity; interim updates are new streams with the same segment id.

use std::collections::HashMap;

use auralink_proto::livekit::{DataPacket, Transcription, TranscriptionSegment, data_packet::Value, data_stream};

/// The topic of transcription text streams.
const TOPIC: &str = "lk.transcription";

/// Largest content of one stream chunk, as LiveKit's SDKs send it.
const CHUNK_BYTES: usize = 15_000;

/// What the speaker has said so far in one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionUpdate {
    /// The speaker.
    pub identity: String,
    /// `PA_...` of the speaker.
    pub participant_sid: String,
    /// `TR_...` of the microphone.
    pub track_sid: String,
    /// Unique in the room.
    pub segment_id: String,
    /// The whole segment so far.
    pub text: String,
    /// Characters that will not change.
    pub committed_chars: usize,
    /// Closed.
    pub is_final: bool,
    /// BCP 47.
    pub language: String,
    /// Milliseconds on the stream's clock.
    pub start_ms: u64,
    /// Milliseconds on the stream's clock.
    pub end_ms: u64,
}

impl CaptionUpdate {
    /// The packets of this update, in order, all for the reliable channel. `stream_id` is unique per update.
    pub fn packets(&self, stream_id: &str, timestamp_ms: i64) -> Vec<DataPacket> {
        let mut packets = vec![self.packet(Value::Transcription(self.transcription()))];
        packets.push(self.packet(Value::StreamHeader(self.header(stream_id, timestamp_ms))));
        for (index, content) in chunks(&self.text).enumerate() {
            packets.push(self.packet(Value::StreamChunk(data_stream::Chunk {
                stream_id: stream_id.to_owned(),
                chunk_index: index as u64,
                content: content.as_bytes().to_vec(),
                ..Default::default()
            })));
        }
        packets.push(self.packet(Value::StreamTrailer(data_stream::Trailer { stream_id: stream_id.to_owned(), ..Default::default() })));
        packets
    }

    fn packet(&self, value: Value) -> DataPacket {
        DataPacket {
            participant_identity: self.identity.clone(),
            participant_sid: self.participant_sid.clone(),
            value: Some(value),
            ..Default::default()
        }
    }

    fn transcription(&self) -> Transcription {
        Transcription {
            transcribed_participant_identity: self.identity.clone(),
            track_id: self.track_sid.clone(),
            segments: vec![TranscriptionSegment {
                id: self.segment_id.clone(),
                text: self.text.clone(),
                start_time: self.start_ms,
                end_time: self.end_ms,
                r#final: self.is_final,
                language: self.language.clone(),
            }],
        }
    }

    fn header(&self, stream_id: &str, timestamp_ms: i64) -> data_stream::Header {
        let attribute = |name: &str, value: String| (name.to_owned(), value);
        data_stream::Header {
            stream_id: stream_id.to_owned(),
            timestamp: timestamp_ms,
            topic: TOPIC.into(),
            mime_type: "text/plain".into(),
            total_length: Some(self.text.len() as u64),
            attributes: HashMap::from([
                attribute("lk.segment_id", self.segment_id.clone()),
                attribute("lk.transcribed_track_id", self.track_sid.clone()),
                attribute("lk.transcription_final", self.is_final.to_string()),
                attribute("auralink.committed", self.committed_chars.to_string()),
                attribute("auralink.language", self.language.clone()),
                attribute("auralink.start_ms", self.start_ms.to_string()),
                attribute("auralink.end_ms", self.end_ms.to_string()),
            ]),
            content_header: Some(data_stream::header::ContentHeader::TextHeader(data_stream::TextHeader {
                generated: true,
                ..Default::default()
            })),
            ..Default::default()
        }
    }
}

/// Splits at character borders.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (head, tail) = rest.split_at(rest.floor_char_boundary(CHUNK_BYTES));
        rest = tail;
        Some(head)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(text: &str) -> CaptionUpdate {
        CaptionUpdate {
            identity: "ana".into(),
            participant_sid: "PA_1".into(),
            track_sid: "TR_1".into(),
            segment_id: "SG_1".into(),
            text: text.into(),
            committed_chars: 3,
            is_final: true,
            language: "en".into(),
            start_ms: 10,
            end_ms: 900,
        }
    }

    #[test]
    fn every_packet_is_the_speakers_and_the_stream_is_whole() {
        let packets = update("how are you").packets("ST_1", 7);
        assert_eq!(packets.len(), 4);
        assert!(packets.iter().all(|p| p.participant_identity == "ana" && p.participant_sid == "PA_1"));
        let Some(Value::StreamHeader(header)) = &packets[1].value else { panic!("header second") };
        assert_eq!(header.topic, "lk.transcription");
        assert_eq!(header.attributes["lk.transcription_final"], "true");
        assert_eq!(header.attributes["auralink.committed"], "3");
        let Some(Value::StreamChunk(chunk)) = &packets[2].value else { panic!("chunk third") };
        assert_eq!(chunk.content, b"how are you");
    }

    #[test]
    fn long_text_is_split_at_character_borders_and_loses_nothing() {
        let text = "ä".repeat(20_000);
        let joined: String = chunks(&text).collect();
        assert_eq!(joined, text);
        assert!(chunks(&text).all(|c| c.len() <= CHUNK_BYTES));
        assert_eq!(update("").packets("ST_1", 0).len(), 3, "an empty segment has no chunk");
    }
}
