//! SentencePiece models (`*.spm`, `sentencepiece.bpe.model`): text in, pieces out, and back.
//!
//! Place: under the translation families. The file is read by hand (it is one small protobuf message), the text is normalised by the
//! file's own table, and cut by its own algorithm, Unigram or BPE. Source: sentencepiece_model.proto and the papers of Kudo (2018) and
//! Sennrich (2016). Rule: what SentencePiece gives, to the piece.

mod bpe;
mod charsmap;
mod model;

use std::collections::{HashMap, HashSet};

use charsmap::CharsMap;
use model::{Algorithm, ModelProto, PieceKind};

/// The mark of a space.
pub const SPACE: char = '\u{2581}';

/// How much less likely an unknown character is than the least likely piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What stands for the unknown piece in a text.
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// An opened model.
pub struct SentencePiece {
    pieces: Vec<Piece>,
    /// Pieces that text is cut into: normal ones and those that a user defined.
    ids: HashMap<String, u32>,
    controls: HashSet<String>,
    longest: usize,
    unknown: u32,
    least: f32,
    most: f32,
    algorithm: Algorithm,
    charsmap: CharsMap,
    add_dummy_prefix: bool,
    remove_extra_spaces: bool,
    byte_fallback: bool,
}

struct Piece {
    text: String,
    score: f32,
    kind: PieceKind,
}

impl SentencePiece {
    /// Reads a model.
    ///
    /// # Errors
    /// A sentence about what is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let proto = ModelProto::read(bytes)?;
        let charsmap = CharsMap::new(&proto.charsmap)?;
        let mut ids = HashMap::with_capacity(proto.pieces.len());
        let mut unknown = None;
        let mut controls = HashSet::new();
        let (mut least, mut most, mut longest) = (f32::MAX, f32::MIN, 1);
        for (id, piece) in proto.pieces.iter().enumerate() {
            match piece.kind {
                PieceKind::Normal | PieceKind::UserDefined => {
                    ids.insert(piece.text.clone(), id as u32);
                    longest = longest.max(piece.text.len());
                }
                PieceKind::Unknown => unknown = Some(id as u32),
                PieceKind::Control => drop(controls.insert(piece.text.clone())),
                PieceKind::Unused | PieceKind::Byte => {}
            }
            if piece.kind == PieceKind::Normal {
                least = least.min(piece.score);
                most = most.max(piece.score);
            }
        }
        let unknown = unknown.ok_or("it has no unknown piece")?;
        let pieces = proto.pieces.into_iter().map(|p| Piece { text: p.text, score: p.score, kind: p.kind }).collect();
        Ok(Self {
            pieces,
            ids,
            controls,
            longest,
            unknown,
            least,
            most,
            algorithm: proto.algorithm,
            charsmap,
            add_dummy_prefix: proto.add_dummy_prefix,
            remove_extra_spaces: proto.remove_extra_spaces,
            byte_fallback: proto.byte_fallback,
        })
    }

    /// Cuts a text into pieces, spaces marked. Neighbouring unknown characters are one piece.
    pub fn encode(&self, text: &str) -> Vec<String> {
        let text = self.normalise(text);
        let cut = match self.algorithm {
            Algorithm::Unigram => self.unigram(&text),
            Algorithm::Bpe => bpe::cut(&text, |joined| self.ids.get(joined).map(|&id| self.pieces[id as usize].score)),
        };
        let mut pieces: Vec<String> = Vec::with_capacity(cut.len());
        let mut before_unknown = false;
        for piece in cut {
            let unknown = !self.ids.contains_key(piece);
            if unknown && self.byte_fallback {
                pieces.extend(piece.bytes().map(|byte| format!("<0x{byte:02X}>")));
            } else if let Some(last) = pieces.last_mut().filter(|_| unknown && before_unknown) {
                last.push_str(piece);
            } else {
                pieces.push(piece.to_owned());
            }
            before_unknown = unknown;
        }
        pieces
    }

    /// The text of pieces that [`SentencePiece::encode`] gave, or a model: spaces are put back, that before the first piece is not.
    pub fn decode<'a>(&self, pieces: impl IntoIterator<Item = &'a str>) -> String {
        let mut bytes: Vec<u8> = Vec::new();
        let mut stripped = !self.add_dummy_prefix && !self.remove_extra_spaces;
        for piece in pieces {
            if let Some(byte) = byte_of(piece).filter(|_| self.byte_fallback) {
                bytes.push(byte);
            } else if self.ids.contains_key(piece) {
                let first = bytes.is_empty() && !stripped;
                let inner = if first { piece.strip_prefix(SPACE) } else { None };
                stripped |= inner.is_some() && !self.remove_extra_spaces;
                bytes.extend_from_slice(inner.unwrap_or(piece).replace(SPACE, " ").as_bytes());
            } else if piece == self.pieces[self.unknown as usize].text {
                bytes.extend_from_slice(UNKNOWN_SURFACE.as_bytes());
            } else if !self.controls.contains(piece) {
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The file's own table of characters, then spaces: single ones, marked, one in front.
    fn normalise(&self, text: &str) -> String {
        let mapped = self.charsmap.apply(text);
        let mut normal = String::with_capacity(mapped.len() + 8);
        let trimmed = if self.remove_extra_spaces { mapped.trim_matches(' ') } else { &mapped };
        if trimmed.is_empty() {
            return normal;
        }
        if self.add_dummy_prefix {
            normal.push(SPACE);
        }
        let mut before_space = false;
        for character in trimmed.chars() {
            let space = character == ' ';
            if !(space && before_space && self.remove_extra_spaces) {
                normal.push(if space { SPACE } else { character });
            }
            before_space = space;
        }
        normal
    }

    /// The likeliest way through the text (Viterbi).
    fn unigram<'t>(&self, text: &'t str) -> Vec<&'t str> {
        // Per byte that ends a piece: the best score up to there, and where that piece begins.
        let mut best: Vec<Option<(f32, usize)>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0));
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        for (index, &start) in starts[..starts.len() - 1].iter().enumerate() {
            let Some((score, _)) = best[start] else { continue };
            let mut single = false;
            for &end in starts[index + 1..].iter().take_while(|&&end| end - start <= self.longest) {
                let Some(&id) = self.ids.get(&text[start..end]) else { continue };
                single |= end == starts[index + 1];
                let piece = &self.pieces[id as usize];
                // A piece that a user defined is always taken whole.
                let own = if piece.kind == PieceKind::UserDefined { (end - start) as f32 * self.most - 0.1 } else { piece.score };
                better(&mut best[end], score + own, start);
            }
            if !single {
                better(&mut best[starts[index + 1]], score + self.least - UNKNOWN_PENALTY, start);
            }
        }
        let mut pieces = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let start = best[end].map_or(0, |(_, start)| start);
            pieces.push(&text[start..end]);
            end = start;
        }
        pieces.reverse();
        pieces
    }
}

/// Equal scores leave the first.
fn better(place: &mut Option<(f32, usize)>, score: f32, start: usize) {
    if place.is_none_or(|(other, _)| score > other) {
        *place = Some((score, start));
    }
}

fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}
