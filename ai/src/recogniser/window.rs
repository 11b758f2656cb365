//! Models that read a whole window of audio at a time (Whisper, Moonshine, offline transducers and CTC), made to stream.
//!
//! Place: a pack of such a model begins [`WindowUtterance`]s and wraps its networks in a [`WindowRecogniser`]. Rules: the window
//! grows with the utterance and is read again when enough is new and nothing waits; what readings agree on is committed
//! ([`super::agreement`]); a window is cut behind committed words before it outgrows the model, so that memory and time stay bounded.

use std::sync::Arc;

use super::agreement::Agreement;
use super::{Due, RecognisedWord, Recogniser, Transcript, Utterance, UtteranceOptions, own};
use crate::audio::Samples;
use crate::runtime::RuntimeError;

/// Audio before the window's cut that is read again, so that the first word has its beginning.
const MARGIN: Samples = Samples::from_ms(100);
/// A word that ends so near to the window's end may be half a word.
const UNSURE: Samples = Samples::from_ms(1_000);
/// Characters of the text before the window that a model is given.
const PROMPT_CHARS: usize = 400;

/// How a model wants its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// The longest window that it reads.
    pub longest: Samples,
    /// From here on a window is cut behind what is committed: shorter costs less in each reading, longer gives more context.
    pub comfortable: Samples,
    /// New audio before it reads again: less commits earlier and costs more.
    pub step: Samples,
    /// Windows that it reads in one run.
    pub batch: usize,
}

/// A window to be read.
pub struct Window<'a> {
    /// 16 kHz mono.
    pub audio: &'a [f32],
    /// What the utterance was begun with.
    pub options: &'a UtteranceOptions,
    /// What was said before the window, its end.
    pub prompt: &'a str,
    /// The language that an earlier reading of this utterance found.
    pub language: Option<&'a str>,
    /// No audio follows: everything is to be written, nothing held back.
    pub last: bool,
}

/// What a model read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The words, with times from the window's first sample.
    pub words: Vec<RecognisedWord>,
    /// So many of them, from the beginning, no further audio would change.
    pub settled: usize,
    /// The language that was found, where the model finds it.
    pub language: Option<String>,
}

/// A model that reads windows, on one thread.
pub trait WindowModel: Send {
    /// Reads each window.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be run.
    fn read(&mut self, windows: &[Window<'_>]) -> Result<Vec<Reading>, RuntimeError>;
}

/// A window model as a recogniser.
pub struct WindowRecogniser<M> {
    model: M,
    spec: WindowSpec,
}

impl<M: WindowModel> WindowRecogniser<M> {
    /// Wraps `model`; its utterances are [`WindowUtterance`]s of the same `spec`.
    pub fn new(model: M, spec: WindowSpec) -> Self {
        Self { model, spec }
    }
}

impl<M: WindowModel> WindowRecogniser<M> {
    /// Reads a second of silence, so that a pack that does not fit is found when it is loaded.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be run.
    pub fn try_out(&mut self) -> Result<(), RuntimeError> {
        let (silence, options) = (vec![0.0; crate::audio::SAMPLE_RATE as usize], UtteranceOptions::default());
        self.model.read(&[Window { audio: &silence, options: &options, prompt: "", language: None, last: true }]).map(drop)
    }
}

impl<M: WindowModel> Recogniser for WindowRecogniser<M> {
    fn run(&mut self, batch: &mut [&mut dyn Utterance]) -> Result<(), RuntimeError> {
        let utterances: Vec<&mut WindowUtterance> = own(batch)?;
        let windows: Vec<Window<'_>> = utterances.iter().map(|utterance| utterance.window()).collect();
        let readings = self.model.read(&windows)?;
        if readings.len() != windows.len() {
            return Err(RuntimeError::Run { runtime: "the recogniser", reason: "not every window was read".to_owned() });
        }
        drop(windows);
        for (utterance, reading) in utterances.into_iter().zip(readings) {
            utterance.take(reading);
        }
        Ok(())
    }

    fn max_batch(&self) -> usize {
        self.spec.batch
    }
}

/// An utterance that is read in windows.
pub struct WindowUtterance {
    spec: WindowSpec,
    options: Arc<UtteranceOptions>,
    audio: Vec<f32>,
    /// Where the window begins, from the utterance's first sample.
    begin: Samples,
    /// Audio that no reading has seen.
    unread: Samples,
    agreement: Agreement,
    /// Committed words that lie before the window.
    passed: usize,
    prompt: String,
    language: Option<String>,
    closed: bool,
    finished: bool,
    sparing: bool,
}

impl WindowUtterance {
    /// An utterance that has heard nothing.
    pub fn new(spec: WindowSpec, options: &UtteranceOptions) -> Self {
        Self {
            spec,
            options: Arc::new(options.clone()),
            audio: Vec::new(),
            begin: Samples(0),
            unread: Samples(0),
            agreement: Agreement::default(),
            passed: 0,
            prompt: tail(&options.context),
            language: None,
            closed: false,
            finished: false,
            sparing: false,
        }
    }

    fn window(&self) -> Window<'_> {
        let longest = self.spec.longest.0 as usize;
        Window {
            audio: &self.audio[..self.audio.len().min(longest)],
            options: &self.options,
            prompt: &self.prompt,
            language: self.language.as_deref(),
            last: self.closed && self.audio.len() <= longest,
        }
    }

    fn take(&mut self, reading: Reading) {
        let longest = self.spec.longest.0 as usize;
        let whole = self.audio.len() <= longest;
        self.unread = Samples(self.audio.len().saturating_sub(longest) as u64);
        let begin = self.begin;
        let shifted = |word: RecognisedWord| RecognisedWord { start: begin + word.start, end: begin + word.end, ..word };
        self.agreement.read(reading.words.into_iter().map(shifted).collect(), reading.settled);
        self.language = reading.language.or(self.language.take());
        if self.closed && whole {
            self.agreement.settle();
            self.finished = true;
            return;
        }
        let length = Samples(self.audio.len() as u64);
        if length >= self.spec.longest {
            // It must be cut now. Without any agreement the model's word is taken, but for the last second.
            let end = self.begin + self.spec.longest.saturating_sub(UNSURE);
            self.agreement.settle_until(end);
            self.cut(true);
        } else if length >= self.spec.comfortable {
            self.cut(false);
        }
    }

    /// Begins the window behind the last committed word; `forced`: it must become shorter, words or not.
    fn cut(&mut self, forced: bool) {
        let committed = self.agreement.committed();
        let word_end = committed.last().map_or(Samples(0), |word| word.end).saturating_sub(MARGIN);
        let latest = self.begin + Samples(self.audio.len() as u64);
        let least = self.begin + if forced { self.spec.longest.saturating_sub(UNSURE) } else { Samples(0) };
        // Nothing was said for the length of a window: that is passed over.
        let to = if forced && word_end <= self.begin { least } else { word_end }.min(latest);
        let Some(samples) = to.0.checked_sub(self.begin.0).filter(|&samples| samples > 0) else { return };
        self.audio.drain(..samples as usize);
        self.begin = to;
        for word in &committed[self.passed..] {
            if word.spaced && !self.prompt.is_empty() {
                self.prompt.push(' ');
            }
            self.prompt.push_str(&word.text);
        }
        self.passed = committed.len();
        self.prompt = tail(&self.prompt);
    }
}

/// The end of a text.
fn tail(text: &str) -> String {
    let excess = text.chars().count().saturating_sub(PROMPT_CHARS);
    text.chars().skip(excess).collect()
}

impl Utterance for WindowUtterance {
    fn push_audio(&mut self, samples: &[f32]) {
        self.audio.extend_from_slice(samples);
        self.unread = self.unread + Samples(samples.len() as u64);
    }

    fn close(&mut self, speech_end: Samples) {
        self.closed = true;
        // Silence at the end makes some models invent words; a little of it tells them that it is the end.
        let end = (speech_end + UNSURE).saturating_sub(self.begin).0 as usize;
        self.audio.truncate(end);
    }

    fn due(&self) -> Due {
        match () {
            () if self.finished => Due::Later,
            () if self.closed => Due::Now,
            // It must not grow further.
            () if self.audio.len() as u64 >= self.spec.longest.0 => Due::Now,
            () if !self.sparing && self.unread >= self.spec.step => Due::CaughtUp,
            () => Due::Later,
        }
    }

    fn transcript(&mut self) -> Transcript {
        Transcript { words: self.agreement.words(), committed: self.agreement.committed().len(), language: self.language.clone() }
    }

    fn finish(&mut self) -> Transcript {
        self.agreement.settle();
        self.transcript()
    }

    fn spare(&mut self, sparing: bool) {
        self.sparing = sparing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::any::Any;

    /// Reads a word for each row of equal samples of some length, named by them.
    struct Counting {
        longest_seen: usize,
        prompts: Vec<String>,
    }

    impl WindowModel for Counting {
        fn read(&mut self, windows: &[Window<'_>]) -> Result<Vec<Reading>, RuntimeError> {
            let read = |window: &Window<'_>| {
                self.longest_seen = self.longest_seen.max(window.audio.len());
                self.prompts.push(window.prompt.to_owned());
                let (mut at, mut words) = (0, Vec::new());
                for row in window.audio.chunk_by(|a, b| a == b) {
                    let (start, end) = (Samples(at), Samples(at + row.len() as u64));
                    if row[0] != 0.0 && row.len() >= 800 {
                        words.push(RecognisedWord { text: format!("w{}", row[0]), spaced: true, start, end, confidence: 1.0 });
                    }
                    at = end.0;
                }
                Reading { words, settled: 0, language: Some("xx".into()) }
            };
            Ok(windows.iter().map(read).collect())
        }
    }

    fn spec() -> WindowSpec {
        WindowSpec { longest: Samples::from_ms(3_000), comfortable: Samples::from_ms(2_000), step: Samples::from_ms(500), batch: 4 }
    }

    /// Tenths of a second of sound, each sample the number of its tenth.
    fn sound(tenths: std::ops::Range<usize>) -> Vec<f32> {
        tenths.flat_map(|n| std::iter::repeat_n(n as f32 + 1.0, 1_600)).collect()
    }

    fn run(recogniser: &mut WindowRecogniser<Counting>, utterance: &mut dyn Utterance) {
        while utterance.due() != Due::Later {
            recogniser.run(&mut [&mut *utterance]).expect("it reads");
        }
    }

    #[test]
    fn a_long_utterance_is_read_in_windows_and_loses_no_word() {
        let mut recogniser = WindowRecogniser::new(Counting { longest_seen: 0, prompts: Vec::new() }, spec());
        let mut utterance = WindowUtterance::new(spec(), &UtteranceOptions { context: "before".into(), ..Default::default() });
        let mut committed = Vec::new();
        for tenth in 0..200 {
            utterance.push_audio(&sound(tenth..tenth + 1));
            run(&mut recogniser, &mut utterance);
            let transcript = utterance.transcript();
            let now = transcript.words[..transcript.committed].to_vec();
            assert!(now.starts_with(&committed));
            assert!(tenth < 12 || now.len() + 12 > tenth, "at {tenth} only {} words are committed", now.len());
            committed = now;
        }
        utterance.close(Samples::from_ms(20_000));
        run(&mut recogniser, &mut utterance);
        let transcript = utterance.finish();
        let said: Vec<String> = transcript.words.iter().map(|word| word.text.clone()).collect();
        assert_eq!(said, (1..=200).map(|n| format!("w{n}")).collect::<Vec<_>>());
        assert_eq!((transcript.committed, transcript.language.as_deref()), (200, Some("xx")));
        assert!(recogniser.model.longest_seen <= spec().longest.0 as usize);
        assert_eq!(recogniser.model.prompts[0], "before");
        assert!(recogniser.model.prompts.last().is_some_and(|prompt| prompt.len() <= PROMPT_CHARS && prompt.contains("w150 w151")));
    }

    #[test]
    fn sparing_reads_once_at_the_end_and_a_backlog_once_for_all() {
        let mut recogniser = WindowRecogniser::new(Counting { longest_seen: 0, prompts: Vec::new() }, spec());
        let mut utterance = WindowUtterance::new(spec(), &UtteranceOptions::default());
        utterance.spare(true);
        for tenth in 0..25 {
            utterance.push_audio(&sound(tenth..tenth + 1));
            assert_eq!(utterance.due(), Due::Later);
        }
        utterance.close(Samples::from_ms(2_500));
        run(&mut recogniser, &mut utterance);
        assert_eq!((utterance.finish().words.len(), recogniser.model.prompts.len()), (25, 1));
    }

    #[test]
    fn a_window_without_words_is_passed_over() {
        let mut recogniser = WindowRecogniser::new(Counting { longest_seen: 0, prompts: Vec::new() }, spec());
        let mut utterance = WindowUtterance::new(spec(), &UtteranceOptions::default());
        utterance.push_audio(&vec![0.0; 160_000]);
        run(&mut recogniser, &mut utterance);
        assert!(utterance.audio.len() <= spec().longest.0 as usize && utterance.transcript().words.is_empty());
        utterance.push_audio(&sound(0..5));
        utterance.close(Samples::from_ms(10_500));
        run(&mut recogniser, &mut utterance);
        assert_eq!(utterance.finish().words.len(), 5);
    }

    #[test]
    fn another_packs_utterance_is_refused() {
        struct Other;
        impl Utterance for Other {
            fn push_audio(&mut self, _: &[f32]) {}
            fn close(&mut self, _: Samples) {}
            fn due(&self) -> Due {
                Due::Now
            }
            fn transcript(&mut self) -> Transcript {
                Transcript::default()
            }
            fn finish(&mut self) -> Transcript {
                Transcript::default()
            }
        }
        let mut other = Other;
        assert!((&mut other as &mut dyn Any).downcast_mut::<WindowUtterance>().is_none());
        let mut recogniser = WindowRecogniser::new(Counting { longest_seen: 0, prompts: Vec::new() }, spec());
        assert!(recogniser.run(&mut [&mut other]).is_err());
    }
}
