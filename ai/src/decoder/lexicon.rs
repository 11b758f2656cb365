//! The words that can be found, as a tree over their tokens.

use std::sync::Arc;

/// A place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(u32);

impl Node {
    /// Before the first letter.
    pub const ROOT: Self = Self(0);
}

/// Index of a word in the lexicon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WordId(pub u32);

#[derive(Debug, Default)]
struct Branch {
    /// Next token and node, ascending by token.
    next: Vec<(u32, Node)>,
    word: Option<WordId>,
}

/// Words and the tree of their spellings.
#[derive(Debug)]
pub struct Lexicon {
    words: Vec<Arc<str>>,
    branches: Vec<Branch>,
}

impl Lexicon {
    /// Builds the tree of words and their spellings in tokens; a word's id is its place. Of two words with one spelling the
    /// first is found.
    ///
    /// # Errors
    /// The word that has no spelling.
    pub fn new(entries: Vec<(String, Vec<usize>)>) -> Result<Self, String> {
        let (mut words, mut branches) = (Vec::with_capacity(entries.len()), vec![Branch::default()]);
        for (word, spelling) in entries {
            if spelling.is_empty() {
                return Err(format!("the word `{word}` has no spelling"));
            }
            let node = spelling.iter().fold(Node::ROOT, |node, &token| step_or_grow(&mut branches, node, token as u32));
            branches[node.0 as usize].word.get_or_insert(WordId(words.len() as u32));
            words.push(word.into());
        }
        Ok(Self { words, branches })
    }

    /// How a word is written.
    pub fn text(&self, word: WordId) -> Arc<str> {
        self.words[word.0 as usize].clone()
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Where `token` leads from `node`, if a word goes on like this.
    pub fn step(&self, node: Node, token: usize) -> Option<Node> {
        let next = &self.branches[node.0 as usize].next;
        next.binary_search_by_key(&(token as u32), |&(token, _)| token).ok().map(|index| next[index].1)
    }

    /// The word that ends at `node`.
    pub fn word(&self, node: Node) -> Option<WordId> {
        self.branches[node.0 as usize].word
    }
}

fn step_or_grow(branches: &mut Vec<Branch>, node: Node, token: u32) -> Node {
    match branches[node.0 as usize].next.binary_search_by_key(&token, |&(token, _)| token) {
        Ok(index) => branches[node.0 as usize].next[index].1,
        Err(index) => {
            let new = Node(branches.len() as u32);
            branches.push(Branch::default());
            branches[node.0 as usize].next.insert(index, (token, new));
            new
        }
    }
}
