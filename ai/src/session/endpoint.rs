//! How much silence ends a segment, by what was said before it.
//!
//! Place: a session asks at each window of silence. Rule: text only moves the configured silence within bounds; without words, or
//! without the wish, it stands.

use super::event::Word;
use crate::audio::Samples;

/// A finished sentence needs less silence, in percent of the configured.
const FINISHED_PERCENT: u64 = 60;
/// A sentence that hangs needs more.
const HANGING_PERCENT: u64 = 180;
/// Never less than this: the detector itself needs some of it.
const LEAST: Samples = Samples::from_ms(200);
/// Never more than this.
const MOST: Samples = Samples::from_ms(5_000);

/// Words that no sentence ends with, by language: articles, conjunctions, prepositions that need what follows, fillers.
const HANGING: [(&str, &[&str]); 5] = [
    (
        "en",
        &[
            "a", "an", "the", "and", "or", "but", "because", "so", "if", "when", "while", "of", "to", "from", "with", "for", "in", "at",
            "by", "my", "your", "his", "their", "our", "is", "are", "was", "were", "um", "uh", "like",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "ein", "eine", "einen", "und", "oder", "aber", "weil", "dass", "wenn", "von", "mit", "zu", "für", "in",
            "bei", "mein", "dein", "sein", "ihr", "äh", "ähm",
        ],
    ),
    (
        "es",
        &[
            "el", "la", "los", "las", "un", "una", "y", "o", "pero", "porque", "que", "si", "de", "con", "para", "por", "en", "mi", "tu",
            "su", "eh",
        ],
    ),
    (
        "fr",
        &[
            "le", "la", "les", "un", "une", "des", "et", "ou", "mais", "parce", "que", "si", "de", "avec", "pour", "dans", "à", "mon",
            "ton", "son", "euh",
        ],
    ),
    (
        "it",
        &[
            "il", "lo", "la", "i", "gli", "le", "un", "una", "e", "o", "ma", "perché", "che", "se", "di", "con", "per", "in", "mio", "tuo",
            "suo", "ehm",
        ],
    ),
];

/// The silence that ends a segment of these words, of a configured one. `language`: a BCP 47 tag, or empty.
pub(super) fn silence(configured: Samples, words: &[Word], language: &str) -> Samples {
    let Some(last) = words.last() else { return configured };
    let percent = match () {
        () if last.text.ends_with(['.', '?', '!', '。', '？', '！', '।', '؟']) => FINISHED_PERCENT,
        () if last.text.ends_with([',', ';', ':', '、', '-']) || hangs(&last.text, language) => HANGING_PERCENT,
        () => 100,
    };
    Samples(configured.0 * percent / 100).clamp(LEAST, MOST)
}

fn hangs(word: &str, language: &str) -> bool {
    let language = crate::recogniser::primary(language);
    let word = word.to_lowercase();
    HANGING.iter().any(|(own, words)| *own == language && words.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(configured_ms: u64, text: &str, language: &str) -> u64 {
        let word = |text: &str| Word { text: text.to_owned(), spaced: true, start: Samples(0), end: Samples(0), confidence: 1.0 };
        silence(Samples::from_ms(configured_ms), &text.split_whitespace().map(word).collect::<Vec<_>>(), language).as_ms()
    }

    #[test]
    fn text_moves_the_silence_within_bounds() {
        assert_eq!(needed(500, "", "en"), 500);
        assert_eq!(needed(500, "call me back", "en"), 500);
        assert_eq!(needed(500, "Call me back.", "en"), 300);
        assert_eq!(needed(500, "call me and", "en-GB"), 900);
        assert_eq!(needed(500, "Ruf an UND", "de"), 900);
        assert_eq!(needed(500, "ruf an und", "en"), 500, "another language's word");
        assert_eq!(needed(500, "call me,", ""), 900);
        assert_eq!(needed(200, "Yes.", "en"), 200);
        assert_eq!(needed(4_000, "and", "en"), 5_000);
    }
}
