//! Recordings of any length, window after window, each beginning where the last believed time of the one before it was.
//!
//! Rule: what `transformers` does in its sequential mode, with its features: the loudest of the whole recording is the measure, and what
//! the last window lacks is zero.

use super::decode::{DecodeOptions, Decoded};
use super::segments::Segment;
use super::{Encoded, STRIDE, Whisper, Window};
use crate::features::whisper::HOP;
use crate::runtime::RuntimeError;

/// What is asked of a recording.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LongOptions {
    /// For each window. Its prompt is that of the first, or of all (`prompt_all`).
    pub window: DecodeOptions,
    /// Whether each window is told what was said before it.
    pub condition: bool,
    /// Whether the prompt is told to each window, before what was said before it.
    pub prompt_all: bool,
    /// Whether a recording that is shorter than a window is heard to the window's end, silence and all, as `transformers` does.
    pub whole_window: bool,
}

/// One window of a recording: where it began, and what was heard. Its times count from the recording's beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct HeardWindow {
    /// Seconds.
    pub start: f64,
    /// What was heard; nothing of it stands in a transcript when it is `silent`.
    pub decoded: Decoded,
}

impl Whisper {
    /// What is said in a recording of any length (16 kHz, [-1, 1]). `progress` is told the seconds that are done after each window, and
    /// says whether to go on.
    ///
    /// # Errors
    /// As [`Whisper::decode`].
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        options: &LongOptions,
        mut progress: impl FnMut(f64) -> bool,
    ) -> Result<Vec<HeardWindow>, RuntimeError> {
        let window = STRIDE * self.pack.frames();
        let short = samples.len() <= self.window_samples();
        let recording = Recording::new(self, samples, short);
        let end = if short && options.whole_window { window } else { samples.len() / HOP };
        let mut asked = options.window.clone();
        let mut told = Told::new(self, options);
        let mut heard = Vec::new();
        let mut seek = 0;
        while seek < end {
            let counted = (end - seek).min(window);
            let encoded = recording.encode(self, seek, counted)?;
            if asked.language.is_none() {
                asked.language = self.detect_language(&encoded)?.map(|(language, _)| language);
            }
            let context = told.context(self, options);
            let mut decoded = self.decode_after(&encoded, &asked, &context)?;
            told.condition = options.condition && decoded.temperature < 0.5;
            let start = seek as f64 / f64::from(crate::audio::SAMPLE_RATE) * HOP as f64;
            if decoded.silent {
                seek += counted;
            } else {
                seek += decoded.advance.max(1);
                told.segments.extend(decoded.segments.iter().map(|segment| segment.tokens.clone()));
            }
            keep_segments(&mut decoded);
            shift(&mut decoded, start);
            heard.push(HeardWindow { start, decoded });
            if !progress((seek.min(end) * HOP) as f64 / f64::from(crate::audio::SAMPLE_RATE)) {
                break;
            }
        }
        Ok(heard)
    }
}

/// The features of a recording.
enum Recording {
    /// Padded with silence.
    Short(Vec<f32>, usize),
    Long(crate::features::whisper::LogSpectrum),
}

impl Recording {
    fn new(whisper: &Whisper, samples: &[f32], short: bool) -> Self {
        if short {
            Self::Short(whisper.log_mel.padded(samples, STRIDE * whisper.pack.frames()), samples.len() / HOP)
        } else {
            Self::Long(whisper.log_mel.whole(samples))
        }
    }

    /// The window at a frame, of which so many frames count.
    fn encode(&self, whisper: &mut Whisper, seek: usize, counted: usize) -> Result<Encoded, RuntimeError> {
        let window = STRIDE * whisper.pack.frames();
        let (features, sound) = match self {
            Self::Long(spectrum) => (spectrum.window(seek, window), spectrum.frames()),
            Self::Short(features, sound) => {
                let mut moved = vec![0.0; features.len()];
                for (from, to) in features.chunks_exact(window).zip(moved.chunks_exact_mut(window)) {
                    to[..window - seek].copy_from_slice(&from[seek..]);
                }
                (moved, *sound)
            }
        };
        let sound = sound.saturating_sub(seek);
        let mut encoded = whisper.encode_windows(vec![Window { features, sound }])?.remove(0);
        encoded.counted = counted;
        Ok(encoded)
    }
}

/// What windows are told of those before them.
struct Told {
    segments: Vec<Vec<u32>>,
    condition: bool,
}

impl Told {
    fn new(_: &Whisper, options: &LongOptions) -> Self {
        let prompt = &options.window.prompt;
        let segments = if prompt.is_empty() || options.prompt_all { Vec::new() } else { vec![prompt.clone()] };
        Self { segments, condition: options.condition }
    }

    fn context(&self, whisper: &Whisper, options: &LongOptions) -> Vec<u32> {
        let tokens = whisper.pack.tokens();
        let prompt = &options.window.prompt;
        if !self.condition || self.segments.is_empty() {
            return whisper.context(prompt);
        }
        let Some(previous) = tokens.previous() else { return Vec::new() };
        // The second of a pair of times at a segment's end says nothing more.
        let single = |segment: &Vec<u32>| {
            let pair = segment.len() > 2 && tokens.time(segment[segment.len() - 2]).is_some();
            segment[..segment.len() - usize::from(pair)].to_vec()
        };
        let said: Vec<u32> = self.segments.iter().flat_map(single).collect();
        let most = whisper.pack.positions() / 2 - 1;
        let latest = &said[said.len().saturating_sub(most)..];
        let before = if options.prompt_all { prompt.as_slice() } else { &[] };
        [&[previous], before, latest].concat()
    }
}

/// Leaves out what comes after the last segment: it is heard again in the next window.
fn keep_segments(decoded: &mut Decoded) {
    let kept = decoded.segments.iter().map(|segment| segment.tokens.len()).sum();
    decoded.tokens.truncate(kept);
    decoded.logprobs.truncate(kept);
    decoded.token_times.truncate(kept);
    decoded.attended.truncate(kept);
    decoded.words.retain(|word| word.place < kept);
    decoded.text = decoded.segments.iter().map(|segment| segment.text.as_str()).collect();
}

fn shift(decoded: &mut Decoded, seconds: f64) {
    let moved = |segment: &mut Segment| (segment.start, segment.end) = (segment.start + seconds, segment.end + seconds);
    decoded.segments.iter_mut().for_each(moved);
    decoded.words.iter_mut().for_each(|word| (word.start, word.end) = (word.start + seconds, word.end + seconds));
    decoded.token_times.iter_mut().for_each(|time| *time += seconds);
}
