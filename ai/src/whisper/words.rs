//! Words out of tokens, and their times (`_combine_tokens_into_words` of `transformers`, after OpenAI's `whisper.tokenizer`).

use super::Segment;
use super::tokens::WhisperTokens;

/// Marks that belong to the word after them.
const PREPENDED: &str = "\"'“¡¿([{-";
/// Marks that belong to the word before them.
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";
/// Languages that are written without spaces between words.
const UNSPACED: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// A word and when it was said.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedWord {
    /// As it is written, marks included, spaces around it not.
    pub text: String,
    /// Whether a space stands before it.
    pub spaced: bool,
    /// Seconds from the sound's beginning.
    pub start: f64,
    /// Seconds from the sound's beginning.
    pub end: f64,
    /// Mean probability of its tokens.
    pub confidence: f32,
    /// The place of its first token among those that were said.
    pub place: usize,
    /// How many tokens it has.
    pub tokens: usize,
}

/// When a token was said, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct TokenTime {
    start: f64,
    end: f64,
}

impl TokenTime {
    /// Each token begins where the one before it ends.
    pub(super) fn between(ends: &[f64]) -> Vec<Self> {
        let starts = std::iter::once(0.0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| Self { start, end }).collect()
    }
}

/// Times of tokens for want of attention: a segment's time, shared by the bytes of its tokens.
pub(super) fn spread(tokens: &WhisperTokens, segments: &[Segment]) -> Vec<TokenTime> {
    let mut times = Vec::new();
    for segment in segments {
        let bytes = |token: &u32| tokens.decode(&[*token]).len();
        let all = segment.tokens.iter().map(bytes).sum::<usize>().max(1);
        let at = |bytes: usize| segment.start + (segment.end - segment.start) * bytes as f64 / all as f64;
        let mut before = 0;
        for token in &segment.tokens {
            let after = before + bytes(token);
            times.push(TokenTime { start: at(before), end: at(after) });
            before = after;
        }
    }
    times
}

/// A word on its way: text and places of its tokens.
#[derive(Default)]
struct Part {
    text: String,
    places: Vec<usize>,
}

/// The words of tokens, each with its time. Times that are said between the words are left out.
pub(super) fn timed_words(
    tokens: &WhisperTokens,
    language: Option<&str>,
    said: &[u32],
    logprobs: &[f32],
    times: &[TokenTime],
) -> Vec<TimedWord> {
    // A time token parts words.
    let mut words = Vec::new();
    let is_text = |place: &usize| said[*place] < tokens.eos();
    let places: Vec<usize> = (0..said.len()).collect();
    for stretch in places.chunk_by(|a, b| is_text(a) == is_text(b)).filter(|stretch| is_text(&stretch[0])) {
        let parts = characters(tokens, said, stretch);
        let parts = if language.is_some_and(|language| UNSPACED.contains(&language)) { parts } else { spaced(parts) };
        for part in punctuated(parts) {
            let (Some(&first), Some(&last)) = (part.places.first(), part.places.last()) else { continue };
            let probability = part.places.iter().map(|&place| logprobs.get(place).map_or(0.0, |logprob| logprob.exp())).sum::<f32>();
            words.push(TimedWord {
                text: part.text.trim().to_owned(),
                spaced: part.text.starts_with(' '),
                start: times.get(first).map_or(0.0, |time| time.start),
                end: times.get(last).map_or(0.0, |time| time.end),
                confidence: probability / part.places.len() as f32,
                place: first,
                tokens: part.places.len(),
            });
        }
    }
    words
}

/// Tokens that are whole characters together.
fn characters(tokens: &WhisperTokens, said: &[u32], places: &[usize]) -> Vec<Part> {
    const BROKEN: char = '\u{fffd}';
    let whole: Vec<char> = tokens.decode(&places.iter().map(|&place| said[place]).collect::<Vec<_>>()).chars().collect();
    let mut parts = Vec::new();
    let mut pending = Part::default();
    let mut done = 0;
    for &place in places {
        pending.places.push(place);
        pending.text = tokens.decode(&pending.places.iter().map(|&place| said[place]).collect::<Vec<_>>());
        let broken = pending.text.chars().position(|character| character == BROKEN);
        // A broken character that stays broken in the whole is one.
        if broken.is_none_or(|at| whole.get(done + at) == Some(&BROKEN)) {
            done += pending.text.chars().count();
            parts.push(std::mem::take(&mut pending));
        }
    }
    parts
}

/// Parts up to the next space or mark.
fn spaced(parts: Vec<Part>) -> Vec<Part> {
    let mut words: Vec<Part> = Vec::new();
    for part in parts {
        let trimmed = part.text.trim();
        let mark = trimmed.is_empty() || (trimmed.chars().count() == 1 && trimmed.chars().all(|c| c.is_ascii_punctuation()));
        match words.last_mut().filter(|_| !part.text.starts_with(' ') && !mark) {
            Some(word) => {
                word.text.push_str(&part.text);
                word.places.extend(part.places);
            }
            None => words.push(part),
        }
    }
    words
}

/// Marks joined with the words that they belong to.
fn punctuated(mut words: Vec<Part>) -> Vec<Part> {
    let join = |words: &mut Vec<Part>, first: usize, second: usize, into: usize| {
        let (a, b) = (std::mem::take(&mut words[first]), std::mem::take(&mut words[second]));
        words[into] = Part { text: a.text + &b.text, places: [a.places, b.places].concat() };
    };
    let within = |marks: &str, text: &str| !text.is_empty() && marks.contains(text);
    let mut following = words.len().saturating_sub(1);
    for index in (0..words.len().saturating_sub(1)).rev() {
        if words[index].text.starts_with(' ') && within(PREPENDED, words[index].text.trim()) {
            join(&mut words, index, following, following);
        } else {
            following = index;
        }
    }
    let mut before = 0;
    for index in 1..words.len() {
        if !words[before].text.ends_with(' ') && within(APPENDED, &words[index].text) {
            join(&mut words, before, index, before);
        } else {
            before = index;
        }
    }
    words.retain(|word| !word.places.is_empty());
    words
}
