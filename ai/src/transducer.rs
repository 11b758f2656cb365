//! Models in sherpa-onnx's layout: transducers (an encoder, streaming or of whole utterances; a decoder of the last tokens; a joiner), and CTC
//! networks, which are an encoder that names tokens itself.
//!
//! Place: [`crate::pack`] opens the files, [`crate::recogniser`] streams with them. [`encoder`] runs the streaming encoder for all streams
//! that are due at once, [`search`] and [`ctc`] find tokens in what it gives. Rules: tensors by name, dimensions by the file's own metadata; greedy and
//! modified beam search as sherpa-onnx 2.0 has them, token for token.

pub mod ctc;
pub mod encoder;
pub mod joint;
pub mod search;
pub mod symbols;
pub(crate) mod words;

pub use ctc::CtcSearch;
pub use encoder::{EncoderSpec, StreamingEncoder, StreamingState};
pub use joint::Joint;
pub use search::{Found, Search, SearchOptions};
pub use symbols::Symbols;

/// Milliseconds of a feature frame.
pub const FRAME_MS: u64 = 10;
/// Feature frames for one frame of an encoder of this kind.
pub const SUBSAMPLING: usize = 4;
