//! Moonshine behind the recogniser's interface: read again as the utterance grows, committed by LocalAgreement-2.
//!
//! Rule: the model gives no times; a window's words share its sound by their length, which says about where they are and no more.

use std::sync::Arc;

use super::window::{Reading, Window, WindowModel, WindowRecogniser, WindowSpec, WindowUtterance};
use super::{Abilities, RecognisedWord, Recogniser, SpeechPack, Utterance, UtteranceOptions};
use crate::audio::Samples;
use crate::moonshine::{Moonshine, MoonshineOptions};
use crate::pack::MoonshinePack;
use crate::runtime::{Runtime, RuntimeError};

/// The work grows with the sound, so windows are short; without times a cut is a guess, so not too short.
const WINDOW: WindowSpec =
    WindowSpec { longest: Samples::from_ms(30_000), comfortable: Samples::from_ms(20_000), step: Samples::from_ms(500), batch: 1 };
/// Shorter windows hold no word.
const SHORTEST: Samples = Samples::from_ms(200);

/// A pack of Moonshine as a recogniser's.
pub struct MoonshineSpeech {
    pack: Arc<MoonshinePack>,
    languages: Vec<String>,
}

impl MoonshineSpeech {
    /// Of an opened pack; a language may stand at the end of its name (`moonshine-tiny-ja`), else it is English.
    pub fn new(pack: MoonshinePack) -> Self {
        let ending = pack.name().rsplit('-').next().filter(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_lowercase()));
        let languages = vec![ending.unwrap_or("en").to_owned()];
        Self { pack: Arc::new(pack), languages }
    }
}

impl SpeechPack for MoonshineSpeech {
    fn name(&self) -> &str {
        self.pack.name()
    }

    fn languages(&self) -> &[String] {
        &self.languages
    }

    fn abilities(&self) -> Abilities {
        Abilities { punctuation: true, ..Abilities::default() }
    }

    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance> {
        Box::new(WindowUtterance::new(WINDOW, options))
    }

    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError> {
        let mut recogniser = WindowRecogniser::new(MoonshineModel(Moonshine::load(runtime, self.pack.clone())?), WINDOW);
        recogniser.try_out()?;
        Ok(Box::new(recogniser))
    }
}

struct MoonshineModel(Moonshine);

impl WindowModel for MoonshineModel {
    fn read(&mut self, windows: &[Window<'_>]) -> Result<Vec<Reading>, RuntimeError> {
        let mut readings = Vec::with_capacity(windows.len());
        for window in windows {
            if (window.audio.len() as u64) < SHORTEST.0 {
                readings.push(Reading::default());
                continue;
            }
            let heard = self.0.transcribe(window.audio, &MoonshineOptions::default())?;
            let confidence = (heard.logprobs.iter().sum::<f32>() / heard.logprobs.len().max(1) as f32).exp();
            readings.push(Reading { words: spread(&heard.text, window.audio.len() as u64, confidence), settled: 0, language: None });
        }
        Ok(readings)
    }
}

/// The words of a text over so many samples, each as long as its letters.
fn spread(text: &str, samples: u64, confidence: f32) -> Vec<RecognisedWord> {
    let letters = text.chars().count().max(1) as u64;
    let mut before = 0;
    let word = |text: &str| {
        let at = |letters_before: u64| Samples(samples * letters_before / letters);
        let start = at(before);
        before += text.chars().count() as u64 + 1;
        RecognisedWord {
            text: text.to_owned(),
            spaced: true,
            start,
            end: at((before - 1).min(letters)),
            confidence: confidence.clamp(0.0, 1.0),
        }
    };
    text.split_whitespace().map(word).collect()
}
