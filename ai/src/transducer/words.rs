//! Tokens to words: pieces joined where no space stands, bytes to letters, a letter of Chinese or Japanese for itself.

use super::search::Found;
use super::symbols::Symbols;
use crate::audio::Samples;
use crate::recogniser::RecognisedWord;
use crate::tokenizer::sentencepiece::SPACE;

/// A word, and how many tokens there are up to its end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SpelledWord {
    pub word: RecognisedWord,
    pub tokens: usize,
}

/// The words of tokens; `frame`: samples of an encoder's frame.
pub(crate) fn spell(found: &[Found], symbols: &Symbols, frame: u64) -> Vec<SpelledWord> {
    let mut words: Vec<Spelling> = Vec::new();
    for (index, token) in found.iter().enumerate() {
        let (spaced, letters) = match symbols.byte(token.token) {
            Some(byte) => (false, Letters::Byte(byte)),
            None => {
                let symbol = symbols.get(token.token);
                let bare = symbol.trim_start_matches([SPACE, ' ']);
                (bare.len() < symbol.len(), Letters::Text(bare))
            }
        };
        let alone = matches!(letters, Letters::Text(text) if text.chars().next().is_some_and(is_ideograph));
        let begins = words.last().is_none_or(|word| spaced || alone || word.alone);
        if begins {
            words.push(Spelling { spaced: spaced || words.is_empty(), alone, bytes: Vec::new(), first: index, last: index });
        }
        if let Some(word) = words.last_mut() {
            match letters {
                Letters::Byte(byte) => word.bytes.push(byte),
                Letters::Text(text) => word.bytes.extend(text.bytes()),
            }
            word.last = index;
        }
    }
    words.retain(|word| !word.bytes.is_empty());
    words.iter().map(|word| word.finish(found, frame)).collect()
}

enum Letters<'a> {
    Byte(u8),
    Text(&'a str),
}

struct Spelling {
    spaced: bool,
    alone: bool,
    bytes: Vec<u8>,
    first: usize,
    last: usize,
}

impl Spelling {
    fn finish(&self, found: &[Found], frame: u64) -> SpelledWord {
        let tokens = &found[self.first..=self.last];
        let mean = tokens.iter().map(|found| found.log_prob).sum::<f32>() / tokens.len() as f32;
        let at = |frames: usize| Samples(frames as u64 * frame);
        SpelledWord {
            word: RecognisedWord {
                text: String::from_utf8_lossy(&self.bytes).into_owned(),
                spaced: self.spaced,
                start: at(found[self.first].frame),
                end: at(found[self.last].frame + 1),
                confidence: mean.exp().clamp(0.0, 1.0),
            },
            tokens: self.last + 1,
        }
    }
}

fn is_ideograph(letter: char) -> bool {
    matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3134f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokens: &[&str]) -> Vec<(String, bool, u64, u64)> {
        let list: String = std::iter::once("<blk> 0\n".to_owned())
            .chain(tokens.iter().enumerate().map(|(n, token)| format!("{token} {}\n", n + 1)))
            .collect();
        let symbols = Symbols::read(&list).expect("it is a list");
        let found: Vec<Found> = (0..tokens.len()).map(|n| Found { token: n + 1, frame: 2 * n, log_prob: -0.1 }).collect();
        spell(&found, &symbols, 640).into_iter().map(|w| (w.word.text, w.word.spaced, w.word.start.as_ms(), w.word.end.as_ms())).collect()
    }

    #[test]
    fn pieces_bytes_and_ideographs_become_words() {
        let expected =
            [("hello", true, 0, 120), ("wörld", true, 160, 520)].map(|(text, spaced, start, end)| (text.to_owned(), spaced, start, end));
        assert_eq!(words(&["\u{2581}hel", "lo", "\u{2581}w", "<0xC3>", "<0xB6>", "r", "ld"]), expected);
        let expected = [("你", true), ("好", false), ("ok", true)].map(|(text, spaced)| (text.to_owned(), spaced));
        let found: Vec<(String, bool)> = words(&["你", "好", "\u{2581}ok"]).into_iter().map(|(text, spaced, ..)| (text, spaced)).collect();
        assert_eq!(found, expected);
        assert!(words(&["\u{2581}"]).is_empty());
    }
}
