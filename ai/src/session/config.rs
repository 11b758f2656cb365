//! What a stream wants, at its beginning and later.

use crate::audio::enhance::Enhancement;
use crate::recogniser::{Hotword, UtteranceOptions};

/// Most hotwords of a stream: each costs a little in every frame.
pub const MAX_HOTWORDS: usize = 256;
/// Characters of the longest hotword.
pub const MAX_HOTWORD_CHARS: usize = 128;

/// What a stream wants.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// BCP 47 tag of the language spoken, or empty for the pack's own.
    pub language: String,
    /// Whether text that may still change is reported (committed words are reported either way).
    pub interim: bool,
    /// Silence that closes a segment, 200 to 5,000 ms. Shorter answers faster and cuts sentences at pauses.
    pub endpoint_silence_ms: u32,
    /// Whether what was said moves that silence: a finished sentence is closed sooner, one that hangs on an "and" later.
    pub endpoint_by_text: bool,
    /// A shorter silence after which [`super::SpeechEvent::TurnMayEnd`] is told, 100 ms and more; 0: never.
    pub eager_silence_ms: u32,
    /// The longest segment, 2,000 to 60,000 ms: bounds memory, and a reader's patience.
    pub max_segment_ms: u32,
    /// Words and phrases to listen for, where the pack takes them.
    pub hotwords: Vec<Hotword>,
    /// What the talk is about, or was said before, where the pack takes it.
    pub context: String,
    /// Write English whatever is spoken, where the pack can.
    pub translate: bool,
    /// What is done to the sound before it is heard.
    pub enhancement: Enhancement,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            language: String::new(),
            interim: true,
            endpoint_silence_ms: 550,
            endpoint_by_text: false,
            eager_silence_ms: 0,
            max_segment_ms: 20_000,
            hotwords: Vec::new(),
            context: String::new(),
            translate: false,
            enhancement: Enhancement::default(),
        }
    }
}

impl SessionConfig {
    /// The configuration with every value brought into its range.
    pub fn clamped(mut self) -> Self {
        self.endpoint_silence_ms = self.endpoint_silence_ms.clamp(200, 5_000);
        self.max_segment_ms = self.max_segment_ms.clamp(2_000, 60_000);
        if self.eager_silence_ms > 0 {
            self.eager_silence_ms = self.eager_silence_ms.clamp(100, self.endpoint_silence_ms);
        }
        self.hotwords.retain(|word| !word.text.trim().is_empty() && word.text.chars().count() <= MAX_HOTWORD_CHARS);
        self.hotwords.truncate(MAX_HOTWORDS);
        for word in &mut self.hotwords {
            word.boost = if word.boost.is_finite() { word.boost.clamp(0.0, 10.0) } else { 0.0 };
        }
        self
    }

    /// What an utterance is begun with, after `said`.
    pub(super) fn utterance(&self, said: &str) -> UtteranceOptions {
        let context = [self.context.as_str(), said].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        UtteranceOptions { language: self.language.clone(), hotwords: self.hotwords.clone(), context, translate: self.translate }
    }
}

/// What changes in the middle of a stream; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionUpdate {
    /// See [`SessionConfig::language`]; what is being said is closed, what follows is heard in the new language.
    pub language: Option<String>,
    /// See [`SessionConfig::interim`].
    pub interim: Option<bool>,
    /// See [`SessionConfig::endpoint_silence_ms`].
    pub endpoint_silence_ms: Option<u32>,
    /// See [`SessionConfig::endpoint_by_text`].
    pub endpoint_by_text: Option<bool>,
    /// See [`SessionConfig::eager_silence_ms`].
    pub eager_silence_ms: Option<u32>,
    /// See [`SessionConfig::hotwords`]; from the next segment on.
    pub hotwords: Option<Vec<Hotword>>,
    /// See [`SessionConfig::context`]; from the next segment on.
    pub context: Option<String>,
    /// See [`SessionConfig::translate`]; what is being said is closed, as with another language.
    pub translate: Option<bool>,
    /// See [`SessionConfig::enhancement`].
    pub enhancement: Option<Enhancement>,
}

impl SessionUpdate {
    /// The configuration after the change, and whether what is being said must be closed for it.
    pub(super) fn apply(self, config: &SessionConfig) -> (SessionConfig, bool) {
        let next = SessionConfig {
            language: self.language.unwrap_or_else(|| config.language.clone()),
            interim: self.interim.unwrap_or(config.interim),
            endpoint_silence_ms: self.endpoint_silence_ms.unwrap_or(config.endpoint_silence_ms),
            endpoint_by_text: self.endpoint_by_text.unwrap_or(config.endpoint_by_text),
            eager_silence_ms: self.eager_silence_ms.unwrap_or(config.eager_silence_ms),
            max_segment_ms: config.max_segment_ms,
            hotwords: self.hotwords.unwrap_or_else(|| config.hotwords.clone()),
            context: self.context.unwrap_or_else(|| config.context.clone()),
            translate: self.translate.unwrap_or(config.translate),
            enhancement: self.enhancement.unwrap_or(config.enhancement),
        };
        let cut = next.language != config.language || next.translate != config.translate;
        (next.clamped(), cut)
    }
}
