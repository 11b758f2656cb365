//! Voice activity: how likely is it that this window is speech?
//!
//! Place: in front of the recogniser, which only runs while someone speaks. Two detectors stand behind one type: Silero on the
//! runtime seam ([`silero`]), run once for all streams that are due, and the pure-Rust `earshot` ([`Detector::Earshot`]) for
//! when Silero's file is not there. Rule: the state belongs to the stream, the network to the thread; what follows from the
//! probabilities is decided in [`activity`].

pub mod activity;
pub mod silero;

use crate::runtime::RuntimeError;
use silero::{Silero, SileroState};

/// Samples of earshot's window: 16 ms.
const EARSHOT_WINDOW: usize = 256;

/// A detector, shared by the streams of one thread.
pub enum Detector {
    /// Silero VAD 6.
    Silero(Silero),
    /// The built-in fallback.
    Earshot,
}

/// What a detector remembers of one stream.
pub enum DetectorState {
    /// Of Silero.
    Silero(Box<SileroState>),
    /// Of earshot.
    Earshot(Box<earshot::Detector>),
}

impl Detector {
    /// Its name, for statistics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Silero(_) => "Silero VAD",
            Self::Earshot => "earshot (built in)",
        }
    }

    /// Samples (16 kHz) of the windows that it judges.
    pub fn window(&self) -> usize {
        match self {
            Self::Silero(_) => silero::WINDOW,
            Self::Earshot => EARSHOT_WINDOW,
        }
    }

    /// The state of a stream that begins.
    pub fn new_state(&self) -> DetectorState {
        match self {
            Self::Silero(_) => DetectorState::Silero(Box::default()),
            Self::Earshot => DetectorState::Earshot(earshot::Detector::default_boxed()),
        }
    }

    /// Judges one window of each stream in one run: probabilities of speech, 0 to 1, in the order of `batch`. Each window
    /// has [`Detector::window`] samples in [-1, 1], each state comes from [`Detector::new_state`].
    ///
    /// # Errors
    /// [`RuntimeError`] when the network cannot be run.
    pub fn detect(&mut self, batch: &mut [(&[f32], &mut DetectorState)]) -> Result<Vec<f32>, RuntimeError> {
        match self {
            Self::Silero(silero) => {
                let mut silero_batch: Vec<(&[f32], &mut SileroState)> = Vec::with_capacity(batch.len());
                for (window, state) in batch {
                    if !matches!(state, DetectorState::Silero(_)) {
                        **state = DetectorState::Silero(Box::default());
                    }
                    if let DetectorState::Silero(state) = &mut **state {
                        silero_batch.push((window, state));
                    }
                }
                silero.detect(&mut silero_batch)
            }
            Self::Earshot => Ok(batch
                .iter_mut()
                .map(|(window, state)| match state {
                    DetectorState::Earshot(detector) => detector.predict_f32(window).clamp(0.0, 1.0),
                    DetectorState::Silero(_) => 0.0,
                })
                .collect()),
        }
    }
}

impl DetectorState {
    /// Forgets the stream's past.
    pub fn reset(&mut self) {
        match self {
            Self::Silero(state) => **state = SileroState::default(),
            Self::Earshot(detector) => detector.reset(),
        }
    }
}
