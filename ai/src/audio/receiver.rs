//! From packets to samples: jitter buffer, level gate and decoder of one track, in this order.
//!
//! Place: the packet source of a stream in the scheduler. Rule: its output is an unbroken line of 16 kHz audio in which
//! silence is a number, not samples, so that a silent stream costs nothing downstream.

use std::collections::VecDeque;
use std::time::Instant;

use super::AudioError;
use super::gate::LevelGate;
use super::jitter::{DTX_BYTES, Frame, JitterBuffer, JitterStats};
use super::opus::OpusDecoder;
use super::packet::TapPacket;

/// RTP ticks (48 kHz) per 16 kHz sample.
const TICKS_PER_SAMPLE: u64 = 3;

/// A piece of the line.
#[derive(Debug)]
pub enum Audio<'a> {
    /// Decoded or concealed samples.
    Pcm(&'a [f32]),
    /// So many samples of silence.
    Silence(u64),
}

/// Cumulative counts of one receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiverStats {
    /// Of the jitter buffer.
    pub jitter: JitterStats,
    /// Packets decoded.
    pub decoded: u64,
    /// Packets that were quiet or empty (DTX) and not decoded.
    pub gated: u64,
    /// Frames concealed or recovered.
    pub concealed: u64,
    /// Packets that libopus refused.
    pub refused: u64,
}

/// Receives one track.
pub struct AudioReceiver {
    jitter: JitterBuffer,
    gate: LevelGate,
    decoder: OpusDecoder,
    frames: VecDeque<Frame>,
    stats: ReceiverStats,
}

impl AudioReceiver {
    /// A receiver that waits for its first packet.
    ///
    /// # Errors
    /// [`AudioError::Opus`] when libopus cannot allocate.
    pub fn new() -> Result<Self, AudioError> {
        Ok(Self {
            jitter: JitterBuffer::new(),
            gate: LevelGate::new(),
            decoder: OpusDecoder::new()?,
            frames: VecDeque::new(),
            stats: ReceiverStats::default(),
        })
    }

    /// Takes a packet in.
    pub fn push(&mut self, packet: TapPacket) {
        self.jitter.push(packet);
    }

    /// The next piece that is due at `now`, or `None`. `quiet`: nobody speaks, so quiet packets need no decoding.
    pub fn poll(&mut self, now: Instant, quiet: bool) -> Option<Audio<'_>> {
        let frame = loop {
            if let Some(frame) = self.frames.pop_front() {
                if matches!(frame, Frame::Reset) {
                    self.decoder.reset();
                    continue;
                }
                break frame;
            }
            let frame = self.jitter.poll(now)?;
            let was_packet = matches!(frame, Frame::Packet { .. });
            self.gate.push(frame, quiet, &mut self.frames);
            self.stats.gated += u64::from(was_packet && self.gate.is_closed());
        };
        Some(match frame {
            Frame::Packet { payload, ticks, .. } if payload.len() <= DTX_BYTES => {
                self.stats.gated += 1;
                Audio::Silence(samples(ticks))
            }
            Frame::Packet { payload, ticks, .. } => {
                self.stats.decoded += 1;
                Audio::Pcm(self.decoder.decode(&payload, samples(ticks) as usize))
            }
            Frame::Lost { ticks, next } => {
                self.stats.concealed += 1;
                let samples = samples(ticks) as usize;
                Audio::Pcm(match next {
                    Some(next) => self.decoder.recover(&next, samples),
                    None => self.decoder.conceal(samples),
                })
            }
            Frame::Silence { ticks } => Audio::Silence(samples(ticks)),
            Frame::Reset => Audio::Silence(0),
        })
    }

    /// Cumulative counts.
    pub fn stats(&self) -> ReceiverStats {
        ReceiverStats { jitter: self.jitter.stats(), refused: self.decoder.refused(), ..self.stats }
    }
}

fn samples(ticks: u64) -> u64 {
    ticks / TICKS_PER_SAMPLE
}
