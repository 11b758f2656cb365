//! Whisper behind the recogniser's interface: read again as the utterance grows. Committed by AlignAtt where the pack gives attention
//! (Papi, Turchi and Negri 2023): it stops writing where it attends to the end of the sound, and what it wrote before is certain; else by
//! LocalAgreement-2.
//!
//! Rule: what was said before, and the hotwords, are the prompt; the language that the first reading of an utterance finds holds for all of
//! it; only the last reading tries again at other temperatures.

use std::sync::Arc;

use super::window::{Reading, Window, WindowModel, WindowRecogniser, WindowSpec, WindowUtterance};
use super::{Abilities, RecognisedWord, Recogniser, SpeechPack, Utterance, UtteranceOptions};
use crate::audio::{SAMPLE_RATE, Samples};
use crate::pack::WhisperPack;
use crate::runtime::{Runtime, RuntimeError};
use crate::whisper::{DecodeOptions, Fallback, TimedWord, Whisper};

/// Whisper's windows have 30 s; from 15 s on what is committed is cut away, since each reading costs by its length of text.
const WINDOW: WindowSpec =
    WindowSpec { longest: Samples::from_ms(30_000), comfortable: Samples::from_ms(15_000), step: Samples::from_ms(1_000), batch: 1 };
/// Frames of 20 ms at the window's end: what attends to them may still go on. Fewer commit earlier and are wrong more often.
const UNSURE_FRAMES: usize = 25;
/// Samples of such a frame.
const FRAME: usize = SAMPLE_RATE as usize / 50;
/// Shorter windows hold no word, and Whisper invents some.
const SHORTEST: Samples = Samples::from_ms(200);
/// The thresholds of the original.
const LOGPROB: f32 = -1.0;
const COMPRESSION: f32 = 2.4;
const NO_SPEECH: f32 = 0.6;

/// A pack of Whisper as a recogniser's.
pub struct WhisperSpeech {
    pack: Arc<WhisperPack>,
    languages: Vec<String>,
}

impl WhisperSpeech {
    /// Of an opened pack.
    pub fn new(pack: WhisperPack) -> Self {
        let mut languages: Vec<String> = pack.tokens().languages().iter().map(|(code, _)| code.clone()).collect();
        if languages.is_empty() {
            languages.push("en".to_owned());
        }
        Self { pack: Arc::new(pack), languages }
    }

    fn is_multilingual(&self) -> bool {
        !self.pack.tokens().languages().is_empty()
    }
}

impl SpeechPack for WhisperSpeech {
    fn name(&self) -> &str {
        self.pack.name()
    }

    fn languages(&self) -> &[String] {
        &self.languages
    }

    fn abilities(&self) -> Abilities {
        Abilities { hotwords: true, translate: self.is_multilingual(), detects_language: self.is_multilingual(), punctuation: true }
    }

    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance> {
        Box::new(WindowUtterance::new(WINDOW, options))
    }

    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError> {
        let model = WhisperModel { whisper: Whisper::load(runtime, self.pack.clone())?, is_multilingual: self.is_multilingual() };
        let mut recogniser = WindowRecogniser::new(model, WINDOW);
        recogniser.try_out()?;
        Ok(Box::new(recogniser))
    }
}

struct WhisperModel {
    whisper: Whisper,
    is_multilingual: bool,
}

impl WhisperModel {
    fn read_one(&mut self, window: &Window<'_>) -> Result<Reading, RuntimeError> {
        if (window.audio.len() as u64) < SHORTEST.0 {
            return Ok(Reading::default());
        }
        let encoded = self.whisper.encode(window.audio)?;
        let asked = window.options.language.split(['-', '_']).next().filter(|language| !language.is_empty());
        let language = if self.is_multilingual { asked.or(window.language).map(str::to_lowercase) } else { None };
        let options = DecodeOptions {
            language,
            translate: window.options.translate && self.is_multilingual,
            words: true,
            prompt: self.prompt(window)?,
            attention_limit: self.attention_limit(window),
            fallback: fallback(window.last),
            ..DecodeOptions::default()
        };
        let decoded = self.whisper.decode(&encoded, &options)?;
        let language = decoded.language.clone();
        if decoded.silent {
            return Ok(Reading { language, ..Reading::default() });
        }
        let length = Samples(window.audio.len() as u64);
        // The last word may be half a word.
        let settled = options.attention_limit.map_or(0, |_| decoded.words.len().saturating_sub(1));
        Ok(Reading { words: decoded.words.iter().map(|word| recognised(word, length)).collect(), settled, language })
    }

    /// Where writing stops, when more sound will follow.
    fn attention_limit(&self, window: &Window<'_>) -> Option<usize> {
        (!window.last && self.whisper.follows_sound()).then(|| (window.audio.len() / FRAME).saturating_sub(UNSURE_FRAMES))
    }

    /// Hotwords and what was said before, the last tokens of them that have room.
    fn prompt(&self, window: &Window<'_>) -> Result<Vec<u32>, RuntimeError> {
        let hotwords: Vec<&str> = window.options.hotwords.iter().map(|word| word.text.as_str()).collect();
        let text =
            [hotwords.join(", "), window.prompt.to_owned()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(". ");
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let wrong = |reason: String| RuntimeError::Run { runtime: "Whisper", reason };
        let mut tokens = self.whisper.pack().tokens().encode(&format!(" {text}")).map_err(wrong)?;
        let room = (self.whisper.pack().max_length() / 2).saturating_sub(1);
        let excess = tokens.len().saturating_sub(room);
        tokens.drain(..excess);
        Ok(tokens)
    }
}

/// A reading that more will follow is taken as it is; the last is tried again when it is not to be believed.
fn fallback(last: bool) -> Fallback {
    let temperatures = if last { vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0] } else { vec![0.0] };
    Fallback { temperatures, logprob: Some(LOGPROB), compression_ratio: Some(COMPRESSION), no_speech: Some(NO_SPEECH), seed: 0 }
}

fn recognised(word: &TimedWord, length: Samples) -> RecognisedWord {
    let at = |seconds: f64| Samples((seconds.max(0.0) * f64::from(SAMPLE_RATE)) as u64).min(length);
    let (start, end) = (at(word.start), at(word.end));
    RecognisedWord { text: word.text.clone(), spaced: word.spaced, start, end: end.max(start), confidence: word.confidence.clamp(0.0, 1.0) }
}

impl WindowModel for WhisperModel {
    fn read(&mut self, windows: &[Window<'_>]) -> Result<Vec<Reading>, RuntimeError> {
        windows.iter().map(|window| self.read_one(window)).collect()
    }
}
