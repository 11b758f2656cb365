//! AuraLink's speech: audio in, events out. Synchronous, without network, and without a notion of rooms.
//!
//! The flow of one stream: [`audio`] (packets in order, decoded, 16 kHz) -> [`session`] (voice activity by [`vad`], then
//! [`features`], [`recogniser`] and [`decoder`] while somebody speaks) -> events. [`scheduler`] runs many streams on a fixed
//! pool of threads and batches their work; [`pack`] opens the models, [`runtime`] runs them. [`embedding`] turns texts into vectors,
//! [`translation`] into other languages.

pub mod audio;
pub mod decoder;
pub mod embedding;
pub mod features;
pub mod generation;
pub mod hotwords;
pub mod moonshine;
pub mod pack;
mod protobuf;
pub mod recogniser;
pub mod runtime;
pub mod scheduler;
pub mod session;
pub mod tokenizer;
pub mod transducer;
pub mod translation;
pub mod vad;
pub mod whisper;
