//! The rules by which Whisper says times (`WhisperTimeStampLogitsProcessor` of `transformers`, `ApplyTimestampRules` of the original).

use crate::generation::processors::Processor;

/// Times come in pairs, never go back, and are said when they are likelier than any text.
pub(super) struct TimestampRules {
    pub no_timestamps: u32,
    pub eos: u32,
    /// Tokens before those that are said.
    pub begin: usize,
    /// Latest first time, in units of 20 ms.
    pub max_initial: Option<u32>,
}

impl Processor for TimestampRules {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        let nothing = f32::NEG_INFINITY;
        let times = (self.no_timestamps + 1) as usize;
        let count = scores.len();
        if count <= times {
            return;
        }
        scores[self.no_timestamps as usize] = nothing;
        let said = &tokens[self.begin.min(tokens.len())..];
        let is_time = |token: &u32| *token as usize >= times;
        let last = said.last().is_some_and(is_time);
        let before_last = said.len() < 2 || is_time(&said[said.len() - 2]);
        if last && before_last {
            scores[times..].fill(nothing);
        } else if last {
            scores[..self.eos as usize].fill(nothing);
        }
        if let Some(&time) = said.iter().rev().find(|token| is_time(token)) {
            // The second of a pair may be as late as the first; a new one is later.
            let least = if last && !before_last { time } else { time + 1 } as usize;
            scores[times..least.clamp(times, count)].fill(nothing);
        }
        if tokens.len() == self.begin {
            scores[..times].fill(nothing);
            if let Some(latest) = self.max_initial {
                scores[(times + latest as usize + 1).min(count)..].fill(nothing);
            }
        }
        let best_text = scores[..times].iter().copied().fold(nothing, f32::max);
        if crate::generation::log_sum_exp(&scores[times..]) > best_text {
            scores[..times].fill(nothing);
        }
    }
}
