//! CTC prefix beam search over a lexicon and a word language model, with an open path for other words (Graves 2006;
//! Hannun et al. 2014). `ai/training/decode.py` is the reference; the pack's golden text holds both to it.
//!
//! A prefix is a row of finished words and the tokens of the word in progress, with two log-probabilities: ending in a blank or
//! not. Its rank adds, for each word, the weighted language model and a bonus, and a penalty once the word in progress leaves
//! the lexicon. Words are committed when all hypotheses near the best agree on them, or when they ended so long ago that the
//! others are given up: from then on, prefixes that read them otherwise are dropped.

use std::collections::HashMap;
use std::sync::Arc;

use super::language_model::Context;
use super::lexicon::Node;
use super::{BeamSpec, DecodedWord, DecoderSpec, Hypothesis};
use crate::hotwords::{HotwordGraph, ROOT, State};

/// Hypotheses this far (natural logarithm) behind the best have no say in what is committed. Higher commits later; measured on
/// held-out voices, 6 costs 30 ms at the median and 4 no more word errors.
const AGREEMENT_MARGIN: f32 = 4.0;
const NEVER: f32 = f32::NEG_INFINITY;

/// Index of a row of finished words; 0 is the empty one.
type Row = u32;
/// Index of the tokens of a word in progress; 0 is none.
type Piece = u32;

/// The last word of a row.
struct Finished {
    before: Row,
    text: Arc<str>,
    /// Number of words in this row.
    length: u32,
    span: Span,
}

/// Where a word was heard, and how clearly.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
    log_prob: f32,
    tokens: u32,
}

/// The last token of a word in progress.
struct Partial {
    before: Piece,
    token: usize,
}

#[derive(Clone, Copy)]
struct Prefix {
    row: Row,
    piece: Piece,
    /// Its place in the lexicon; `None` when no word goes on like this.
    node: Option<Node>,
    context: Context,
    /// Language model, bonuses and penalties.
    lm: f32,
    /// How far a hotword is matched.
    hotword: State,
    /// Words of a hotword in progress that are not in the lexicon: they have not paid for it, and do if it breaks off.
    excused: u8,
    /// The token it ends with.
    last: Option<usize>,
    /// Log-probabilities of ending in a blank, and in `last`.
    blank: f32,
    token: f32,
    span: Span,
}

impl Prefix {
    fn acoustic(&self) -> f32 {
        log_add(self.blank, self.token)
    }

    fn rank(&self) -> f32 {
        self.acoustic() + self.lm
    }
}

/// Prefixes of the next frame, in the order in which they were met.
#[derive(Default)]
struct Table {
    prefixes: Vec<Prefix>,
    index: HashMap<(Row, Piece), usize>,
}

impl Table {
    fn slot(&mut self, prefix: Prefix) -> &mut Prefix {
        let next = self.prefixes.len();
        let index = *self.index.entry((prefix.row, prefix.piece)).or_insert(next);
        if index == next {
            self.prefixes.push(prefix);
        }
        &mut self.prefixes[index]
    }
}

/// The state of a beam search.
pub struct Beam {
    spec: Arc<DecoderSpec>,
    hotwords: Option<Arc<HotwordGraph>>,
    frame: u32,
    rows: Vec<Finished>,
    row_ids: HashMap<(Row, Arc<str>), Row>,
    pieces: Vec<Partial>,
    piece_ids: HashMap<(Piece, usize), Piece>,
    prefixes: Vec<Prefix>,
    table: Table,
    likely: Vec<(usize, f32)>,
    /// Words that will not change: this row is the beginning of every prefix.
    committed: Row,
}

impl Beam {
    pub(super) fn new(spec: Arc<DecoderSpec>, hotwords: Option<Arc<HotwordGraph>>) -> Self {
        let empty = Prefix {
            row: 0,
            piece: 0,
            node: Some(Node::ROOT),
            context: spec.beam.as_ref().map_or([None; 2], |search| search.language_model.start()),
            lm: 0.0,
            hotword: ROOT,
            excused: 0,
            last: None,
            blank: 0.0,
            token: NEVER,
            span: Span::default(),
        };
        Self {
            spec,
            hotwords,
            frame: 0,
            rows: vec![Finished { before: 0, text: "".into(), length: 0, span: Span::default() }],
            row_ids: HashMap::new(),
            pieces: vec![Partial { before: 0, token: 0 }],
            piece_ids: HashMap::new(),
            prefixes: vec![empty],
            table: Table::default(),
            likely: Vec::new(),
            committed: 0,
        }
    }

    pub(super) fn push(&mut self, log_probs: &[f32]) {
        let spec = self.spec.clone();
        let Some(search) = &spec.beam else { return };
        for frame in log_probs.chunks_exact(spec.tokens.len()) {
            self.step(&spec, search, frame);
            self.frame += 1;
        }
        self.commit();
    }

    fn step(&mut self, spec: &DecoderSpec, search: &BeamSpec, frame: &[f32]) {
        let mut table = std::mem::take(&mut self.table);
        table.prefixes.clear();
        table.index.clear();
        let mut likely = std::mem::take(&mut self.likely);
        likely.clear();
        let tokens = frame.iter().copied().enumerate();
        likely.extend(tokens.filter(|&(token, log_prob)| token != spec.blank && log_prob > search.token_threshold));
        let prefixes = std::mem::take(&mut self.prefixes);
        for prefix in &prefixes {
            let all = prefix.acoustic();
            let stay = table.slot(Prefix { blank: NEVER, token: NEVER, ..*prefix });
            stay.blank = log_add(stay.blank, all + frame[spec.blank]);
            if let Some(last) = prefix.last {
                stay.token = log_add(stay.token, prefix.token + frame[last]);
            }
            for &(token, log_prob) in &likely {
                // A token follows itself only over a blank.
                let score = log_prob + if prefix.last == Some(token) { prefix.blank } else { all };
                if score == NEVER {
                    continue;
                }
                let Some(extended) = self.extend(spec, search, prefix, token, log_prob) else { continue };
                let grown = table.slot(extended);
                grown.token = log_add(grown.token, score);
            }
        }
        // Stable, so that prefixes of one rank keep the order in which they were met.
        table.prefixes.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
        table.prefixes.truncate(search.width);
        let worst = table.prefixes.first().map_or(NEVER, Prefix::rank) - search.beam_threshold;
        self.prefixes = prefixes;
        self.prefixes.clear();
        self.prefixes.extend(table.prefixes.iter().filter(|prefix| prefix.rank() >= worst));
        self.table = table;
        self.likely = likely;
    }

    /// The prefix with one token more, without its probabilities; `None` for a word without tokens.
    fn extend(&mut self, spec: &DecoderSpec, search: &BeamSpec, prefix: &Prefix, token: usize, log_prob: f32) -> Option<Prefix> {
        let grown = Prefix { blank: NEVER, token: NEVER, last: Some(token), ..*prefix };
        if token == spec.word_end {
            return (prefix.piece != 0).then(|| self.end_word(spec, search, &grown));
        }
        let node = prefix.node.and_then(|node| search.lexicon.step(node, token));
        let left = node.is_none() && prefix.node.is_some();
        // Hotwords begin where words do.
        let (boost, hotword) = match &self.hotwords {
            Some(hotwords) if prefix.piece == 0 || prefix.hotword != ROOT => hotwords.step(prefix.hotword, token),
            _ => (0.0, ROOT),
        };
        let excused = prefix.excused.saturating_add(u8::from(left));
        let goes_on = hotword != ROOT && boost >= 0.0;
        let (excused, fine) = if goes_on { (excused, 0.0) } else { (0, f32::from(excused) * search.unknown_penalty) };
        let span = Span {
            start: if prefix.piece == 0 { self.frame } else { prefix.span.start },
            end: self.frame + 1,
            log_prob: prefix.span.log_prob + log_prob,
            tokens: prefix.span.tokens + 1,
        };
        let piece = self.piece(prefix.piece, token);
        let lm = prefix.lm + boost + fine;
        Some(Prefix { piece, node, lm, hotword, excused, span, ..grown })
    }

    /// The prefix after the word in progress.
    fn end_word(&mut self, spec: &DecoderSpec, search: &BeamSpec, prefix: &Prefix) -> Prefix {
        let known = prefix.node.and_then(|node| search.lexicon.word(node));
        let (text, lm) = match known {
            Some(word) => {
                let language = search.language_model.log_prob(prefix.context, word);
                (search.lexicon.text(word), search.lm_weight * language)
            }
            None => (self.spelled(spec, prefix.piece), 0.0),
        };
        let (boost, hotword) = match &self.hotwords {
            Some(hotwords) if prefix.hotword != ROOT => hotwords.step(prefix.hotword, spec.word_end),
            _ => (0.0, ROOT),
        };
        // A word that left the lexicon on its way has paid already; one that only begins like a word of it has not.
        let excused = prefix.excused.saturating_add(u8::from(known.is_none() && prefix.node.is_some()));
        let matched = prefix.hotword != ROOT && boost >= 0.0;
        let (excused, fine) = match matched {
            true => (if hotword == ROOT { 0 } else { excused }, 0.0),
            false => (0, f32::from(excused) * search.unknown_penalty),
        };
        let lm = lm + boost + fine;
        Prefix {
            row: self.row(prefix.row, text, prefix.span),
            piece: 0,
            node: Some(Node::ROOT),
            context: [prefix.context[1], known],
            lm: prefix.lm + lm + search.word_bonus,
            hotword,
            excused,
            span: Span::default(),
            ..*prefix
        }
    }

    fn row(&mut self, before: Row, text: Arc<str>, span: Span) -> Row {
        let length = self.rows[before as usize].length + 1;
        let rows = &mut self.rows;
        *self.row_ids.entry((before, text.clone())).or_insert_with(|| {
            rows.push(Finished { before, text, length, span });
            rows.len() as Row - 1
        })
    }

    fn piece(&mut self, before: Piece, token: usize) -> Piece {
        let pieces = &mut self.pieces;
        *self.piece_ids.entry((before, token)).or_insert_with(|| {
            pieces.push(Partial { before, token });
            pieces.len() as Piece - 1
        })
    }

    fn spelled(&self, spec: &DecoderSpec, mut piece: Piece) -> Arc<str> {
        let mut parts = Vec::new();
        while piece != 0 {
            let partial = &self.pieces[piece as usize];
            parts.push(spec.tokens[partial.token].as_str());
            piece = partial.before;
        }
        parts.reverse();
        parts.concat().into()
    }

    /// The beginning of `row` that is `length` words long.
    fn ancestor(&self, mut row: Row, length: u32) -> Row {
        while self.rows[row as usize].length > length {
            row = self.rows[row as usize].before;
        }
        row
    }

    /// The longest row with which both begin.
    fn common(&self, a: Row, b: Row) -> Row {
        let length = self.rows[a as usize].length.min(self.rows[b as usize].length);
        let (mut a, mut b) = (self.ancestor(a, length), self.ancestor(b, length));
        while a != b {
            (a, b) = (self.rows[a as usize].before, self.rows[b as usize].before);
        }
        a
    }

    /// A prefix's rank, if the hotword that it is in breaks off.
    fn certain_rank(&self, search: &BeamSpec, prefix: &Prefix) -> f32 {
        let broken = self.hotwords.as_ref().map_or(0.0, |hotwords| hotwords.finish(prefix.hotword));
        prefix.rank() + broken + f32::from(prefix.excused) * search.unknown_penalty
    }

    fn commit(&mut self) {
        let Some(best) = self.prefixes.first() else { return };
        let Some(search) = &self.spec.beam else { return };
        let near = self.certain_rank(search, best) - AGREEMENT_MARGIN;
        let rivals = self.prefixes.iter().skip(1).filter(|prefix| self.certain_rank(search, prefix) > near);
        let agreed = rivals.fold(best.row, |agreed, prefix| self.common(agreed, prefix.row));
        let mut settled = best.row;
        while settled != 0 && self.rows[settled as usize].span.end.saturating_add(self.spec.settle_frames) > self.frame {
            settled = self.rows[settled as usize].before;
        }
        let length = |row: Row| self.rows[row as usize].length;
        let row = if length(settled) > length(agreed) { settled } else { agreed };
        if length(row) > length(self.committed) {
            let length = length(row);
            let mut prefixes = std::mem::take(&mut self.prefixes);
            prefixes.retain(|prefix| self.ancestor(prefix.row, length) == row);
            self.prefixes = prefixes;
            self.committed = row;
        }
    }

    fn words(&self, mut row: Row) -> Vec<DecodedWord> {
        let mut words = Vec::new();
        while row != 0 {
            let finished = &self.rows[row as usize];
            words.push(decoded(&finished.text, finished.span));
            row = finished.before;
        }
        words.reverse();
        words
    }

    pub(super) fn hypothesis(&self) -> Hypothesis {
        let (Some(search), Some(best)) = (&self.spec.beam, self.prefixes.first()) else { return Hypothesis::default() };
        let mut words = self.words(best.row);
        // A word in progress is shown once it spells a word.
        if best.piece != 0
            && let Some(word) = best.node.and_then(|node| search.lexicon.word(node))
        {
            words.push(decoded(&search.lexicon.text(word), best.span));
        }
        Hypothesis { words, committed: self.rows[self.committed as usize].length as usize }
    }

    pub(super) fn finish(&mut self) -> Hypothesis {
        let spec = self.spec.clone();
        let Some(search) = &spec.beam else { return Hypothesis::default() };
        let mut best: Option<(f32, Row)> = None;
        for prefix in std::mem::take(&mut self.prefixes) {
            let ended = if prefix.piece == 0 { prefix } else { self.end_word(&spec, search, &prefix) };
            // A hotword that is not complete at the end was none.
            let score = self.certain_rank(search, &ended) + search.lm_weight * search.language_model.log_prob_end(ended.context);
            if best.is_none_or(|(best, _)| score > best) {
                best = Some((score, ended.row));
            }
        }
        let words = best.map_or_else(Vec::new, |(_, row)| self.words(row));
        Hypothesis { committed: words.len(), words }
    }
}

fn decoded(text: &str, span: Span) -> DecodedWord {
    let confidence = (span.log_prob / span.tokens.max(1) as f32).exp();
    DecodedWord { text: text.to_owned(), start: span.start, end: span.end, confidence }
}

/// `ln(exp(a) + exp(b))`.
fn log_add(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == NEVER { high } else { high + (low - high).exp().ln_1p() }
}
