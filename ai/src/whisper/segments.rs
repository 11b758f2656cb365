//! Stretches of text between the times that a model says (`_retrieve_segment` of `transformers`).

use super::STRIDE;
use super::tokens::{TIME_STEP, WhisperTokens};

/// A stretch of text.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Seconds from the sound's beginning.
    pub start: f64,
    /// Seconds from the sound's beginning.
    pub end: f64,
    /// Its tokens, times included.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
}

/// What a window's tokens are cut into.
pub(super) struct Cut {
    pub segments: Vec<Segment>,
    /// Feature frames of the window that are done with: what comes after the last pair of times is heard again in the next.
    pub advance: usize,
}

/// Cuts the tokens of a window that counts for so many feature frames.
pub(super) fn cut(tokens: &WhisperTokens, said: &[u32], window: usize) -> Cut {
    let seconds = (window / STRIDE) as f64 * TIME_STEP;
    let time = |token: u32| tokens.time(token).map(|time| f64::from(time) * TIME_STEP);
    let is_time = |index: usize| said.get(index).is_some_and(|&token| tokens.time(token).is_some());
    let segment = |start: f64, end: f64, part: &[u32]| Segment { start, end, tokens: part.to_vec(), text: tokens.decode(part) };
    let single_ending = said.len() >= 2 && is_time(said.len() - 1) && !is_time(said.len() - 2);
    let mut ends: Vec<usize> = (1..said.len()).filter(|&index| is_time(index - 1) && is_time(index)).collect();
    let Some(last) = ends.last_mut() else {
        // No pair: all of it is one segment, up to the last time that was said, if that is not the beginning.
        let latest = said.iter().rev().find_map(|&token| time(token)).filter(|&latest| latest > 0.0);
        return Cut { segments: vec![segment(0.0, latest.unwrap_or(seconds), said)], advance: window };
    };
    if single_ending {
        ends.push(said.len());
    } else {
        // The second of the last pair belongs to it, so that one sees that it was no single ending.
        *last += 1;
    }
    let count = ends.len();
    let mut segments = Vec::with_capacity(count);
    let mut start = 0;
    for (index, &end) in ends.iter().enumerate() {
        let part = &said[start..end];
        let before_last = if index + 1 < count || single_ending { 1 } else { 2 };
        let from = part.first().and_then(|&token| time(token)).unwrap_or(0.0);
        let to = part.len().checked_sub(before_last).and_then(|place| time(part[place])).unwrap_or(from);
        segments.push(segment(from, to, part));
        start = end;
    }
    let paired = said.get(start.saturating_sub(2)).and_then(|&token| tokens.time(token)).filter(|&time| time > 0);
    let advance = paired.filter(|_| !single_ending).map_or(window, |time| time as usize * STRIDE);
    Cut { segments, advance }
}
