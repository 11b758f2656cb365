//! Sequence-to-sequence generation as `transformers` does it: an encoder's output in, tokens out, greedily or with beams.
//!
//! Place: under the families whose networks are exported by Optimum (translation, Whisper, Moonshine). [`decoder`] runs the decoder with
//! its cache, [`processors`] change what may come next, [`search`] decides. Rules: token for token equal to `generate` of
//! transformers 4.57; keys and values of attention stay with the engine; a step allocates its logits and little else.

pub mod config;
pub mod decoder;
pub mod processors;
pub mod search;

pub use config::{EarlyStopping, GenerationConfig};
pub use decoder::{Cache, Decoder, Encoded};
pub use search::{Sequence, generate};
