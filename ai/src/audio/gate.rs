//! The level gate: packets that their sender calls silent are not decoded.
//!
//! Place: after the jitter buffer, before the decoder. Rules: it closes only after [`CLOSE_AFTER_TICKS`] of quiet, and
//! only while no segment is open; while closed it keeps the newest [`PREROLL`] packets back, and decodes them first when it
//! opens, so that the decoder is warm and the first consonant is heard.

use std::collections::VecDeque;

use super::jitter::Frame;

/// Level in -dBov from which a packet counts as quiet. Lower opens for keyboard noise, higher misses soft speakers:
/// speech at arm's length is 20 to 50.
const QUIET_LEVEL: u8 = 60;
/// Quiet before the gate closes, 48 kHz ticks (600 ms).
const CLOSE_AFTER_TICKS: u64 = 600 * 48;
/// Packets kept back while closed: 200 ms of 20 ms packets.
const PREROLL: usize = 10;

/// The gate of one stream.
#[derive(Debug)]
pub struct LevelGate {
    quiet_ticks: u64,
    closed: bool,
    kept: VecDeque<Frame>,
}

impl Default for LevelGate {
    /// A stream begins in quiet: its first packets are held back unless they are loud.
    fn default() -> Self {
        Self { quiet_ticks: CLOSE_AFTER_TICKS, closed: false, kept: VecDeque::new() }
    }
}

impl LevelGate {
    /// The gate of a stream that begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether packets are being held from the decoder.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes a frame; what is to be decoded now goes to `out`, in order. `idle`: nobody speaks.
    pub fn push(&mut self, frame: Frame, idle: bool, out: &mut VecDeque<Frame>) {
        let quiet = match &frame {
            Frame::Packet { level, .. } => level.is_some_and(|level| level >= QUIET_LEVEL),
            Frame::Lost { .. } => self.closed,
            Frame::Silence { .. } | Frame::Reset => {
                // Nothing to save: the line continues after what was kept, which is silence as well.
                self.silence_kept(out);
                out.push_back(frame);
                return;
            }
        };
        if !quiet {
            self.quiet_ticks = 0;
            self.closed = false;
            out.append(&mut self.kept);
            out.push_back(frame);
            return;
        }
        let ticks = ticks(&frame);
        self.quiet_ticks = self.quiet_ticks.saturating_add(ticks);
        self.closed = idle && (self.closed || self.quiet_ticks >= CLOSE_AFTER_TICKS);
        if !self.closed {
            out.append(&mut self.kept);
            out.push_back(frame);
            return;
        }
        self.kept.push_back(frame);
        if self.kept.len() > PREROLL
            && let Some(oldest) = self.kept.pop_front()
        {
            out.push_back(Frame::Silence { ticks: self::ticks(&oldest) });
        }
    }

    fn silence_kept(&mut self, out: &mut VecDeque<Frame>) {
        let total: u64 = self.kept.drain(..).map(|frame| ticks(&frame)).sum();
        if total > 0 {
            out.push_back(Frame::Silence { ticks: total });
        }
    }
}

fn ticks(frame: &Frame) -> u64 {
    match frame {
        Frame::Packet { ticks, .. } | Frame::Lost { ticks, .. } | Frame::Silence { ticks } => *ticks,
        Frame::Reset => 0,
    }
}
