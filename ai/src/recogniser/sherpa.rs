//! Models of sherpa-onnx's layout behind the recogniser's interface: streaming ones chunk by chunk, offline ones in windows.
//!
//! Rule: features, encoder's states and search begin afresh with each utterance; what all hypotheses agree on is committed, the word that
//! still goes on excepted.

use std::sync::Arc;

use super::window::{Reading, Window, WindowModel, WindowRecogniser, WindowSpec, WindowUtterance};
use super::{Abilities, Due, Hotword, Recogniser, SpeechPack, Transcript, Utterance, UtteranceOptions, own};
use crate::audio::Samples;
use crate::features::kaldi::{HOP, KaldiBank, KaldiFeatures};
use crate::hotwords::HotwordGraph;
use crate::pack::{Naming, SherpaPack};
use crate::runtime::{Model, Runtime, RuntimeError, Tensor};
use crate::transducer::words::spell;
use crate::transducer::{
    CtcSearch, EncoderSpec, Found, Joint, SUBSAMPLING, Search, SearchOptions, StreamingEncoder, StreamingState, Symbols,
};

/// Streams in one run.
const MAX_BATCH: usize = 32;
/// Silence after the last sound that brings out what the encoder still holds (sherpa-onnx's examples: 0.66 s).
const TAIL: Samples = Samples::from_ms(660);
/// Windows of offline models.
const WINDOW: WindowSpec =
    WindowSpec { longest: Samples::from_ms(30_000), comfortable: Samples::from_ms(12_000), step: Samples::from_ms(600), batch: 1 };
/// Hypotheses that are kept where there are hotwords.
const HOTWORD_PATHS: usize = 4;
/// Samples of an encoder's frame.
const FRAME: u64 = (HOP * SUBSAMPLING) as u64;

impl SpeechPack for SherpaPack {
    fn name(&self) -> &str {
        &self.name
    }

    fn languages(&self) -> &[String] {
        &self.languages
    }

    fn abilities(&self) -> Abilities {
        Abilities { hotwords: matches!(self.naming, Naming::Transducer { .. }), ..Abilities::default() }
    }

    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance> {
        match self.streaming {
            Some(_) => Box::new(SherpaUtterance::new(self, &options.hotwords)),
            None => Box::new(WindowUtterance::new(WINDOW, options)),
        }
    }

    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError> {
        let namer = match &self.naming {
            Naming::Transducer { decoder, joiner } => {
                Namer::Transducer(Box::new(Joint::load(runtime, decoder, joiner, self.symbols.len())?))
            }
            Naming::Ctc => Namer::Ctc { vocabulary: self.symbols.len() },
        };
        match self.streaming {
            Some(spec) => {
                let encoder = StreamingEncoder::load(runtime, &self.encoder, spec, namer.output())?;
                let mut recogniser = StreamingSherpa { encoder, namer };
                recogniser.try_out(self)?;
                Ok(Box::new(recogniser))
            }
            None => {
                let model =
                    OfflineSherpa { encoder: runtime.load(&self.encoder)?, namer, bank: self.bank.clone(), symbols: self.symbols.clone() };
                let mut recogniser = WindowRecogniser::new(model, WINDOW);
                recogniser.try_out()?;
                Ok(Box::new(recogniser))
            }
        }
    }
}

/// What names tokens, on one thread.
enum Namer {
    Transducer(Box<Joint>),
    Ctc { vocabulary: usize },
}

/// The search of one utterance.
#[derive(Clone)]
enum Tokens {
    Transducer(Search),
    Ctc(CtcSearch),
}

impl Namer {
    /// What the encoder gives for it.
    fn output(&self) -> &'static str {
        match self {
            Self::Transducer(_) => "encoder_out",
            Self::Ctc { .. } => "log_probs",
        }
    }

    /// Greedy, which costs least; with hotwords a beam, since a greedy search cannot turn to them.
    fn begin(&self, symbols: &Symbols, hotwords: Option<Arc<HotwordGraph>>) -> Tokens {
        match self {
            Self::Transducer(joint) => {
                let paths = if hotwords.is_some() { HOTWORD_PATHS } else { 1 };
                let options = SearchOptions { paths, blank_penalty: 0.0, unknown: symbols.unknown() };
                Tokens::Transducer(Search::new(options, joint.context()).with_hotwords(hotwords))
            }
            Self::Ctc { .. } => Tokens::Ctc(CtcSearch::new(symbols.blank())),
        }
    }

    /// The next frames of several searches, `[frames, dimension]` each.
    fn advance(&mut self, searches: &mut [(&mut Tokens, &[f32])], dimension: usize) -> Result<(), RuntimeError> {
        match self {
            Self::Transducer(joint) => {
                let mut own: Vec<(&mut Search, &[f32])> = searches
                    .iter_mut()
                    .filter_map(|(tokens, frames)| match tokens {
                        Tokens::Transducer(search) => Some((search, *frames)),
                        Tokens::Ctc(_) => None,
                    })
                    .collect();
                Search::advance(joint, &mut own, dimension)
            }
            Self::Ctc { vocabulary } if *vocabulary != dimension => {
                let reason = format!("`log_probs` names {dimension} tokens and tokens.txt {vocabulary}: it is another model's");
                Err(RuntimeError::Run { runtime: "the encoder", reason })
            }
            Self::Ctc { vocabulary } => {
                for (tokens, frames) in searches {
                    if let Tokens::Ctc(search) = tokens {
                        search.advance(frames, *vocabulary);
                    }
                }
                Ok(())
            }
        }
    }
}

impl Tokens {
    fn best(&self) -> &[Found] {
        match self {
            Self::Transducer(search) => search.best(),
            Self::Ctc(search) => search.found(),
        }
    }

    fn agreed(&self) -> usize {
        match self {
            Self::Transducer(search) => search.agreed(),
            Self::Ctc(search) => search.found().len(),
        }
    }
}

struct StreamingSherpa {
    encoder: StreamingEncoder,
    namer: Namer,
}

impl StreamingSherpa {
    /// A window of silence, so that a pack that does not fit is found when it is loaded.
    fn try_out(&mut self, pack: &SherpaPack) -> Result<(), RuntimeError> {
        let spec = self.encoder.spec();
        let (silence, mut state) = (vec![0.0; spec.window * spec.n_mels], self.encoder.new_state());
        let frames = self.encoder.run(&mut [(&silence, &mut state)])?.remove(0);
        let mut tokens = self.namer.begin(&pack.symbols, None);
        let dimension = dimension(frames.len(), spec);
        self.namer.advance(&mut [(&mut tokens, &frames)], dimension)
    }
}

/// Values of an encoder's frame.
fn dimension(values: usize, spec: EncoderSpec) -> usize {
    values / (spec.chunk / SUBSAMPLING).max(1)
}

impl Recogniser for StreamingSherpa {
    fn run(&mut self, batch: &mut [&mut dyn Utterance]) -> Result<(), RuntimeError> {
        let mut utterances: Vec<&mut SherpaUtterance> = own(batch)?;
        let spec = self.encoder.spec();
        let values = spec.window * spec.n_mels;
        // Taken out, so that frames and states can be borrowed side by side.
        let mut states: Vec<StreamingState> =
            utterances.iter_mut().map(|utterance| utterance.state.clone().unwrap_or_else(|| self.encoder.new_state())).collect();
        let mut chunks: Vec<(&[f32], &mut StreamingState)> =
            utterances.iter().zip(&mut states).map(|(utterance, state)| (&utterance.frames[..values], state)).collect();
        let outputs = self.encoder.run(&mut chunks)?;
        let fresh = |utterance: &&mut SherpaUtterance| {
            utterance.search.clone().unwrap_or_else(|| self.namer.begin(&utterance.pack.symbols, utterance.hotwords.clone()))
        };
        let mut searches: Vec<Tokens> = utterances.iter().map(fresh).collect();
        let dimension = dimension(outputs.first().map_or(0, Vec::len), spec);
        let mut together: Vec<(&mut Tokens, &[f32])> =
            searches.iter_mut().zip(&outputs).map(|(search, frames)| (search, frames.as_slice())).collect();
        self.namer.advance(&mut together, dimension)?;
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

struct SherpaUtterance {
    pack: Arc<SherpaPack>,
    features: KaldiFeatures,
    /// Frames from the next window's first on.
    frames: Vec<f32>,
    audio: Samples,
    state: Option<StreamingState>,
    search: Option<Tokens>,
    hotwords: Option<Arc<HotwordGraph>>,
}

impl SherpaUtterance {
    fn new(pack: Arc<SherpaPack>, hotwords: &[Hotword]) -> Self {
        let hotwords = HotwordGraph::of_words(hotwords, &pack.symbols).map(Arc::new);
        Self {
            features: KaldiFeatures::new(pack.bank.clone()),
            frames: Vec::new(),
            audio: Samples(0),
            state: None,
            search: None,
            hotwords,
            pack,
        }
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

impl Utterance for SherpaUtterance {
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
        if let Some(Tokens::Transducer(search)) = &mut self.search {
            search.finish();
        }
        self.transcript_of(true)
    }
}

struct OfflineSherpa {
    encoder: Box<dyn Model>,
    namer: Namer,
    bank: Arc<KaldiBank>,
    symbols: Arc<Symbols>,
}

impl OfflineSherpa {
    fn read_one(&mut self, audio: &[f32], hotwords: &[Hotword]) -> Result<Reading, RuntimeError> {
        let wrong = |reason: String| RuntimeError::Run { runtime: "the encoder", reason };
        let (mut features, mut frames) = (KaldiFeatures::new(self.bank.clone()), Vec::new());
        features.push(audio, &mut frames);
        features.finish(&mut frames);
        let (width, count) = (self.bank.n_mels(), frames.len() / self.bank.n_mels());
        if count < 2 * SUBSAMPLING {
            return Ok(Reading::default());
        }
        let inputs = vec![("x", Tensor::f32([1, count, width], frames).into()), ("x_lens", Tensor::i64([1], vec![count as i64]).into())];
        let out = self.encoder.run(inputs, &[self.namer.output()])?.pop().ok_or_else(|| wrong("it gave nothing".to_owned()))?;
        let [1, _, dimension] = out.shape()[..] else {
            return Err(wrong(format!("`{}` has the shape {:?}", self.namer.output(), out.shape())));
        };
        let values = out.f32().ok_or_else(|| wrong(format!("`{}` is no float", self.namer.output())))?;
        let mut search = self.namer.begin(&self.symbols, HotwordGraph::of_words(hotwords, &self.symbols).map(Arc::new));
        self.namer.advance(&mut [(&mut search, &values)], dimension)?;
        if let Tokens::Transducer(search) = &mut search {
            search.finish();
        }
        let words = spell(search.best(), &self.symbols, FRAME).into_iter().map(|word| word.word).collect();
        Ok(Reading { words, settled: 0, language: None })
    }
}

impl WindowModel for OfflineSherpa {
    fn read(&mut self, windows: &[Window<'_>]) -> Result<Vec<Reading>, RuntimeError> {
        windows.iter().map(|window| self.read_one(window.audio, &window.options.hotwords)).collect()
    }
}
