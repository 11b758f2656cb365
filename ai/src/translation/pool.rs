//! The fixed pool: texts wait in one bounded queue; whichever thread is free takes the oldest and all others of its pair.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{MAX_TEXT_CHARS, Pair, TranslationError, Translator, TranslatorError};
use crate::pack::TranslationPack;
use crate::runtime::{Runtime, RuntimeError};

/// Texts that wait, all callers together.
const MAX_WAITING: usize = 512;
/// Texts in one run: more save little and make others wait.
const BATCH: usize = 16;
/// Most threads.
const MAX_THREADS: usize = 64;

/// Where a translation goes: called on the pool's threads; it must return at once.
pub type Sink = Box<dyn FnOnce(Result<String, TranslationError>) + Send>;

/// How translation is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TranslationConfig {
    /// Threads, 1 to 64; each loads every pack.
    pub threads: usize,
    /// Priority of the threads; larger is lower.
    pub nice: i32,
}

impl Default for TranslationConfig {
    fn default() -> Self {
        Self { threads: 1, nice: 10 }
    }
}

/// What the pool did, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TranslationStats {
    /// Texts translated.
    pub texts: u64,
    /// Runs of a model for them.
    pub runs: u64,
    /// Texts that were refused because too many waited.
    pub refused: u64,
    /// Texts that a model failed on.
    pub failures: u64,
}

struct Job {
    pack: usize,
    pair: Pair,
    text: String,
    sink: Sink,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    texts: AtomicU64,
    runs: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest text and others of the same pack and pair; `None`: the pool ends.
    fn next(&self) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        loop {
            if queue.stop {
                return None;
            }
            if let Some(first) = queue.jobs.pop_front() {
                let mut batch = vec![first];
                let mut rest = VecDeque::with_capacity(queue.jobs.len());
                for job in queue.jobs.drain(..) {
                    let alike = (job.pack, &job.pair) == (batch[0].pack, &batch[0].pair);
                    if alike && batch.len() < BATCH { batch.push(job) } else { rest.push_back(job) }
                }
                queue.jobs = rest;
                return Some(batch);
            }
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Translates texts. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct TranslationEngine {
    pool: Arc<Pool>,
}

struct Pool {
    packs: Arc<[Arc<TranslationPack>]>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl TranslationEngine {
    /// Loads every pack on every thread and tries it. Of several packs that translate a pair the first is used.
    ///
    /// # Errors
    /// [`TranslationError`] when a model cannot be loaded or a thread not started.
    pub fn start(
        packs: Vec<Arc<TranslationPack>>,
        runtime: &Arc<dyn Runtime>,
        config: TranslationConfig,
    ) -> Result<Self, TranslationError> {
        let threads = config.threads.clamp(1, MAX_THREADS);
        let mut pool = Pool { packs: packs.into(), shared: Arc::default(), threads: Vec::new() };
        let (ready, loaded) = sync_channel(threads);
        for index in 0..threads {
            let (shared, packs, runtime, ready) = (pool.shared.clone(), pool.packs.clone(), runtime.clone(), ready.clone());
            let thread = std::thread::Builder::new()
                .name(format!("translation-{index}"))
                .spawn(move || work(&shared, &packs, &*runtime, &ready, config.nice))
                .map_err(|error| TranslationError::Thread(error.to_string()))?;
            pool.threads.push(thread);
        }
        drop(ready);
        for _ in 0..threads {
            // Dropping the pool on an error stops the threads that did start.
            let loaded = loaded.recv().map_err(|_| TranslationError::Thread("one ended while loading its models".to_owned()))?;
            loaded.map_err(TranslatorError::from)?;
        }
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Whether a pack has this pair.
    pub fn translates(&self, pair: &Pair) -> bool {
        self.pool.packs.iter().any(|pack| pack.translates(pair))
    }

    /// The languages that `from` is translated into, each once.
    pub fn targets(&self, from: &str) -> Vec<String> {
        let targets: BTreeSet<String> = self.pool.packs.iter().flat_map(|pack| pack.targets(from)).collect();
        targets.into_iter().collect()
    }

    /// What is translated, in words.
    pub fn pairs(&self) -> String {
        let pairs: Vec<String> = self.pool.packs.iter().map(|pack| pack.pairs()).collect();
        if pairs.is_empty() { "no translation pack".to_owned() } else { pairs.join("; ") }
    }

    /// Has a text translated; `sink` is called with the outcome, on a thread of the pool.
    ///
    /// # Errors
    /// [`TranslationError::Pair`], [`TranslationError::TooLong`] or [`TranslationError::Busy`] at once; then `sink` is never called.
    pub fn submit(&self, text: String, pair: Pair, sink: Sink) -> Result<(), TranslationError> {
        let chars = text.chars().count();
        if chars > MAX_TEXT_CHARS {
            return Err(TranslationError::TooLong { chars });
        }
        let Some(pack) = self.pool.packs.iter().position(|pack| pack.translates(&pair)) else {
            return Err(TranslationError::Pair { from: pair.from, to: pair.to, known: self.pairs() });
        };
        let shared = &self.pool.shared;
        {
            let mut queue = shared.lock();
            if queue.jobs.len() >= MAX_WAITING {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                return Err(TranslationError::Busy);
            }
            queue.jobs.push_back(Job { pack, pair, text, sink });
        }
        shared.bell.notify_one();
        Ok(())
    }

    /// Translates texts and waits for them, in order.
    ///
    /// # Errors
    /// [`TranslationError`]; all texts or none.
    pub fn translate(&self, texts: &[String], pair: &Pair) -> Result<Vec<String>, TranslationError> {
        let (answers, answered) = sync_channel(texts.len().max(1));
        for (index, text) in texts.iter().enumerate() {
            let answers = answers.clone();
            // The caller may have given up on another text's error already.
            self.submit(text.clone(), pair.clone(), Box::new(move |answer| drop(answers.send((index, answer)))))?;
        }
        drop(answers);
        let mut translations = vec![String::new(); texts.len()];
        for _ in texts {
            let (index, answer) = answered.recv().map_err(|_| TranslationError::Thread("one ended at its work".to_owned()))?;
            translations[index] = answer?;
        }
        Ok(translations)
    }

    /// What was done so far.
    pub fn stats(&self) -> TranslationStats {
        let shared = &self.pool.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TranslationStats {
            texts: read(&shared.texts),
            runs: read(&shared.runs),
            refused: read(&shared.refused),
            failures: read(&shared.failures),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.bell.notify_all();
        let current = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last clone may go in a sink, on one of the pool's own threads: that one ends by itself.
            if thread.thread().id() != current {
                // A thread that panicked has said so on standard error.
                let _ = thread.join();
            }
        }
    }
}

fn work(shared: &Shared, packs: &[Arc<TranslationPack>], runtime: &dyn Runtime, ready: &SyncSender<Result<(), RuntimeError>>, nice: i32) {
    // On Linux the priority belongs to the thread. Without the right to change it, translation still works.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice) {
        tracing::warn!(%error, nice, "the priority of a translation thread could not be lowered");
    }
    let mut translators: Vec<Translator> = match packs.iter().map(|pack| Translator::load(runtime, pack.clone())).collect() {
        Ok(translators) => translators,
        Err(error) => {
            // The pool may have given up on another thread's error already.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    while let Some(batch) = shared.next() {
        let texts: Vec<&str> = batch.iter().map(|job| job.text.as_str()).collect();
        let answer = translate(&mut translators[batch[0].pack], &texts, &batch[0].pair);
        shared.runs.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(translations) => {
                shared.texts.fetch_add(batch.len() as u64, Ordering::Relaxed);
                batch.into_iter().zip(translations).for_each(|(job, translation)| (job.sink)(Ok(translation)));
            }
            Err(error) => {
                shared.failures.fetch_add(batch.len() as u64, Ordering::Relaxed);
                let error = TranslationError::from(error);
                batch.into_iter().for_each(|job| (job.sink)(Err(error.clone())));
            }
        }
    }
}

/// Each text in the other language; one of nothing stays so.
fn translate(translator: &mut Translator, texts: &[&str], pair: &Pair) -> Result<Vec<String>, TranslatorError> {
    let said: Vec<(usize, &str)> = texts.iter().copied().enumerate().filter(|(_, text)| !text.trim().is_empty()).collect();
    let mut translations = vec![String::new(); texts.len()];
    if said.is_empty() {
        return Ok(translations);
    }
    let given = translator.translate(&said.iter().map(|(_, text)| *text).collect::<Vec<_>>(), &pair.from, &pair.to)?;
    if given.len() != said.len() {
        let reason = "not every text was translated".to_owned();
        return Err(RuntimeError::Run { runtime: "the translation model", reason }.into());
    }
    said.into_iter().zip(given).for_each(|((place, _), translation)| translations[place] = translation);
    Ok(translations)
}
