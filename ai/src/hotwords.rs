//! Words and phrases that are likelier than the model thinks: an Aho-Corasick automaton over tokens that adds to a hypothesis' score.
//!
//! Place: beside the searches of transducers and of our own CTC. As `ContextGraph` of sherpa-onnx 2.0 scores: each token of a phrase that is matched adds its boost at once, a phrase that breaks off gives
//! back what it had, one that is complete keeps it and begins anew. Rule: constant after it is built; a hypothesis carries its [`State`].

use std::collections::{HashMap, VecDeque};

use crate::recogniser::Hotword;
use crate::tokenizer::sentencepiece::SPACE;
use crate::transducer::Symbols;

/// A place in the automaton.
pub type State = usize;

/// Nothing is matched.
pub const ROOT: State = 0;

#[derive(Debug, Default, Clone)]
struct Node {
    next: HashMap<usize, State>,
    fail: State,
    /// What the token that leads here adds.
    token_score: f32,
    /// What the tokens up to here have added.
    node_score: f32,
    /// What complete phrases that end here keep.
    output_score: f32,
    is_end: bool,
    /// The longest complete phrase that is an end of this one.
    output: Option<State>,
}

/// The automaton of a stream's hotwords.
#[derive(Debug, Clone)]
pub struct HotwordGraph {
    nodes: Vec<Node>,
}

impl HotwordGraph {
    /// Of phrases as rows of tokens, each with its boost.
    pub fn new(phrases: &[(Vec<usize>, f32)]) -> Self {
        let mut graph = Self { nodes: vec![Node::default()] };
        for (tokens, boost) in phrases {
            graph.add(tokens, *boost);
        }
        graph.link();
        graph
    }

    /// Of words as they are written; those that cannot be written in the model's tokens are left out. `None`: nothing is left.
    pub fn of_words(words: &[Hotword], symbols: &Symbols) -> Option<Self> {
        let phrases: Vec<(Vec<usize>, f32)> =
            words.iter().filter_map(|word| Some((spell(&word.text, symbols)?, word.boost))).filter(|(_, boost)| *boost > 0.0).collect();
        (!phrases.is_empty()).then(|| Self::new(&phrases))
    }

    /// Of words as they are written, for tokens of which one stands at the end of every word and none holds a space. A phrase counts as
    /// complete with its last word's end, so that it is no part of a longer word. `None`: nothing is left.
    pub fn of_ended_words(words: &[Hotword], tokens: &[String], blank: usize, word_end: usize) -> Option<Self> {
        let letters = tokens.iter().enumerate().filter(|(id, _)| *id != blank && *id != word_end);
        let ids: HashMap<&str, usize> = letters.map(|(id, text)| (text.as_str(), id)).collect();
        let spelled = |text: &str| -> Option<Vec<usize>> {
            let mut row = Vec::new();
            for word in text.to_lowercase().split_whitespace() {
                row.extend(longest(word, &ids)?);
                row.push(word_end);
            }
            (!row.is_empty()).then_some(row)
        };
        let phrases: Vec<(Vec<usize>, f32)> =
            words.iter().filter(|word| word.boost > 0.0).filter_map(|word| Some((spelled(&word.text)?, word.boost))).collect();
        (!phrases.is_empty()).then(|| Self::new(&phrases))
    }

    fn add(&mut self, tokens: &[usize], boost: f32) {
        let mut at = ROOT;
        for (index, &token) in tokens.iter().enumerate() {
            let is_end = index + 1 == tokens.len();
            let known = self.nodes[at].next.get(&token).copied();
            let next = known.unwrap_or_else(|| {
                self.nodes.push(Node::default());
                let next = self.nodes.len() - 1;
                self.nodes[at].next.insert(token, next);
                next
            });
            let before = self.nodes[at].node_score;
            let node = &mut self.nodes[next];
            node.token_score = node.token_score.max(boost);
            node.node_score = before + node.token_score;
            node.is_end |= is_end;
            node.output_score = if node.is_end { node.node_score } else { 0.0 };
            at = next;
        }
    }

    /// Where to go on when a phrase breaks off, and which complete phrase is the end of another.
    fn link(&mut self) {
        let mut queue: VecDeque<State> = self.nodes[ROOT].next.values().copied().collect();
        while let Some(state) = queue.pop_front() {
            let children: Vec<(usize, State)> = self.nodes[state].next.iter().map(|(token, next)| (*token, *next)).collect();
            for (token, child) in children {
                let mut fail = self.nodes[state].fail;
                while fail != ROOT && !self.nodes[fail].next.contains_key(&token) {
                    fail = self.nodes[fail].fail;
                }
                let fail = self.nodes[fail].next.get(&token).copied().unwrap_or(ROOT);
                let output = if self.nodes[fail].is_end { Some(fail) } else { self.nodes[fail].output };
                let kept = output.map_or(0.0, |output| self.nodes[output].output_score);
                let node = &mut self.nodes[child];
                (node.fail, node.output) = (fail, output);
                node.output_score += kept;
                queue.push_back(child);
            }
        }
    }

    /// What a token adds to a hypothesis' score, and the place after it.
    pub fn step(&self, state: State, token: usize) -> (f32, State) {
        let node = &self.nodes[state];
        let (score, next) = match node.next.get(&token) {
            Some(&next) => (self.nodes[next].token_score, next),
            None => {
                let mut back = node.fail;
                while back != ROOT && !self.nodes[back].next.contains_key(&token) {
                    back = self.nodes[back].fail;
                }
                let next = self.nodes[back].next.get(&token).copied().unwrap_or(ROOT);
                (self.nodes[next].node_score - node.node_score, next)
            }
        };
        let reached = &self.nodes[next];
        if reached.output_score == 0.0 {
            return (score, next);
        }
        // A phrase is complete: it keeps what it has, and what follows begins anew.
        let kept = if reached.is_end {
            reached.node_score
        } else {
            reached.output.map_or(reached.node_score, |output| self.nodes[output].node_score)
        };
        (score + kept - reached.node_score, ROOT)
    }

    /// What a hypothesis gives back at the end, where a phrase is begun and not complete: negative or zero.
    pub fn finish(&self, state: State) -> f32 {
        -self.nodes[state].node_score
    }
}

/// A text in tokens: at each place the longest that fits. `None`: some letter has none.
fn spell(text: &str, symbols: &Symbols) -> Option<Vec<usize>> {
    let ids = symbols.by_text();
    // Lists of one case alone are common.
    let variants = [text.to_owned(), text.to_uppercase(), text.to_lowercase()];
    variants.iter().find_map(|text| {
        let spaced: String = text.split_whitespace().flat_map(|word| std::iter::once(SPACE).chain(word.chars())).collect();
        // Models of Chinese and Japanese write no spaces.
        let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        longest(&spaced, &ids).or_else(|| longest(&bare, &ids))
    })
}

fn longest(text: &str, ids: &HashMap<&str, usize>) -> Option<Vec<usize>> {
    let (mut rest, mut tokens) = (text, Vec::new());
    while !rest.is_empty() {
        let ends = rest.char_indices().map(|(at, letter)| at + letter.len_utf8());
        let (end, id) = ends.filter_map(|end| Some((end, *ids.get(&rest[..end])?))).next_back()?;
        tokens.push(id);
        rest = &rest[end..];
    }
    (!tokens.is_empty()).then_some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_adds_as_it_goes_and_gives_back_when_it_breaks_off() {
        let graph = HotwordGraph::new(&[(vec![1, 2, 3], 2.0), (vec![2, 4], 1.0)]);
        let (first, at) = graph.step(ROOT, 1);
        let (second, at) = graph.step(at, 2);
        assert_eq!((first, second), (2.0, 2.0));
        let (broken, elsewhere) = graph.step(at, 9);
        assert_eq!((broken, elsewhere), (-4.0, ROOT));
        // The other phrase has begun with the second token already.
        let (other, after) = graph.step(at, 4);
        assert_eq!((other, after), (2.0 - 4.0, ROOT));
        let (third, after) = graph.step(at, 3);
        assert_eq!((third, after), (2.0, ROOT));
        assert_eq!((graph.finish(at), graph.finish(ROOT)), (-4.0, 0.0));
    }

    #[test]
    fn words_are_spelled_in_the_longest_tokens_of_their_case() {
        let symbols = Symbols::read("<blk> 0\n\u{2581}HAR 1\nB 2\nOUR 3\nO 4\n你 5\n好 6\n").expect("it is a list");
        assert_eq!(spell("harbour", &symbols), Some(vec![1, 2, 3]));
        assert_eq!(spell("你 好", &symbols), Some(vec![5, 6]));
        assert_eq!(spell("x", &symbols), None);
        assert_eq!(spell("  ", &symbols), None);
        let word = |text: &str, boost: f32| Hotword { text: text.to_owned(), boost };
        assert!(HotwordGraph::of_words(&[word("zzz", 2.0), word("harbour", 0.0)], &symbols).is_none());
        assert!(HotwordGraph::of_words(&[word("zzz", 2.0), word("harbour", 1.0)], &symbols).is_some());
    }
}
