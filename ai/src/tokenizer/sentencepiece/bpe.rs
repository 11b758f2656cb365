//! Byte-pair encoding as SentencePiece does it: neighbours are joined, the best-scored pair first, the leftmost of equals.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A stretch of the text, linked to its neighbours; empty once it was joined to the one before it.
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours that make a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both: when it no longer fits, one of them has grown.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// Cuts a text; `score` knows which joined texts are pieces.
pub(super) fn cut(text: &str, score: impl Fn(&str) -> Option<f32>) -> Vec<&str> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let count = starts.len() - 1;
    let symbol = |index: usize| Symbol {
        start: starts[index],
        end: starts[index + 1],
        before: index.checked_sub(1),
        after: Some(index + 1).filter(|&next| next < count),
    };
    let mut symbols: Vec<Symbol> = (0..count).map(symbol).collect();
    let pair = |symbols: &[Symbol], left: Option<usize>, right: Option<usize>| {
        let (left, right) = (left?, right?);
        let joined = &text[symbols[left].start..symbols[right].end];
        Some(Pair { score: score(joined)?, left, right, length: joined.len() })
    };
    let mut agenda: BinaryHeap<Pair> = (1..count).filter_map(|right| pair(&symbols, Some(right - 1), Some(right))).collect();
    while let Some(Pair { left, right, length, .. }) = agenda.pop() {
        let extent = |index: usize| symbols[index].end - symbols[index].start;
        if extent(left) == 0 || extent(right) == 0 || extent(left) + extent(right) != length {
            continue;
        }
        let after = symbols[right].after;
        symbols[left].end = symbols[right].end;
        symbols[left].after = after;
        symbols[right].start = symbols[right].end;
        if let Some(after) = after {
            symbols[after].before = Some(left);
        }
        agenda.extend(pair(&symbols, symbols[left].before, Some(left)));
        agenda.extend(pair(&symbols, Some(left), after));
    }
    symbols.iter().filter(|symbol| symbol.start < symbol.end).map(|symbol| &text[symbol.start..symbol.end]).collect()
}
