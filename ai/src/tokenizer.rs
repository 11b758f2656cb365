//! Texts to tokens and back, in the formats that model packs bring.
//!
//! Place: under the families of models. Rule: files are read by [`crate::pack`] and given as bytes; what a file cannot be is told by name.

pub mod sentencepiece;

pub use sentencepiece::SentencePiece;
