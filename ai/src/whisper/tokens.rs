//! Whisper's tokens: text, languages, tasks and times.

use tokenizers::Tokenizer;

/// Times from 0 to 30 s in steps of 20 ms.
const TIMES: u32 = 1_501;
/// Seconds between two times.
pub const TIME_STEP: f64 = 0.02;

/// A tokenizer and its special tokens.
pub struct WhisperTokens {
    tokenizer: Tokenizer,
    eos: u32,
    start: u32,
    translate: Option<u32>,
    transcribe: Option<u32>,
    previous: Option<u32>,
    no_speech: Option<u32>,
    no_timestamps: u32,
    /// Codes and tokens, by token; empty for a model of English alone.
    languages: Vec<(String, u32)>,
}

impl WhisperTokens {
    /// Looks the special tokens up. `multilingual`: whether the model says that it is; else the tokens tell.
    ///
    /// # Errors
    /// A sentence naming the token that is missing.
    pub fn new(tokenizer: Tokenizer, multilingual: Option<bool>) -> Result<Self, String> {
        let id = |token: &str| tokenizer.token_to_id(token);
        let need = |token: &str| id(token).ok_or_else(|| format!("it has no token `{token}`: it is not Whisper's tokenizer"));
        let (eos, start, no_timestamps) = (need("<|endoftext|>")?, need("<|startoftranscript|>")?, need("<|notimestamps|>")?);
        let (translate, transcribe) = (id("<|translate|>"), id("<|transcribe|>"));
        // Languages stand between the start and the tasks.
        let end = translate.into_iter().chain(transcribe).min().unwrap_or(start);
        let code = |token: u32| Some((tokenizer.id_to_token(token)?.strip_prefix("<|")?.strip_suffix("|>")?.to_owned(), token));
        let languages: Vec<(String, u32)> = (start + 1..end).filter_map(code).collect();
        // The tokenizers of models of English alone have one language token, or all of them, which the model does not know.
        let languages = if multilingual.unwrap_or(languages.len() > 1) { languages } else { Vec::new() };
        let no_speech = id("<|nospeech|>").or_else(|| id("<|nocaptions|>")).or(Some(no_timestamps - 1));
        let previous = id("<|startofprev|>");
        Ok(Self { tokenizer, eos, start, translate, transcribe, previous, no_speech, no_timestamps, languages })
    }

    /// How many tokens the tokenizer knows.
    pub fn count(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The token of this text, if there is one.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// End of text: text tokens are below it.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Start of a transcript.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Before what was said earlier.
    pub fn previous(&self) -> Option<u32> {
        self.previous
    }

    /// Nothing is said.
    pub fn no_speech(&self) -> Option<u32> {
        self.no_speech
    }

    /// No times are wanted.
    pub fn no_timestamps(&self) -> u32 {
        self.no_timestamps
    }

    /// The first time, 0 s.
    pub fn times(&self) -> u32 {
        self.no_timestamps + 1
    }

    /// After the last time.
    pub fn times_end(&self) -> u32 {
        self.times() + TIMES
    }

    /// The token of a task, in models that have more than one.
    pub fn task(&self, translate: bool) -> Option<u32> {
        if self.languages.is_empty() {
            return None;
        }
        if translate { self.translate } else { self.transcribe }
    }

    /// Codes of the languages and their tokens; empty for a model of English alone.
    pub fn languages(&self) -> &[(String, u32)] {
        &self.languages
    }

    /// The token of a language, by a BCP 47 tag: its region does not matter.
    pub fn language(&self, tag: &str) -> Option<u32> {
        let code = crate::recogniser::primary(tag);
        // Codes that Whisper has by another name.
        let code = match code.as_str() {
            "jv" => "jw",
            "nb" => "no",
            "fil" => "tl",
            "iw" => "he",
            "cmn" => "zh",
            other => other,
        };
        self.languages.iter().find(|(own, _)| own == code).map(|(_, id)| *id)
    }

    /// The code of a language's token.
    pub fn code(&self, token: u32) -> Option<&str> {
        self.languages.iter().find(|(_, id)| *id == token).map(|(code, _)| code.as_str())
    }

    /// The tokens of a text, special ones not added.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).map_err(|error| error.to_string())
    }

    /// The text of tokens; times and special tokens have none.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let text: Vec<u32> = tokens.iter().copied().filter(|&token| token < self.eos).collect();
        self.tokenizer.decode(&text, false).unwrap_or_default()
    }

    /// The time of a token, in units of [`TIME_STEP`].
    pub fn time(&self, token: u32) -> Option<u32> {
        token.checked_sub(self.times())
    }
}
