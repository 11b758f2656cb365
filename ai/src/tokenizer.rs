//! From text to the token ids of a model, and back.
//!
//! Place: between packs, which open the files, and the families that generate. `tokenizer.json` is the `tokenizers` crate's; SentencePiece
//! models are read here.

pub mod sentencepiece;
