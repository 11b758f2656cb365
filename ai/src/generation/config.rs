//! What is to be generated: the values of `generation_config.json`, which overrides those that older exports keep in `config.json`.

use serde::Deserialize;
use serde_json::Value as Json;

/// Most tokens of a sequence, whatever a file says: attention grows with their square.
const MAX_LENGTH: usize = 4_096;
/// Most beams.
const MAX_BEAMS: usize = 64;

/// When beam search stops looking for better sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// When the best running beam at its present length is worse than the worst finished one (`false`).
    #[default]
    Heuristic,
    /// When as many sequences as beams are finished (`true`).
    Full,
    /// When no running beam can become better (`"never"`).
    Never,
}

/// How a sequence is generated. Names and defaults are those of transformers.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// The first token that the decoder is given.
    pub decoder_start_token_id: i64,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<i64>,
    /// Fills the rows of a batch behind their end.
    pub pad_token_id: i64,
    /// The token that must come first.
    pub forced_bos_token_id: Option<i64>,
    /// The token that must come last when a sequence reaches its maximum.
    pub forced_eos_token_id: Option<i64>,
    /// Tokens of a sequence, the decoder's start included.
    pub max_length: usize,
    /// Beams; 1 is greedy.
    pub num_beams: usize,
    /// Exponent of the length by which a finished beam's score is divided.
    pub length_penalty: f32,
    /// When beam search stops.
    pub early_stopping: EarlyStopping,
    /// Rows of so many tokens come only once; 0: as often as they like.
    pub no_repeat_ngram_size: usize,
    /// Rows of tokens that never come.
    pub bad_words_ids: Vec<Vec<i64>>,
    /// Tokens that never come.
    pub suppress_tokens: Vec<i64>,
    /// Whether scores are made probabilities again after they were changed.
    pub renormalize_logits: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(i64),
    More(Vec<i64>),
}

impl GenerationConfig {
    /// Of the texts of `config.json` and, where there is one, `generation_config.json`.
    ///
    /// # Errors
    /// A sentence naming the value that is missing or cannot be.
    pub fn read(config: &Json, generation: Option<&Json>) -> Result<Self, String> {
        let find = |key: &str| {
            let from = |json: &Json| json.get(key).filter(|value| !value.is_null()).cloned();
            generation.and_then(from).or_else(|| from(config))
        };
        fn parse<T: serde::de::DeserializeOwned>(key: &str, value: Option<Json>) -> Result<Option<T>, String> {
            value.map(|value| serde_json::from_value(value).map_err(|error| format!("`{key}`: {error}"))).transpose()
        }
        let token = |key: &str| parse::<i64>(key, find(key));
        let number = |key: &str, most: usize| match parse::<usize>(key, find(key))? {
            Some(value) if value > most => Err(format!("`{key}` is {value}: at most {most} is possible")),
            other => Ok(other),
        };
        let eos_token_ids = match parse("eos_token_id", find("eos_token_id"))? {
            Some(OneOrMore::One(id)) => vec![id],
            Some(OneOrMore::More(ids)) if !ids.is_empty() && ids.len() <= 16 => ids,
            _ => return Err("`eos_token_id` is missing".to_owned()),
        };
        let decoder_start_token_id = token("decoder_start_token_id")?.ok_or("`decoder_start_token_id` is missing")?;
        let early_stopping = match find("early_stopping") {
            Some(Json::Bool(true)) => EarlyStopping::Full,
            Some(Json::String(word)) if word == "never" => EarlyStopping::Never,
            _ => EarlyStopping::Heuristic,
        };
        let length_penalty = parse::<f32>("length_penalty", find("length_penalty"))?.unwrap_or(1.0);
        if !length_penalty.is_finite() {
            return Err(format!("`length_penalty` is {length_penalty}"));
        }
        Ok(Self {
            decoder_start_token_id,
            pad_token_id: token("pad_token_id")?.unwrap_or(eos_token_ids[0]),
            eos_token_ids,
            forced_bos_token_id: token("forced_bos_token_id")?,
            forced_eos_token_id: token("forced_eos_token_id")?,
            max_length: number("max_length", MAX_LENGTH)?.unwrap_or(512).max(2),
            num_beams: number("num_beams", MAX_BEAMS)?.unwrap_or(1).max(1),
            length_penalty,
            early_stopping,
            no_repeat_ngram_size: number("no_repeat_ngram_size", MAX_LENGTH)?.unwrap_or(0),
            bad_words_ids: parse("bad_words_ids", find("bad_words_ids"))?.unwrap_or_default(),
            suppress_tokens: parse("suppress_tokens", find("suppress_tokens"))?.unwrap_or_default(),
            renormalize_logits: parse("renormalize_logits", find("renormalize_logits"))?.unwrap_or(false),
        })
    }

    /// Whether a token ends a sequence.
    pub fn is_end(&self, token: i64) -> bool {
        self.eos_token_ids.contains(&token)
    }
}
