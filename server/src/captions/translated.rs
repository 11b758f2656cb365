//! A speaker's segments in other languages, clause by clause.
//!
//! Place: each speaker of a room has one; the service asks it what is to be translated and hands it what came back. Rules: a clause is
//! translated once for each language, however many listen in it; what is shown only grows; a clause that could not be translated is
//! shown as it was said.

use std::collections::{BTreeMap, VecDeque};

use auralink_ai::session::Word;
use auralink_ai::translation::clauses::Clauses;

use super::packets::CaptionUpdate;

/// Segments and languages of one speaker that wait for translations; the oldest is forgotten beyond it.
const MAX_OPEN: usize = 64;

/// A clause to be translated.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Of the segment.
    pub segment_id: String,
    /// Into which language.
    pub language: String,
    /// Which clause of the segment.
    pub index: usize,
    /// As it was said.
    pub text: String,
}

/// The translations of one speaker.
#[derive(Default)]
pub struct Translated {
    segment_id: String,
    clauses: Clauses,
    open: VecDeque<Segment>,
}

/// A segment in one language.
struct Segment {
    language: String,
    /// The original, for everything but its text.
    original: CaptionUpdate,
    /// The first clause that this language was asked for.
    first: usize,
    parts: BTreeMap<usize, Option<String>>,
    closed: bool,
    shown: usize,
}

impl Translated {
    /// Takes an update of what was said, with its words, and says what is to be translated into `languages`, and what is to be shown
    /// without (the end of a segment whose clauses are all there).
    pub fn said(&mut self, update: &CaptionUpdate, words: &[Word], languages: &[String]) -> (Vec<Ask>, Vec<CaptionUpdate>) {
        if update.segment_id != self.segment_id {
            self.segment_id.clone_from(&update.segment_id);
            self.clauses = Clauses::default();
        }
        let committed = committed_words(words, update.committed_chars);
        let clauses = self.clauses.push(words, committed, update.is_final, &update.language);
        let mut asks = Vec::new();
        for clause in clauses {
            for language in languages {
                let segment = self.segment(update, language, clause.index);
                segment.parts.insert(clause.index, None);
                let (segment_id, language) = (update.segment_id.clone(), language.clone());
                asks.push(Ask { segment_id, language, index: clause.index, text: clause.text.clone() });
            }
        }
        let mut shown = Vec::new();
        for segment in self.open.iter_mut().filter(|segment| segment.original.segment_id == update.segment_id) {
            segment.original = update.clone();
            segment.closed = update.is_final;
            // All its clauses came before its end was known.
            shown.extend(segment.news());
        }
        self.open.retain(|segment| !segment.is_done());
        (asks, shown)
    }

    fn segment(&mut self, update: &CaptionUpdate, language: &str, index: usize) -> &mut Segment {
        let known = self.open.iter().position(|open| open.original.segment_id == update.segment_id && open.language == language);
        let at = known.unwrap_or_else(|| {
            if self.open.len() >= MAX_OPEN {
                metrics::counter!("auralink_limit_hits_total", "limit" => "translated_segments").increment(1);
                self.open.pop_front();
            }
            self.open.push_back(Segment {
                language: language.to_owned(),
                original: update.clone(),
                first: index,
                parts: BTreeMap::new(),
                closed: false,
                shown: 0,
            });
            self.open.len() - 1
        });
        &mut self.open[at]
    }

    /// Takes a clause's translation and gives what is to be shown now.
    pub fn translated(&mut self, ask: &Ask, text: String) -> Option<CaptionUpdate> {
        let at = self.open.iter().position(|open| open.original.segment_id == ask.segment_id && open.language == ask.language)?;
        let segment = &mut self.open[at];
        *segment.parts.get_mut(&ask.index)? = Some(text);
        let news = segment.news();
        if segment.is_done() {
            self.open.remove(at);
        }
        news
    }
}

impl Segment {
    /// How many clauses from the first are there.
    fn ready(&self) -> usize {
        (self.first..).take_while(|index| self.parts.get(index).is_some_and(Option::is_some)).count()
    }

    fn is_done(&self) -> bool {
        self.closed && self.ready() == self.parts.len()
    }

    /// The segment's text in this language, when there is more of it than was shown or it is whole.
    fn news(&mut self) -> Option<CaptionUpdate> {
        let ready = self.ready();
        if ready == self.shown && !self.is_done() {
            return None;
        }
        self.shown = ready;
        let mut text = String::new();
        for part in self.parts.values().take(ready).flatten() {
            if text.chars().next_back().is_some_and(|last| !is_wide(last)) {
                text.push(' ');
            }
            text.push_str(part);
        }
        Some(CaptionUpdate {
            committed_chars: text.chars().count(),
            is_final: self.is_done(),
            language: self.language.clone(),
            text,
            ..self.original.clone()
        })
    }
}

/// Scripts that write no spaces: Chinese and Japanese, and their marks.
fn is_wide(character: char) -> bool {
    matches!(character, '\u{3000}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ff00}'..='\u{ffef}')
}

/// How many of the words lie within the first characters of their text.
fn committed_words(words: &[Word], chars: usize) -> usize {
    let mut end = 0;
    let fits = |(index, word): &(usize, &Word)| {
        end += usize::from(word.spaced && *index > 0) + word.text.chars().count();
        end <= chars
    };
    words.iter().enumerate().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_ai::audio::Samples;

    fn words(text: &str) -> Vec<Word> {
        let word = |(n, text): (usize, &str)| Word {
            text: text.into(),
            spaced: true,
            start: Samples::from_ms(n as u64 * 300),
            end: Samples::from_ms(n as u64 * 300 + 250),
            confidence: 1.0,
        };
        text.split(' ').filter(|text| !text.is_empty()).enumerate().map(word).collect()
    }

    fn update(segment: &str, text: &str, committed: &str, is_final: bool) -> CaptionUpdate {
        CaptionUpdate {
            identity: "ana".into(),
            participant_sid: "PA_1".into(),
            track_sid: "TR_1".into(),
            segment_id: segment.into(),
            text: text.into(),
            committed_chars: committed.chars().count(),
            is_final,
            language: "en".into(),
            start_ms: 0,
            end_ms: 0,
        }
    }

    fn say(
        translated: &mut Translated,
        segment: &str,
        text: &str,
        committed: &str,
        last: bool,
        languages: &[&str],
    ) -> (Vec<Ask>, Vec<CaptionUpdate>) {
        let languages: Vec<String> = languages.iter().map(ToString::to_string).collect();
        translated.said(&update(segment, text, committed, last), &words(text), &languages)
    }

    #[test]
    fn clauses_are_asked_once_for_each_language_and_shown_in_order() {
        let mut translated = Translated::default();
        let (asks, shown) = say(&mut translated, "S1", "We go home now. Then we", "We go home now. Then", false, &["de", "fr"]);
        assert_eq!(
            asks.iter().map(|ask| (ask.language.as_str(), ask.text.as_str())).collect::<Vec<_>>(),
            [("de", "We go home now."), ("fr", "We go home now.")]
        );
        assert!(shown.is_empty());
        let whole = "We go home now. Then we eat.";
        let (more, shown) = say(&mut translated, "S1", whole, whole, true, &["de", "fr"]);
        assert_eq!((more.len(), more[0].text.as_str(), more[0].index), (2, "Then we eat.", 1));
        assert!(shown.is_empty());
        assert!(translated.translated(&more[0], "Dann essen wir.".into()).is_none(), "the first clause is not there yet");
        let news = translated.translated(&asks[0], "Wir gehen heim.".into()).expect("both are there");
        assert_eq!((news.text.as_str(), news.is_final, news.language.as_str()), ("Wir gehen heim. Dann essen wir.", true, "de"));
        assert_eq!(news.committed_chars, news.text.chars().count());
        assert_eq!((news.segment_id.as_str(), news.identity.as_str()), ("S1", "ana"));
        let french = translated.translated(&asks[1], "Nous rentrons.".into()).expect("the first is there");
        assert!(!french.is_final);
        assert!(translated.translated(&asks[0], "again".into()).is_none(), "it is done");
    }

    #[test]
    fn a_segment_whose_clauses_came_before_its_end_is_closed_with_it() {
        let mut translated = Translated::default();
        let (asks, _) = say(&mut translated, "S1", "Yes.", "Yes.", false, &["ja"]);
        assert!(!translated.translated(&asks[0], "はい。".into()).expect("it is there").is_final);
        let (asks, shown) = say(&mut translated, "S1", "Yes. Good.", "Yes. Good.", false, &["ja"]);
        assert!(shown.is_empty());
        assert_eq!(translated.translated(&asks[0], "いいね。".into()).expect("it is there").text, "はい。いいね。");
        let (asks, shown) = say(&mut translated, "S1", "Yes. Good.", "Yes. Good.", true, &["ja"]);
        assert!(asks.is_empty() && shown.len() == 1 && shown[0].is_final, "{shown:?}");
        assert!(translated.open.is_empty());
    }

    #[test]
    fn who_comes_later_hears_from_the_next_clause_on_and_what_is_withdrawn_leaves_nothing() {
        let mut translated = Translated::default();
        say(&mut translated, "S1", "One.", "One.", false, &[]);
        let (asks, _) = say(&mut translated, "S1", "One. Two.", "One. Two.", true, &["de"]);
        assert_eq!(asks.len(), 1);
        assert_eq!(translated.translated(&asks[0], "Zwei.".into()).map(|news| (news.text, news.is_final)), Some(("Zwei.".into(), true)));
        let (asks, shown) = say(&mut translated, "S2", "", "", true, &["de"]);
        assert!(asks.is_empty() && shown.is_empty() && translated.open.is_empty());
        for n in 0..2 * MAX_OPEN {
            say(&mut translated, &format!("L{n}"), "Word.", "Word.", true, &["de"]);
        }
        assert_eq!(translated.open.len(), MAX_OPEN);
    }
}
