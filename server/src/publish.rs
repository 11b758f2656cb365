//! Sound of a service into a room: PCM comes over gRPC, is encoded as Opus in 20 ms packets, and enters the room by the publisher seam,
//! paced in real time. The sender is held back by flow control: the next message is read when the last has been played.

use std::sync::Arc;
use std::time::Duration;

use auralink_ai::audio::opus::OpusEncoder;
use auralink_media::packet::Codec;
use auralink_media::tap::SourcePacket;
use auralink_proto::livekit::TrackSource;
use auralink_proto::v1::{PublishConfig, PublishRequest, PublishResponse, publish_request::Request as Part};
use auralink_signaling::rooms::{LocalParticipant, LocalSpec, LocalTrack, Rooms, RoomsError};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::audio_in::MAX_MESSAGE_BYTES;

/// Samples of one packet: 20 ms at 48 kHz.
const PACKET_SAMPLES: usize = OpusEncoder::FRAME;

/// Transparent for speech, good for music in mono.
const OPUS_BITRATE_BPS: i32 = 48_000;

/// One packet's time.
const PACKET_TIME: Duration = Duration::from_millis(20);

/// Packets between two progress messages: half a second.
const PROGRESS_EVERY: u64 = 25;

/// A participant made of a service's sound.
pub struct Player {
    participant: LocalParticipant,
    track: LocalTrack,
}

impl Player {
    /// Enters the room and publishes its track.
    pub async fn enter(rooms: &Rooms, config: &PublishConfig) -> Result<Self, RoomsError> {
        let spec = LocalSpec { identity: config.identity.clone(), name: config.name.clone(), ..LocalSpec::default() };
        let participant = rooms.add_local_participant(&config.room, spec).await?;
        let name = if config.track_name.is_empty() { "sound" } else { &config.track_name };
        let track = participant.publish_audio(name, TrackSource::Microphone).await?;
        Ok(Self { participant, track })
    }

    /// Plays until the sender ends, then leaves the room.
    pub async fn play(mut self, mut audio: Streaming<PublishRequest>, progress: mpsc::Sender<Result<PublishResponse, Status>>) {
        // A sender that went away needs no answer.
        if let Err(status) = self.pump(&mut audio, &progress).await {
            let _ = progress.send(Err(status)).await;
        }
        self.participant.leave().await;
    }

    async fn pump(
        &mut self,
        audio: &mut Streaming<PublishRequest>,
        progress: &mpsc::Sender<Result<PublishResponse, Status>>,
    ) -> Result<(), Status> {
        let mut encoder = OpusEncoder::new(OPUS_BITRATE_BPS).map_err(|error| Status::internal(error.to_string()))?;
        let mut samples: Vec<f32> = Vec::new();
        let mut sent = 0_u64;
        let mut clock = tokio::time::interval(PACKET_TIME);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut ended = false;
        while !ended {
            match audio.message().await? {
                Some(PublishRequest { request: Some(Part::Audio(bytes)) }) => append(&mut samples, &bytes)?,
                Some(_) => return Err(Status::invalid_argument("after the first message only `audio` is taken")),
                None => {
                    ended = true;
                    samples.resize(samples.len().next_multiple_of(PACKET_SAMPLES), 0.0);
                }
            }
            let whole = samples.len() / PACKET_SAMPLES * PACKET_SAMPLES;
            for frame in samples[..whole].chunks_exact(PACKET_SAMPLES) {
                clock.tick().await;
                self.send(&mut encoder, frame, sent)?;
                sent += 1;
                if sent.is_multiple_of(PROGRESS_EVERY) {
                    self.report(progress, sent).await?;
                }
            }
            samples.drain(..whole);
        }
        self.report(progress, sent).await
    }

    fn send(&mut self, encoder: &mut OpusEncoder, frame: &[f32], index: u64) -> Result<(), Status> {
        let payload: Arc<[u8]> = encoder.encode(frame).map_err(|error| Status::internal(error.to_string()))?.into();
        let packet = SourcePacket {
            codec: Codec::Opus,
            timestamp: (index.wrapping_mul(PACKET_SAMPLES as u64) & u64::from(u32::MAX)) as u32,
            marker: index == 0,
            level: Some(level(frame)),
            payload,
        };
        if self.track.push(packet).is_err() {
            metrics::counter!("auralink_publish_packets_dropped_total").increment(1);
        }
        Ok(())
    }

    async fn report(&mut self, progress: &mpsc::Sender<Result<PublishResponse, Status>>, packets: u64) -> Result<(), Status> {
        let response = PublishResponse {
            participant_sid: self.participant.sid().to_owned(),
            track_sid: self.track.sid.clone(),
            played_ms: i64::try_from(packets * 20).unwrap_or(i64::MAX),
        };
        progress.send(Ok(response)).await.map_err(|_| Status::cancelled("the sender went away"))
    }
}

fn append(samples: &mut Vec<f32>, bytes: &[u8]) -> Result<(), Status> {
    if bytes.len() > MAX_MESSAGE_BYTES || !bytes.len().is_multiple_of(2) {
        return Err(Status::invalid_argument(format!(
            "an audio message holds {} bytes: an even number, at most {MAX_MESSAGE_BYTES}",
            bytes.len()
        )));
    }
    samples.extend(bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0));
    Ok(())
}

/// RFC 6464 level of a frame: -dBov, 0 to 127.
fn level(frame: &[f32]) -> u8 {
    let power = frame.iter().map(|s| s * s).sum::<f32>() / frame.len().max(1) as f32;
    (-10.0 * power.max(1e-13).log10()).round().clamp(0.0, 127.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_rfc_6464() {
        assert_eq!(level(&[1.0; 960]), 0);
        assert_eq!(level(&[0.1; 960]), 20);
        assert_eq!(level(&[0.0; 960]), 127);
    }
}
