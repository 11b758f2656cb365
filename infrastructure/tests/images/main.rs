//! Images: what comes back is what went in, equal content is kept once, and no archive writes outside, fills the disk or stays half-made.
#![allow(clippy::unwrap_used, missing_docs)]

mod hostile;
mod keeping;
mod mounts;
mod tars;
