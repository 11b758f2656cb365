//! The networks of one thread, run once for all streams that are due.
//!
//! Place: the scheduler's threads own one each; a test or a tool may drive a single session with it. Rule: a round takes at
//! most one window and one chunk of each stream, so that no stream waits for another's backlog.

use super::{StreamSession, Work};
use crate::recogniser::{Recogniser, SpeechPack, Utterance};
use crate::runtime::{ModelFile, Runtime, RuntimeError};
use crate::vad::Detector;
use crate::vad::DetectorState;

/// Windows in one run of the detector. More save little and make the others wait longer.
const MAX_WINDOWS: usize = 32;

/// Cumulative counts of runs and of the streams that they served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelStats {
    /// Runs of the voice detector.
    pub detector_runs: u64,
    /// Windows judged.
    pub windows: u64,
    /// Runs of the recogniser.
    pub recogniser_runs: u64,
    /// Chunks recognised.
    pub chunks: u64,
    /// Runs that failed.
    pub failures: u64,
}

/// Voice detector and recogniser.
pub struct SpeechModels {
    detector: Detector,
    recogniser: Box<dyn Recogniser>,
    smaller: Option<Box<dyn Recogniser>>,
    stats: ModelStats,
    last_failure: Option<String>,
}

impl SpeechModels {
    /// Loads the networks: the pack's recogniser, and Silero from `silero` or the built-in detector without it.
    ///
    /// # Errors
    /// [`RuntimeError`] when a model cannot be loaded, or is not what its manifest says.
    pub fn load(runtime: &dyn Runtime, pack: &dyn SpeechPack, silero: Option<&ModelFile>) -> Result<Self, RuntimeError> {
        let detector = match silero {
            Some(onnx) => Detector::Silero(crate::vad::silero::Silero::load(runtime, onnx)?),
            None => Detector::Earshot,
        };
        let recogniser = pack.load(runtime)?;
        Ok(Self { detector, recogniser, smaller: None, stats: ModelStats::default(), last_failure: None })
    }

    /// With the networks of a smaller pack, for sessions that were made with it.
    ///
    /// # Errors
    /// As [`SpeechModels::load`].
    pub fn with_smaller(mut self, runtime: &dyn Runtime, pack: &dyn SpeechPack) -> Result<Self, RuntimeError> {
        self.smaller = Some(pack.load(runtime)?);
        Ok(self)
    }

    /// The voice detector.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Cumulative counts.
    pub fn stats(&self) -> ModelStats {
        self.stats
    }

    /// What the last failed run said.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Runs at most `rounds` rounds over the sessions. Whether there may be more to do.
    pub fn advance(&mut self, sessions: &mut [&mut StreamSession], rounds: usize) -> bool {
        for _ in 0..rounds {
            let work: Vec<Option<Work>> = sessions.iter_mut().map(|session| session.next_work()).collect();
            if work.iter().all(Option::is_none) {
                return false;
            }
            let mut recognise: Vec<&mut StreamSession> = Vec::new();
            let mut detect: Vec<&mut StreamSession> = Vec::new();
            for (session, work) in sessions.iter_mut().zip(&work) {
                match work {
                    Some(Work::Recognise) => recognise.push(session),
                    Some(Work::Detect) => detect.push(session),
                    None => {}
                }
            }
            for batch in detect.chunks_mut(MAX_WINDOWS) {
                self.detect(batch);
            }
            recognise.sort_by_key(|session| session.is_smaller());
            let usual = recognise.partition_point(|session| !session.is_smaller());
            let (own, smaller) = recognise.split_at_mut(usual);
            for batch in own.chunks_mut(self.recogniser.max_batch().max(1)) {
                self.recognise(batch, false);
            }
            let most = self.smaller.as_ref().map_or(1, |recogniser| recogniser.max_batch().max(1));
            for batch in smaller.chunks_mut(most) {
                self.recognise(batch, true);
            }
        }
        true
    }

    fn detect(&mut self, sessions: &mut [&mut StreamSession]) {
        self.stats.detector_runs += 1;
        self.stats.windows += sessions.len() as u64;
        let mut batch: Vec<(&[f32], &mut DetectorState)> = sessions.iter_mut().map(|session| session.detection()).collect();
        match self.detector.detect(&mut batch) {
            Ok(probabilities) => {
                for (session, probability) in sessions.iter_mut().zip(probabilities) {
                    session.handle_detection(if probability.is_finite() { probability } else { 0.0 });
                }
            }
            Err(error) => self.failed(sessions, &error),
        }
    }

    fn recognise(&mut self, sessions: &mut [&mut StreamSession], smaller: bool) {
        self.stats.recogniser_runs += 1;
        self.stats.chunks += sessions.len() as u64;
        let mut batch: Vec<&mut dyn Utterance> = sessions.iter_mut().filter_map(|session| session.utterance()).collect();
        let recogniser = if smaller { self.smaller.as_mut().unwrap_or(&mut self.recogniser) } else { &mut self.recogniser };
        match recogniser.run(&mut batch) {
            Ok(()) => sessions.iter_mut().for_each(|session| session.handle_recognition()),
            Err(error) => self.failed(sessions, &error),
        }
    }

    fn failed(&mut self, sessions: &mut [&mut StreamSession], error: &RuntimeError) {
        self.stats.failures += 1;
        self.last_failure = Some(error.to_string());
        for session in sessions {
            session.fail();
        }
    }
}
