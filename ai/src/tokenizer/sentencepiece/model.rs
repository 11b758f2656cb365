//! What is read of a SentencePiece model's file (sentencepiece_model.proto).

/// How the text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

pub(super) struct PieceProto {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

pub(super) struct ModelProto {
    pub pieces: Vec<PieceProto>,
    pub algorithm: Algorithm,
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_spaces: bool,
    pub byte_fallback: bool,
}

impl ModelProto {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_spaces: true,
            byte_fallback: false,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Content::Bytes(piece)) => model.pieces.push(PieceProto::read(piece)?),
                (2, Content::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Content::Bytes(normaliser)) => model.read_normaliser(normaliser)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() { Err("it is no SentencePiece model: it has no pieces".to_owned()) } else { Ok(model) }
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (3, Content::Number(1)) => self.algorithm = Algorithm::Unigram,
                (3, Content::Number(2)) => self.algorithm = Algorithm::Bpe,
                (3, Content::Number(other)) => return Err(format!("its algorithm is {other}: Unigram (1) and BPE (2) are known")),
                (24, Content::Number(1)) => return Err("it marks spaces behind words, which no model that is opened here does".to_owned()),
                (35, Content::Number(value)) => self.byte_fallback = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normaliser(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (2, Content::Bytes(charsmap)) => self.charsmap = charsmap.to_vec(),
                (3, Content::Number(value)) => self.add_dummy_prefix = value != 0,
                (4, Content::Number(value)) => self.remove_extra_spaces = value != 0,
                (5, Content::Number(0)) => return Err("it leaves spaces as they are, which no model that is opened here does".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl PieceProto {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: PieceKind::Normal };
        for field in Fields(bytes) {
            match field? {
                (1, Content::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).map_err(|_| "a piece is not UTF-8")?,
                (2, Content::Float(score)) if score.is_nan() => return Err(format!("the score of `{}` is not a number", piece.text)),
                (2, Content::Float(score)) => piece.score = score,
                (3, Content::Number(kind)) => {
                    piece.kind = match kind {
                        1 => PieceKind::Normal,
                        2 => PieceKind::Unknown,
                        3 => PieceKind::Control,
                        4 => PieceKind::UserDefined,
                        5 => PieceKind::Unused,
                        6 => PieceKind::Byte,
                        other => return Err(format!("`{}` is a piece of an unknown kind, {other}", piece.text)),
                    };
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

enum Content<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a protobuf message: number and content.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Content<'a>)> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => self.take(8).map(|_| Content::Other)?,
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, content))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Content<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "it is no SentencePiece model, or cut short".to_owned()))
    }
}
