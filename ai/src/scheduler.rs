//! The engine: a fixed pool of threads that serves every stream.
//!
//! Place: the only part of this crate with threads and a clock; the server opens streams here. Rules: work is scheduled, not
//! spawned: each thread owns its streams, looks at them every few milliseconds, and runs each network once for all that are
//! due; a stream that is not served in time is degraded by rule, and told so; a stream beyond the limit is refused with a
//! sentence; pushing never blocks; a pool whose streams are silent sleeps.

mod stats;
mod stream;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use crate::audio::AudioError;
use crate::audio::resample::Resampler;
use crate::pack::{self, PackError, PackSource};
use crate::recogniser::{Abilities, SpeechPack};
use crate::runtime::{self, RuntimeChoice, RuntimeError, RuntimeOptions};
use crate::session::{SessionConfig, SpeechEvent, StreamSession};
use stats::Counters;
pub use stats::EngineStats;
pub use stream::StreamHandle;
use stream::{Opened, StreamShared};
use worker::{Worker, WorkerShared};

/// A thread that spends so much of its time (thousandths) on live streams takes no further one: what is left is for the moments in
/// which all speak at once.
const FULL_PERMILLE: u64 = 850;

/// More threads than any machine for which this pool is meant has cores.
const MAX_THREADS: usize = 64;

/// How an engine is to run.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Threads for models and decoding, 1 to 64. Each runs one stream's batch at a time.
    pub threads: usize,
    /// The recogniser's model pack.
    pub pack: PackSource,
    /// A smaller pack for what a stream says while the machine does not keep up with the larger one.
    pub smaller: Option<PackSource>,
    /// Folder or file of Silero VAD; `None` searches the cache folder, and uses the built-in detector without it.
    pub vad: Option<PathBuf>,
    /// The engine under the models.
    pub runtime: RuntimeChoice,
    /// How it runs them.
    pub options: RuntimeOptions,
    /// Streams at once; one more is refused.
    pub max_streams: usize,
    /// Priority of the threads: 0 (normal) to 19 (lowest). 10 keeps media ahead of speech.
    pub nice: i32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            pack: PackSource::BuiltIn,
            smaller: None,
            vad: None,
            runtime: RuntimeChoice::Auto,
            options: RuntimeOptions::default(),
            max_streams: 64,
            nice: 10,
        }
    }
}

/// What a stream is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Opus packets in real time ([`StreamHandle::push_packet`]).
    Packets,
    /// Mono samples at any speed ([`StreamHandle::push_pcm`]).
    Pcm {
        /// Hertz, 8,000 to 48,000.
        rate: u32,
    },
}

/// Where events go: called on the engine's threads; it must return at once.
pub type Sink = Box<dyn FnMut(SpeechEvent) + Send>;

/// What the engine can refuse.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The pack is not usable.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The runtime or a model is not usable.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The audio format is not usable.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The machine has no time for one more live stream.
    #[error(
        "the machine has no time for another stream: live ones take {percent} % of its speech threads already. Try again when one has ended, or give it more          threads (ai.threads)"
    )]
    Overloaded {
        /// Of the thread that has most time.
        percent: u64,
    },
    /// Every stream is taken.
    #[error("{limit} streams are being recognised, which is this server's limit (ai.max_streams): try again when one has ended")]
    TooManyStreams {
        /// The limit.
        limit: usize,
    },
    /// Another language than the pack's.
    #[error("language `{asked}` is not recognised: the model pack speaks `{spoken}`. Ask for that, or install another pack")]
    Language {
        /// What was asked for.
        asked: String,
        /// What the pack has.
        spoken: String,
    },
    /// A thread could not be started.
    #[error("a speech thread could not be started: {0}")]
    Thread(String),
}

/// The pool. Cheap to clone; the threads end with the last clone and the last stream.
#[derive(Clone)]
pub struct Engine {
    pool: Arc<Pool>,
}

struct Pool {
    workers: Vec<(Arc<WorkerShared>, Option<std::thread::JoinHandle<()>>)>,
    pack: Arc<dyn SpeechPack>,
    counters: Arc<Counters>,
    max_streams: usize,
    runtime_name: String,
    detector_name: &'static str,
    notes: Vec<String>,
}

impl Engine {
    /// Opens the pack and the runtime, loads the models on every thread, and starts them.
    ///
    /// # Errors
    /// [`EngineError`], saying what was missing, where it was looked for, and what to do.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let packs = Packs { usual: pack::open_speech(&config.pack)?, smaller: config.smaller.as_ref().map(pack::open_speech).transpose()? };
        let library = match &config.runtime {
            RuntimeChoice::OnnxRuntime(path) => path.as_deref(),
            _ => None,
        };
        let (runtime, fell_back) = runtime::open_with(&config.runtime, &pack::onnxruntime_candidates(library), &config.options)?;
        let (silero, no_silero) = pack::open_silero(config.vad.as_deref())?;
        let counters = Arc::new(Counters::default());
        let (ready, loaded) = mpsc::sync_channel(MAX_THREADS);
        let mut workers = Vec::new();
        for index in 0..config.threads.clamp(1, MAX_THREADS) {
            let shared = Arc::new(WorkerShared::default());
            let worker = Worker::new(shared.clone(), counters.clone());
            let (runtime, packs, silero, ready) = (runtime.clone(), packs.clone(), silero.clone(), ready.clone());
            let nice = config.nice;
            let thread = std::thread::Builder::new()
                .name(format!("speech-{index}"))
                .spawn(move || worker.run(runtime, &packs, silero.as_ref(), nice, &ready))
                .map_err(|error| EngineError::Thread(error.to_string()))?;
            workers.push((shared, Some(thread)));
        }
        drop(ready);
        let mut pool = Pool {
            workers,
            pack: packs.usual,
            counters,
            max_streams: config.max_streams,
            runtime_name: runtime.name().to_owned(),
            detector_name: "",
            notes: fell_back.into_iter().chain(no_silero).collect(),
        };
        for _ in 0..pool.workers.len() {
            // Dropping the pool on an error stops the threads that did start.
            pool.detector_name = loaded.recv().map_err(|_| EngineError::Thread("it ended while loading its models".to_owned()))??;
        }
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Sentences about what is missing and what is used instead, to be logged at the start.
    pub fn notes(&self) -> &[String] {
        &self.pool.notes
    }

    /// The languages that are recognised, BCP 47 tags; the first is spoken when none is asked for. Empty: the pack does not say.
    pub fn languages(&self) -> &[String] {
        self.pool.pack.languages()
    }

    /// What the pack can do.
    pub fn abilities(&self) -> Abilities {
        self.pool.pack.abilities()
    }

    /// Opens a stream on the thread that has the fewest. `sink` gets its events in order; dropping the handle ends it.
    ///
    /// # Errors
    /// [`EngineError::TooManyStreams`], [`EngineError::Language`], or [`EngineError::Audio`] for a rate that cannot be resampled.
    pub fn open(&self, config: SessionConfig, source: Source, sink: Sink) -> Result<StreamHandle, EngineError> {
        let pool = &self.pool;
        if !pool.pack.speaks(&config.language) {
            let spoken = pool.pack.languages().join(", ");
            return Err(EngineError::Language { asked: config.language, spoken });
        }
        let resampler = match source {
            Source::Packets => None,
            Source::Pcm { rate } if !(8_000..=48_000).contains(&rate) => return Err(AudioError::SampleRate { rate }.into()),
            Source::Pcm { rate } => Some(Resampler::new(rate, crate::audio::SAMPLE_RATE)?),
        };
        let (worker, _) = pool
            .workers
            .iter()
            .min_by_key(|(worker, _)| (worker.load_permille() >= FULL_PERMILLE, worker.streams()))
            .expect("an engine has at least one thread");
        // What can wait is held back by its own queue instead.
        if source == Source::Packets && worker.load_permille() >= FULL_PERMILLE {
            pool.counters.refused_for_load.fetch_add(1, Ordering::Relaxed);
            return Err(EngineError::Overloaded { percent: worker.load_permille() / 10 });
        }
        let taken = pool
            .counters
            .streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |streams| (streams < pool.max_streams as u64).then_some(streams + 1));
        if taken.is_err() {
            pool.counters.refused_streams.fetch_add(1, Ordering::Relaxed);
            return Err(EngineError::TooManyStreams { limit: pool.max_streams });
        }
        let shared = Arc::new(StreamShared::new(source));
        worker.open(Opened { shared: shared.clone(), config, resampler, sink });
        Ok(StreamHandle::new(shared, worker.clone(), pool.counters.clone(), self.clone()))
    }

    /// Whether one more stream would be refused now.
    pub fn is_full(&self) -> bool {
        let pool = &self.pool;
        let taken = pool.counters.streams.load(Ordering::Acquire) >= pool.max_streams as u64;
        taken || pool.workers.iter().all(|(worker, _)| worker.load_permille() >= FULL_PERMILLE)
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> EngineStats {
        let pool = &self.pool;
        let busiest = pool.workers.iter().map(|(worker, _)| worker.load_permille()).max().unwrap_or_default();
        pool.counters.load_permille.store(busiest, Ordering::Relaxed);
        pool.counters.snapshot(&pool.runtime_name, pool.detector_name, pool.pack.name())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (worker, _) in &self.workers {
            worker.stop();
        }
        let current = std::thread::current().id();
        for (_, thread) in &mut self.workers {
            // The last clone may go on one of the pool's own threads (inside a sink): that one ends by itself.
            if let Some(thread) = thread.take().filter(|thread| thread.thread().id() != current) {
                // A panic was reported by the panic hook already.
                let _ = thread.join();
            }
        }
    }
}

/// The packs of an engine.
#[derive(Clone)]
struct Packs {
    usual: Arc<dyn SpeechPack>,
    smaller: Option<Arc<dyn SpeechPack>>,
}

fn new_session(config: SessionConfig, packs: &Packs, models: &crate::session::models::SpeechModels) -> StreamSession {
    StreamSession::new(config, packs.usual.clone(), models.detector()).with_smaller(packs.smaller.clone())
}
