//! What turns speech into words, whatever family of model it is.
//!
//! Place: between a session, which finds the utterances, and the networks. A pack ([`SpeechPack`]) begins an [`Utterance`] for each
//! stretch of speech and loads one [`Recogniser`] for each thread; the recogniser runs all utterances that are due at once. Rules:
//! the memory of an utterance is its own, so that no segment depends on another; a committed word never changes; what is due is
//! run by the caller, nothing here runs by itself.

mod agreement;
mod ctc;
mod moonshine;
mod network;
mod sherpa;
mod whisper;
mod window;

use std::any::Any;
use std::sync::Arc;

use crate::audio::Samples;
use crate::runtime::{Runtime, RuntimeError};
pub use moonshine::MoonshineSpeech;
pub use network::{Network, NetworkSpec, NetworkState, StateSpec};
pub use whisper::WhisperSpeech;
pub use window::{Reading, Window, WindowModel, WindowRecogniser, WindowSpec, WindowUtterance};

/// A word of an utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct RecognisedWord {
    /// As it is written, punctuation included where the model writes it.
    pub text: String,
    /// Whether a space stands before it (unless it is the first): languages without spaces and single marks have none.
    pub spaced: bool,
    /// Where it begins, from the utterance's first sample.
    pub start: Samples,
    /// Where it ends, from the utterance's first sample.
    pub end: Samples,
    /// How sure the model is, 0 to 1.
    pub confidence: f32,
}

/// The best reading so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    /// Its words; the last may be unfinished.
    pub words: Vec<RecognisedWord>,
    /// So many words from the beginning will not change.
    pub committed: usize,
    /// The language that was found (BCP 47), where the model finds it.
    pub language: Option<String>,
}

/// What to listen for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UtteranceOptions {
    /// BCP 47 tag of the language spoken; empty: the pack's own, or what it finds.
    pub language: String,
    /// Words and phrases that are likelier than the model thinks.
    pub hotwords: Vec<Hotword>,
    /// What was said before, for models that take a context. At most the last few hundred characters matter.
    pub context: String,
    /// Whether to write English, whatever is spoken, where the model can.
    pub translate: bool,
}

/// A word or phrase to listen for.
#[derive(Debug, Clone, PartialEq)]
pub struct Hotword {
    /// As it is written.
    pub text: String,
    /// How much likelier: added to the log-probability of each of its tokens, 0 to 10; 1.5 is usual.
    pub boost: f32,
}

/// What a pack can do beyond words in its language.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Takes hotwords.
    pub hotwords: bool,
    /// Writes English whatever is spoken.
    pub translate: bool,
    /// Finds the language by itself.
    pub detects_language: bool,
    /// Writes punctuation and capitals.
    pub punctuation: bool,
}

/// An opened pack of speech recognition: constant, shared by all threads.
pub trait SpeechPack: Send + Sync {
    /// Its name, and its version where it has one.
    fn name(&self) -> &str;

    /// The languages that it recognises, BCP 47 tags; the first is spoken when none is asked for. Empty: it does not say.
    fn languages(&self) -> &[String];

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// The memory of an utterance that begins.
    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance>;

    /// Loads the networks for one thread and tries them, so that a pack that does not fit is found here.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be loaded or has other shapes than the pack says.
    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError>;

    /// Whether `language` (a BCP 47 tag, or nothing for any) is one of the pack's: the region does not matter.
    fn speaks(&self, language: &str) -> bool {
        let languages = self.languages();
        language.is_empty() || languages.is_empty() || languages.iter().any(|own| primary(own) == primary(language))
    }
}

/// The language of a BCP 47 tag without region and script, lower-case.
pub fn primary(tag: &str) -> String {
    tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase()
}

/// When an utterance wants its recogniser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// More audio is needed first.
    Later,
    /// Before more audio is taken: a network that goes chunk by chunk.
    Now,
    /// Once all audio that is there was taken: a network that looks at the whole utterance each time, and would do so twice.
    CaughtUp,
}

/// A stretch of speech on its way to words.
pub trait Utterance: Any + Send {
    /// Takes audio: 16 kHz mono in [-1, 1].
    fn push_audio(&mut self, samples: &[f32]);

    /// There is no more audio, and what came after `speech_end` (from the utterance's first sample) was silence.
    fn close(&mut self, speech_end: Samples);

    /// Whether the recogniser has something to do for it.
    fn due(&self) -> Due;

    /// The best reading so far.
    fn transcript(&mut self) -> Transcript;

    /// The reading at the end: all is committed. Call it when it is closed and no longer due.
    fn finish(&mut self) -> Transcript;

    /// The machine does not keep up: work that only shows words earlier is left out until this is undone.
    fn spare(&mut self, _sparing: bool) {}
}

/// The networks of a pack on one thread.
pub trait Recogniser: Send {
    /// Takes one step of each utterance, all of which are due and of this recogniser's pack.
    ///
    /// # Errors
    /// [`RuntimeError`]; no utterance has changed then.
    fn run(&mut self, batch: &mut [&mut dyn Utterance]) -> Result<(), RuntimeError>;

    /// Utterances in one run: more save little and make others wait longer.
    fn max_batch(&self) -> usize;
}

/// The utterances of a batch as the type that their pack begins.
///
/// # Errors
/// [`RuntimeError::Run`] when one is another pack's, which a session never does.
fn own<'a, U: Utterance>(batch: &'a mut [&mut dyn Utterance]) -> Result<Vec<&'a mut U>, RuntimeError> {
    let foreign = || RuntimeError::Run { runtime: "the recogniser", reason: "an utterance of another pack was given".to_owned() };
    batch.iter_mut().map(|utterance| (&mut **utterance as &mut dyn Any).downcast_mut().ok_or_else(foreign)).collect()
}
