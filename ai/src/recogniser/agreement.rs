//! LocalAgreement-2: of two readings of growing audio, what both begin with is committed (Macháček, Dabre and Bojar 2023).
//!
//! Place: between a model that reads a whole window each time and whoever shows its words. Rule: pure; a committed word is never
//! taken back, whatever later readings say; words that a model repeats from before the window's begin are dropped.

use super::RecognisedWord;
use crate::audio::Samples;

/// Rows of so many words at the seam are looked for and dropped when they repeat what is committed.
const LONGEST_REPETITION: usize = 5;
/// A word that begins earlier than this before the last committed one's end is that word, or one before it.
const SEAM: Samples = Samples::from_ms(100);
/// Words that begin this much after it can no longer be a repetition: people do say things twice.
const NEAR_SEAM: Samples = Samples::from_ms(1_000);

/// What was agreed on, and the last reading of what follows it.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    committed: Vec<RecognisedWord>,
    /// Words after the committed ones, as last read.
    open: Vec<RecognisedWord>,
}

impl Agreement {
    /// Takes a reading: words with times from the utterance's first sample. So many from its beginning are certain by themselves
    /// (`settled`), because the model knows that no more audio will change them.
    pub(super) fn read(&mut self, words: Vec<RecognisedWord>, settled: usize) {
        let end = self.committed.last().map_or(Samples(0), |word| word.end);
        let before = words.len();
        let mut fresh: Vec<RecognisedWord> = words.into_iter().skip_while(|word| word.start + SEAM < end).collect();
        let settled = settled.saturating_sub(before - fresh.len());
        let repeated = self.repetition(&fresh, end);
        fresh.drain(..repeated);
        let settled = settled.saturating_sub(repeated);
        // A model may be unsure of times; those of words in a row never go back.
        let mut floor = self.committed.last().map_or(Samples(0), |word| word.start);
        for word in &mut fresh {
            word.start = word.start.max(floor);
            word.end = word.end.max(word.start);
            floor = word.start;
        }
        let agreed = fresh.iter().zip(&self.open).take_while(|(new, old)| same(&new.text, &old.text)).count();
        let agreed = agreed.max(settled).min(fresh.len());
        self.committed.extend(fresh.drain(..agreed));
        self.open = fresh;
    }

    /// How many words at the beginning of `fresh` are the end of what is committed once more.
    fn repetition(&self, fresh: &[RecognisedWord], end: Samples) -> usize {
        let near = fresh.first().is_some_and(|word| word.start < end + NEAR_SEAM);
        if !near {
            return 0;
        }
        let most = LONGEST_REPETITION.min(fresh.len()).min(self.committed.len());
        (1..=most)
            .rev()
            .find(|&n| self.committed[self.committed.len() - n..].iter().zip(&fresh[..n]).all(|(old, new)| same(&old.text, &new.text)))
            .unwrap_or(0)
    }

    /// Everything is certain now.
    pub(super) fn settle(&mut self) {
        self.committed.append(&mut self.open);
    }

    /// All words that were committed.
    pub(super) fn committed(&self) -> &[RecognisedWord] {
        &self.committed
    }

    /// Committed words and, after them, those that may change.
    pub(super) fn words(&self) -> Vec<RecognisedWord> {
        self.committed.iter().chain(&self.open).cloned().collect()
    }

    /// Commits the open words that end before `end`: the window has to be cut there.
    pub(super) fn settle_until(&mut self, end: Samples) {
        let settled = self.open.iter().take_while(|word| word.end <= end).count();
        self.committed.extend(self.open.drain(..settled));
    }
}

/// Whether two readings of a word agree: capitals and marks around it may come and go as the sentence grows.
fn same(a: &str, b: &str) -> bool {
    let bare = |text: &str| text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let (left, right) = (bare(a), bare(b));
    if left.is_empty() || right.is_empty() { a == b } else { left == right }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words of 300 ms, one after the other from `from_ms`.
    fn words(text: &str, from_ms: u64) -> Vec<RecognisedWord> {
        let word = |(n, text): (usize, &str)| RecognisedWord {
            text: text.to_owned(),
            spaced: true,
            start: Samples::from_ms(from_ms + n as u64 * 300),
            end: Samples::from_ms(from_ms + n as u64 * 300 + 250),
            confidence: 1.0,
        };
        text.split_whitespace().enumerate().map(word).collect()
    }

    fn text(words: &[RecognisedWord]) -> String {
        words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_two_readings_begin_with_is_committed() {
        let mut agreement = Agreement::default();
        agreement.read(words("the cat sad", 0), 0);
        assert_eq!(agreement.committed(), []);
        agreement.read(words("the cat sat on a", 0), 0);
        assert_eq!(text(agreement.committed()), "the cat");
        assert_eq!(text(&agreement.words()), "the cat sat on a");
        agreement.read(words("the hat sat on the mat", 0), 0);
        assert_eq!(text(&agreement.words()), "the cat sat on the mat", "what is committed stays");
        assert_eq!(text(agreement.committed()), "the cat sat on");
        agreement.settle();
        assert_eq!(text(agreement.committed()), "the cat sat on the mat");
    }

    #[test]
    fn capitals_and_marks_may_come_and_go() {
        let mut agreement = Agreement::default();
        agreement.read(words("so we go", 0), 0);
        agreement.read(words("So, we go. Then", 0), 0);
        assert_eq!(text(agreement.committed()), "So, we go.");
    }

    #[test]
    fn a_repetition_at_the_seam_is_dropped_and_later_ones_are_not() {
        let mut agreement = Agreement::default();
        agreement.read(words("one two three", 0), 3);
        // The window was cut after the second word, and the model says the end once more, a little late.
        agreement.read(words("two three four", 850), 0);
        assert_eq!(text(&agreement.words()), "one two three four");
        agreement.read(words("four four", 2_500), 2);
        assert_eq!(text(agreement.committed()), "one two three four four", "said twice, and long after");
    }

    #[test]
    fn what_a_model_knows_for_certain_is_committed_at_once() {
        let mut agreement = Agreement::default();
        agreement.read(words("yes of course", 0), 2);
        assert_eq!((text(agreement.committed()).as_str(), text(&agreement.words()).as_str()), ("yes of", "yes of course"));
        agreement.settle_until(Samples::from_ms(850));
        assert_eq!(text(agreement.committed()), "yes of course");
    }

    proptest! {
        #[test]
        fn committed_words_never_change(readings in proptest::collection::vec(("[ab ]{0,12}", 0_u64..3_000, 0_usize..4), 0..12)) {
            let mut agreement = Agreement::default();
            let mut before = Vec::new();
            for (said, from, settled) in readings {
                agreement.read(words(&said, from), settled);
                prop_assert!(agreement.committed().starts_with(&before));
                prop_assert!(agreement.words().starts_with(agreement.committed()));
                before = agreement.committed().to_vec();
            }
        }
    }
}
