//! Transducers of sherpa-onnx's layout behind the recogniser's interface: streaming ones chunk by chunk, offline ones in windows.
//!
//! Rule: features, encoder's states and search begin afresh with each utterance; what all hypotheses agree on is committed, the word that
//! still goes on excepted.

use std::sync::Arc;

use super::window::{Reading, Window, WindowModel, WindowRecogniser, WindowSpec, WindowUtterance};
use super::{Abilities, Due, Recogniser, SpeechPack, Transcript, Utterance, UtteranceOptions, own};
use crate::audio::Samples;
use crate::features::kaldi::{HOP, KaldiBank, KaldiFeatures};
use crate::pack::TransducerPack;
use crate::runtime::{Model, Runtime, RuntimeError, Tensor};
use crate::transducer::words::spell;
use crate::transducer::{Joint, SUBSAMPLING, Search, SearchOptions, StreamingEncoder, StreamingState};

/// Streams in one run.
const MAX_BATCH: usize = 32;
/// Silence after the last sound that brings out what the encoder still holds (sherpa-onnx's examples: 0.66 s).
const TAIL: Samples = Samples::from_ms(660);
/// Windows of offline models.
const WINDOW: WindowSpec =
    WindowSpec { longest: Samples::from_ms(30_000), comfortable: Samples::from_ms(12_000), step: Samples::from_ms(600), batch: 1 };
/// Samples of an encoder's frame.
const FRAME: u64 = (HOP * SUBSAMPLING) as u64;

impl SpeechPack for TransducerPack {
    fn name(&self) -> &str {
        &self.name
    }

    fn languages(&self) -> &[String] {
        &self.languages
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance> {
        match self.streaming {
            Some(_) => Box::new(TransducerUtterance::new(self)),
            None => Box::new(WindowUtterance::new(WINDOW, options)),
        }
    }

    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError> {
        let joint = Joint::load(runtime, &self.decoder, &self.joiner, self.symbols.len())?;
        match self.streaming {
            Some(spec) => {
                let encoder = StreamingEncoder::load(runtime, &self.encoder, spec)?;
                Ok(Box::new(StreamingTransducer { encoder, joint }))
            }
            None => {
                let model = OfflineTransducer { encoder: runtime.load(&self.encoder)?, joint, pack: self.shared() };
                let mut recogniser = WindowRecogniser::new(model, WINDOW);
                recogniser.try_out()?;
                Ok(Box::new(recogniser))
            }
        }
    }
}

impl TransducerPack {
    fn search(&self, context: usize) -> Search {
        Search::new(SearchOptions { paths: 1, blank_penalty: 0.0, unknown: self.symbols.unknown() }, context)
    }
}

struct StreamingTransducer {
    encoder: StreamingEncoder,
    joint: Joint,
}

impl Recogniser for StreamingTransducer {
    fn run(&mut self, batch: &mut [&mut dyn Utterance]) -> Result<(), RuntimeError> {
        let mut utterances: Vec<&mut TransducerUtterance> = own(batch)?;
        let spec = self.encoder.spec();
        let values = spec.window * spec.n_mels;
        // Taken out, so that frames and states can be borrowed side by side.
        let mut states: Vec<StreamingState> =
            utterances.iter_mut().map(|utterance| utterance.state.clone().unwrap_or_else(|| self.encoder.new_state())).collect();
        let mut chunks: Vec<(&[f32], &mut StreamingState)> =
            utterances.iter().zip(&mut states).map(|(utterance, state)| (&utterance.frames[..values], state)).collect();
        let outputs = self.encoder.run(&mut chunks)?;
        let mut searches: Vec<Search> = utterances
            .iter()
            .map(|utterance| utterance.search.clone().unwrap_or_else(|| utterance.pack.search(self.joint.context())))
            .collect();
        let dimension = outputs.first().map_or(0, Vec::len) / (spec.chunk / SUBSAMPLING).max(1);
        let mut together: Vec<(&mut Search, &[f32])> =
            searches.iter_mut().zip(&outputs).map(|(search, frames)| (search, frames.as_slice())).collect();
        Search::advance(&mut self.joint, &mut together, dimension)?;
        for ((utterance, state), search) in utterances.iter_mut().zip(states).zip(searches) {
            utterance.frames.drain(..spec.chunk * spec.n_mels);
            (utterance.state, utterance.search) = (Some(state), Some(search));
        }
        Ok(())
    }

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }
}

struct TransducerUtterance {
    pack: Arc<TransducerPack>,
    features: KaldiFeatures,
    /// Frames from the next window's first on.
    frames: Vec<f32>,
    audio: Samples,
    state: Option<StreamingState>,
    search: Option<Search>,
}

impl TransducerUtterance {
    fn new(pack: Arc<TransducerPack>) -> Self {
        Self { features: KaldiFeatures::new(pack.bank.clone()), frames: Vec::new(), audio: Samples(0), state: None, search: None, pack }
    }

    fn transcript_of(&self, all: bool) -> Transcript {
        let Some(search) = &self.search else { return Transcript::default() };
        let spelled = spell(search.best(), &self.pack.symbols, FRAME);
        let agreed = search.agreed();
        // A word is whole when another begins behind it.
        let whole = spelled.iter().take_while(|word| word.tokens < agreed).count();
        let committed = if all { spelled.len() } else { whole };
        Transcript { words: spelled.into_iter().map(|word| word.word).collect(), committed, language: None }
    }
}

impl Utterance for TransducerUtterance {
    fn push_audio(&mut self, samples: &[f32]) {
        self.audio = self.audio + Samples(samples.len() as u64);
        self.features.push(samples, &mut self.frames);
    }

    fn close(&mut self, speech_end: Samples) {
        let missing = (speech_end + TAIL).saturating_sub(self.audio);
        self.push_audio(&vec![0.0; missing.0 as usize]);
        self.features.finish(&mut self.frames);
    }

    fn due(&self) -> Due {
        let Some(spec) = self.pack.streaming else { return Due::Later };
        if self.frames.len() >= spec.window * spec.n_mels { Due::Now } else { Due::Later }
    }

    fn transcript(&mut self) -> Transcript {
        self.transcript_of(false)
    }

    fn finish(&mut self) -> Transcript {
        self.transcript_of(true)
    }
}

struct OfflineTransducer {
    encoder: Box<dyn Model>,
    joint: Joint,
    pack: OfflineParts,
}

/// What an offline model needs of its pack.
#[derive(Clone)]
struct OfflineParts {
    bank: Arc<KaldiBank>,
    symbols: Arc<crate::transducer::Symbols>,
}

impl TransducerPack {
    fn shared(&self) -> OfflineParts {
        OfflineParts { bank: self.bank.clone(), symbols: self.symbols.clone() }
    }
}

impl OfflineTransducer {
    fn read_one(&mut self, audio: &[f32]) -> Result<Reading, RuntimeError> {
        let wrong = |reason: String| RuntimeError::Run { runtime: "the encoder", reason };
        let (mut features, mut frames) = (KaldiFeatures::new(self.pack.bank.clone()), Vec::new());
        features.push(audio, &mut frames);
        features.finish(&mut frames);
        let (width, count) = (self.pack.bank.n_mels(), frames.len() / self.pack.bank.n_mels());
        if count < 2 * SUBSAMPLING {
            return Ok(Reading::default());
        }
        let inputs = vec![("x", Tensor::f32([1, count, width], frames).into()), ("x_lens", Tensor::i64([1], vec![count as i64]).into())];
        let out = self.encoder.run(inputs, &["encoder_out"])?.pop().ok_or_else(|| wrong("it gave nothing".to_owned()))?;
        let [1, _, dimension] = out.shape()[..] else { return Err(wrong(format!("`encoder_out` has the shape {:?}", out.shape()))) };
        let values = out.f32().ok_or_else(|| wrong("`encoder_out` is no float".to_owned()))?;
        let options = SearchOptions { paths: 1, blank_penalty: 0.0, unknown: self.pack.symbols.unknown() };
        let mut search = Search::new(options, self.joint.context());
        Search::advance(&mut self.joint, &mut [(&mut search, &values)], dimension)?;
        let words = spell(search.best(), &self.pack.symbols, FRAME).into_iter().map(|word| word.word).collect();
        Ok(Reading { words, settled: 0, language: None })
    }
}

impl WindowModel for OfflineTransducer {
    fn read(&mut self, windows: &[Window<'_>]) -> Result<Vec<Reading>, RuntimeError> {
        windows.iter().map(|window| self.read_one(window.audio)).collect()
    }
}
