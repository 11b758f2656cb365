//! Our own packs: a streaming network, then CTC with a lexicon and a language model.
//!
//! Rule: features, network and decoder begin afresh with each utterance; it counts in frames of its network.

use std::sync::Arc;

use super::network::{Network, NetworkState};
use super::{Abilities, Due, Hotword, RecognisedWord, Recogniser, SpeechPack, Transcript, Utterance, UtteranceOptions, own};
use crate::audio::Samples;
use crate::decoder::{DecodedWord, Decoder, Hypothesis};
use crate::features::FeatureExtractor;
use crate::pack::Pack;
use crate::runtime::{Runtime, RuntimeError};

/// Streams in one run.
const MAX_BATCH: usize = 32;

impl SpeechPack for Pack {
    fn name(&self) -> &str {
        Pack::name(self)
    }

    fn languages(&self) -> &[String] {
        Pack::languages(self)
    }

    fn abilities(&self) -> Abilities {
        Abilities { hotwords: self.decoder().beam.is_some(), ..Abilities::default() }
    }

    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance> {
        Box::new(CtcUtterance::new(self, &options.hotwords))
    }

    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError> {
        Ok(Box::new(CtcRecogniser(Network::load(runtime, self)?)))
    }
}

struct CtcRecogniser(Network);

impl Recogniser for CtcRecogniser {
    fn run(&mut self, batch: &mut [&mut dyn Utterance]) -> Result<(), RuntimeError> {
        let mut utterances: Vec<&mut CtcUtterance> = own(batch)?;
        let mut chunks: Vec<(&[f32], &mut NetworkState)> = utterances.iter_mut().map(|utterance| utterance.chunk()).collect();
        let results = self.0.run(&mut chunks)?;
        for (utterance, log_probs) in utterances.into_iter().zip(results) {
            utterance.handle_chunk(&log_probs);
        }
        Ok(())
    }

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }
}

struct CtcUtterance {
    pack: Arc<Pack>,
    audio: Samples,
    features: FeatureExtractor,
    frames: Vec<f32>,
    state: NetworkState,
    decoder: Decoder,
}

impl CtcUtterance {
    fn new(pack: Arc<Pack>, hotwords: &[Hotword]) -> Self {
        Self {
            audio: Samples(0),
            features: FeatureExtractor::new(pack.filter_bank().clone()),
            frames: Vec::new(),
            state: NetworkState::new(pack.network()),
            decoder: Decoder::with_hotwords(pack.decoder().clone(), hotwords),
            pack,
        }
    }

    /// The next chunk's features and the network's state.
    fn chunk(&mut self) -> (&[f32], &mut NetworkState) {
        let values = self.pack.network().chunk_values();
        (&self.frames[..values.min(self.frames.len())], &mut self.state)
    }

    /// Takes the log-probabilities of the chunk, `[frames, vocabulary]`.
    fn handle_chunk(&mut self, log_probs: &[f32]) {
        let stride = self.pack.network().chunk_values().min(self.frames.len());
        self.frames.drain(..stride);
        self.decoder.push(log_probs);
    }

    fn transcript_of(&self, hypothesis: &Hypothesis) -> Transcript {
        let spec = self.pack.network();
        let frame = (spec.subsampling * self.pack.filter_bank().spec().hop_length) as u64;
        let at = |frames: u32| Samples(u64::from(frames) * frame).saturating_sub(spec.emission_delay);
        let word = |word: &DecodedWord| RecognisedWord {
            text: word.text.clone(),
            spaced: true,
            start: at(word.start),
            end: at(word.end),
            confidence: word.confidence,
        };
        Transcript { words: hypothesis.words.iter().map(word).collect(), committed: hypothesis.committed, language: None }
    }
}

impl Utterance for CtcUtterance {
    fn push_audio(&mut self, samples: &[f32]) {
        self.audio = self.audio + Samples(samples.len() as u64);
        self.features.push(samples, &mut self.frames);
    }

    fn close(&mut self, speech_end: Samples) {
        let pack = self.pack.clone();
        let (spec, hop) = (pack.network(), pack.filter_bank().spec().hop_length);
        // Frames that wait for a chunk are only silence if the speech ended well before them.
        let waiting = Samples((self.frames.len() / spec.n_mels * hop) as u64);
        if self.audio.saturating_sub(waiting) >= speech_end + spec.tail {
            self.frames.clear();
            return;
        }
        let missing = (speech_end + spec.tail).saturating_sub(self.audio);
        self.push_audio(&vec![0.0; missing.0 as usize]);
        while self.frames.is_empty() || !self.frames.len().is_multiple_of(spec.chunk_values()) {
            self.push_audio(&vec![0.0; hop]);
        }
    }

    fn due(&self) -> Due {
        if self.frames.len() >= self.pack.network().chunk_values() { Due::Now } else { Due::Later }
    }

    fn transcript(&mut self) -> Transcript {
        let hypothesis = self.decoder.hypothesis();
        self.transcript_of(&hypothesis)
    }

    fn finish(&mut self) -> Transcript {
        let hypothesis = self.decoder.finish();
        self.transcript_of(&hypothesis)
    }
}
