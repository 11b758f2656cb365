//! Who speaks: LiveKit's active-speaker rule on the audio level that clients write into each packet (RFC 6464).
//!
//! Over each window of 500 ms a publication is active when at least 40 % of it was at level 30 or louder; its loudness is the
//! loudest level of the window, weighted by how much of it was active, smoothed over two windows.
//! Source: livekit-server pkg/sfu/audio/audiolevel.go.

use crate::packet::{Codec, RtpPacket};

/// Level (-dBov) from which on a packet counts as speech. Higher: quiet speakers and noise count too.
const ACTIVE_LEVEL: u8 = 30;
/// Percent of a window that must be active.
const MIN_PERCENTILE: u32 = 40;
/// Milliseconds of a window.
const WINDOW_MS: u32 = 500;
/// Windows over which loudness is smoothed.
const SMOOTH_WINDOWS: f32 = 2.0;
/// Steps of loudness that are told apart in updates; finer steps would make an update of every breath.
const LEVEL_STEPS: f32 = 8.0;
/// A client that sends no level: an Opus packet of this many bytes for 20 ms (24 kbit/s) is taken for speech. Silence
/// encodes to a few bytes with DTX and to less than this without.
const SPEECH_BYTES: usize = 60;
/// The level that such a packet is taken to have: ordinary speech.
const SPEECH_LEVEL: u8 = 20;

/// Loudness of one publication.
#[derive(Debug, Default)]
pub struct AudioLevel {
    observed_ms: u32,
    active_ms: u32,
    loudest: Option<u8>,
    smoothed: f32,
    last_timestamp: Option<u32>,
    /// Packets of the window since the last [`AudioLevel::read`]: a publication that fell silent (DTX, mute) sends none.
    heard: bool,
}

impl AudioLevel {
    /// Takes a packet in, in order.
    pub fn observe(&mut self, packet: &RtpPacket) {
        let step = self.last_timestamp.map_or(960, |last| packet.timestamp.wrapping_sub(last));
        self.last_timestamp = Some(packet.timestamp);
        // DTX and gaps: what was not sent was silence, at most one window of it.
        let ms = (step / 48).clamp(1, WINDOW_MS);
        let level = packet.ext.audio_level.unwrap_or(match packet.codec {
            Codec::Opus | Codec::Red if packet.payload.len() >= SPEECH_BYTES => SPEECH_LEVEL,
            _ => 127,
        });
        self.heard = true;
        self.observed_ms += ms;
        if level <= ACTIVE_LEVEL {
            self.active_ms += ms.min(60);
            self.loudest = Some(self.loudest.map_or(level, |l| l.min(level)));
        }
        if self.observed_ms >= WINDOW_MS {
            self.close_window();
        }
    }

    fn close_window(&mut self) {
        let loudness = match self.loudest {
            Some(loudest) if self.active_ms * 100 >= MIN_PERCENTILE * WINDOW_MS => {
                let weight_db = 20.0 * (self.active_ms as f32 / WINDOW_MS as f32).log10();
                linear(f32::from(loudest) - weight_db)
            }
            _ => 0.0,
        };
        self.smoothed += (loudness - self.smoothed) * (2.0 / (SMOOTH_WINDOWS + 1.0));
        (self.observed_ms, self.active_ms, self.loudest) = (0, 0, None);
    }

    /// Loudness 0 to 1 (in steps of an eighth) and whether it counts as speaking; called once per window.
    pub fn read(&mut self) -> (f32, bool) {
        if !self.heard {
            self.silence();
        }
        self.heard = false;
        let active = self.smoothed >= linear(f32::from(ACTIVE_LEVEL));
        if !active {
            return (0.0, false);
        }
        (((self.smoothed * LEVEL_STEPS).ceil() / LEVEL_STEPS).min(1.0), true)
    }

    /// Forgets what was heard: muted or ended.
    pub fn silence(&mut self) {
        *self = AudioLevel { last_timestamp: self.last_timestamp, ..AudioLevel::default() };
    }
}

/// -dBov to linear, 0 to 1.
fn linear(level: f32) -> f32 {
    10f32.powf(-level.max(0.0) / 20.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Extensions;
    use std::time::Instant;

    fn packets(level: &mut AudioLevel, count: u32, audio_level: Option<u8>, bytes: usize) {
        let start = level.last_timestamp.unwrap_or(0);
        for i in 1..=count {
            level.observe(&RtpPacket {
                arrival: Instant::now(),
                codec: Codec::Opus,
                seq: u64::from(i),
                timestamp: start + i * 960,
                marker: false,
                ext: Extensions { audio_level, ..Extensions::default() },
                payload: vec![0; bytes].into(),
            });
        }
    }

    #[test]
    fn speech_is_active_and_silence_ends_it() {
        let mut level = AudioLevel::default();
        packets(&mut level, 50, Some(15), 80);
        let (loudness, active) = level.read();
        assert!(active && loudness > 0.1, "{loudness}");
        packets(&mut level, 150, Some(127), 10);
        assert_eq!(level.read(), (0.0, false));
    }

    #[test]
    fn a_short_click_is_not_speech() {
        let mut level = AudioLevel::default();
        packets(&mut level, 20, Some(127), 10);
        packets(&mut level, 4, Some(5), 80);
        packets(&mut level, 60, Some(127), 10);
        assert!(!level.read().1);
    }

    #[test]
    fn a_publication_that_stops_sending_is_not_active() {
        let mut level = AudioLevel::default();
        packets(&mut level, 50, Some(10), 80);
        assert!(level.read().1);
        assert!(!level.read().1);
    }

    #[test]
    fn without_levels_the_size_of_packets_decides() {
        let mut level = AudioLevel::default();
        packets(&mut level, 75, None, 90);
        assert!(level.read().1);
        packets(&mut level, 150, None, 3);
        assert!(!level.read().1);
    }
}
