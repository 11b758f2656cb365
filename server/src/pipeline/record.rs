//! The records of the pipeline: one type for a recording, one for a step.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A recording that the pipeline has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AudioFile {
    /// Of its content, lower-case hex; steps are known by it, so that a copy or a renamed file is not done again.
    pub sha256: String,
    /// Its name.
    pub name: String,
    /// `STORE:PATH`.
    pub source: String,
    /// Bytes.
    pub size: u64,
    /// The store's version of it.
    pub version: String,
    /// Milliseconds since 1970.
    pub added_ms: u64,
}

/// What is done with a recording, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Is it sound, and how long?
    Decode,
    /// Speech to text, with times.
    Transcribe,
    /// What the sound is like.
    Analyse,
    /// What the segments mean, as vectors in the index.
    Embed,
    /// A map of all recordings.
    Reduce,
}

impl StepKind {
    /// In their order.
    pub const ALL: [Self; 5] = [Self::Decode, Self::Transcribe, Self::Analyse, Self::Embed, Self::Reduce];

    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Transcribe => "transcribe",
            Self::Analyse => "analyse",
            Self::Embed => "embed",
            Self::Reduce => "reduce",
        }
    }

    /// Whether it reads the recording itself.
    pub fn needs_audio(self) -> bool {
        matches!(self, Self::Decode | Self::Transcribe)
    }
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Its result is kept.
    Done,
    /// `reason` says why.
    Failed,
    /// There is no engine for it; `reason` says which. The next run tries it again.
    Unavailable,
}

impl StepState {
    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A step of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Which.
    pub kind: StepKind,
    /// What came of it.
    pub state: StepState,
    /// Whether the same again would come to the same: then it is not done again.
    pub is_final: bool,
    /// What the result depends on beside the content.
    pub parameters: Value,
    /// Why it is not done; else empty.
    pub reason: String,
    /// A few words about the result.
    pub summary: Value,
    /// Of the result's file.
    pub result_sha256: Option<String>,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Milliseconds since 1970.
    pub finished_ms: u64,
    /// Milliseconds.
    pub took_ms: u64,
}
