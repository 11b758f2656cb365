//! Cuts speech that goes on into clauses: pieces that mean something by themselves and will not change.
//!
//! Place: between a session's events and translation; one for each segment. Rules: only committed words become clauses, each word
//! of exactly one, in order; a clause is cut at a mark, at a pause, in front of a conjunction, or where it grows too long; the end of
//! the segment is the end of its last clause.

use crate::audio::Samples;
use crate::recogniser::primary;
use crate::session::Word;

/// Fewest words of a clause that is cut at a comma, a pause or a conjunction: fewer have too little context to be translated well.
const FEWEST: usize = 4;
/// Most words of a clause: a listener waits for its end.
const MOST: usize = 14;
/// Silence between two words at which a clause ends.
const PAUSE: Samples = Samples::from_ms(350);

/// Words in front of which a clause may end, by language.
const CONJUNCTIONS: [(&str, &[&str]); 5] = [
    ("en", &["and", "but", "because", "so", "although", "while", "which", "who", "when", "if", "then", "or"]),
    ("de", &["und", "aber", "weil", "dass", "obwohl", "während", "wenn", "denn", "oder", "sondern"]),
    ("es", &["y", "pero", "porque", "aunque", "mientras", "cuando", "si", "que", "o", "entonces"]),
    ("fr", &["et", "mais", "parce", "quoique", "pendant", "quand", "si", "qui", "ou", "donc"]),
    ("it", &["e", "ma", "perché", "mentre", "quando", "se", "che", "o", "quindi"]),
];

/// A piece of a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Clause {
    /// Its place in the segment, from 0.
    pub index: usize,
    /// Its words as one text.
    pub text: String,
    /// Where it begins.
    pub start: Samples,
    /// Where it ends.
    pub end: Samples,
}

/// The clauses of one segment as it grows.
#[derive(Debug, Default)]
pub struct Clauses {
    /// Words that are part of a clause already.
    used: usize,
    count: usize,
}

impl Clauses {
    /// Takes the segment's words so far, of which the first `committed` will not change, and gives the clauses that are new. With
    /// `last` the segment is closed: all its words are committed. `language` is a BCP 47 tag, or empty.
    pub fn push(&mut self, words: &[Word], committed: usize, last: bool, language: &str) -> Vec<Clause> {
        let known = words.get(..if last { words.len() } else { committed.min(words.len()) }).unwrap_or_default();
        let conjunctions = CONJUNCTIONS.iter().find(|(own, _)| *own == primary(language)).map_or(&[][..], |(_, words)| *words);
        let mut clauses = Vec::new();
        let mut from = self.used;
        for at in self.used..known.len() {
            if ends(&known[from..=at], known.get(at + 1), conjunctions) {
                clauses.push(self.clause(&known[from..=at]));
                from = at + 1;
            }
        }
        if last && from < known.len() {
            clauses.push(self.clause(&known[from..]));
            from = known.len();
        }
        self.used = from;
        clauses
    }

    fn clause(&mut self, words: &[Word]) -> Clause {
        let index = self.count;
        self.count += 1;
        let at = |word: Option<&Word>, end: bool| word.map_or(Samples(0), |word| if end { word.end } else { word.start });
        Clause { index, text: crate::session::event::join(words), start: at(words.first(), false), end: at(words.last(), true) }
    }
}

/// Whether a clause of these words ends before `next`, the committed word that follows, if there is one yet.
fn ends(words: &[Word], next: Option<&Word>, conjunctions: &[&str]) -> bool {
    let Some(last) = words.last() else { return false };
    if last.text.ends_with(['.', '?', '!', '。', '？', '！', '।', '؟']) || words.len() >= MOST {
        return true;
    }
    if words.len() < FEWEST {
        return false;
    }
    let at_mark = last.text.ends_with([',', ';', ':', '、', '，']);
    let before_pause = next.is_some_and(|next| next.start.saturating_sub(last.end) >= PAUSE);
    let before_conjunction = next.is_some_and(|next| conjunctions.contains(&next.text.to_lowercase().as_str()));
    at_mark || before_pause || before_conjunction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words of 200 ms with 100 ms between them; `|` is a pause of half a second.
    fn words(text: &str) -> Vec<Word> {
        let mut at = 0;
        let mut words = Vec::new();
        for text in text.split_whitespace() {
            if text == "|" {
                at += 500;
                continue;
            }
            words.push(Word {
                text: text.into(),
                spaced: true,
                start: Samples::from_ms(at),
                end: Samples::from_ms(at + 200),
                confidence: 1.0,
            });
            at += 300;
        }
        words
    }

    fn cut(text: &str, language: &str) -> Vec<String> {
        Clauses::default().push(&words(text), 0, true, language).into_iter().map(|clause| clause.text).collect()
    }

    #[test]
    fn clauses_end_at_marks_pauses_conjunctions_and_in_time() {
        assert_eq!(cut("Yes. We can, I think, go home now. Bye", "en"), ["Yes.", "We can, I think,", "go home now.", "Bye"]);
        assert_eq!(cut("we will meet tomorrow and I bring the book", "en-GB"), ["we will meet tomorrow", "and I bring the book"]);
        assert_eq!(cut("we will meet tomorrow and I bring the book", "de"), ["we will meet tomorrow and I bring the book"]);
        assert_eq!(cut("we will meet tomorrow | at the station", ""), ["we will meet tomorrow", "at the station"]);
        let long = cut(&"word ".repeat(30), "en");
        assert_eq!(long.iter().map(|clause| clause.split(' ').count()).collect::<Vec<_>>(), [14, 14, 2]);
        assert!(cut("", "en").is_empty());
    }

    #[test]
    fn only_committed_words_become_clauses() {
        let mut clauses = Clauses::default();
        let said = words("we will meet tomorrow and then we go");
        assert!(clauses.push(&said[..5], 4, false, "en").is_empty(), "what follows is not known yet");
        let first = clauses.push(&said, 6, false, "en");
        assert_eq!((first.len(), first[0].text.as_str(), first[0].index), (1, "we will meet tomorrow", 0));
        assert_eq!((first[0].start, first[0].end), (Samples(0), Samples::from_ms(1_100)));
        assert!(clauses.push(&said, 6, false, "en").is_empty());
        let rest = clauses.push(&said, 8, true, "en");
        assert_eq!((rest.len(), rest[0].text.as_str(), rest[0].index), (1, "and then we go", 1));
    }

    proptest! {
        #[test]
        fn every_word_is_in_one_clause_in_order(text in "([a-c]{1,2}[,.]?|and|\\|)( ([a-c]{1,2}[,.]?|and|\\|)){0,40}", steps in proptest::collection::vec(0_usize..6, 1..12)) {
            let said = words(&text);
            let (mut clauses, mut known, mut cut) = (Clauses::default(), 0, Vec::new());
            for step in steps {
                known = (known + step).min(said.len());
                cut.extend(clauses.push(&said, known, false, "en"));
            }
            cut.extend(clauses.push(&said, known, true, "en"));
            let joined = cut.iter().map(|clause| clause.text.as_str()).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(joined, crate::session::event::join(&said));
            prop_assert!(cut.iter().enumerate().all(|(index, clause)| clause.index == index));
            prop_assert!(cut.iter().all(|clause| clause.text.split(' ').count() <= MOST));
        }
    }
}
