//! The fixed pool: texts wait in one bounded queue; whichever thread is free takes the oldest and all others of its pair.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{MAX_TEXT_CHARS, Pair, TranslationError, TranslationPack, Translator};
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
    packs: Arc<[Arc<dyn TranslationPack>]>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl TranslationEngine {
    /// Loads every pack on every thread and tries it. Of several packs that translate a pair the first is used.
    ///
    /// # Errors
    /// [`TranslationError`] when a model cannot be loaded or a thread not started.
    pub fn start(
        packs: Vec<Arc<dyn TranslationPack>>,
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
            loaded.recv().map_err(|_| TranslationError::Thread("one ended while loading its models".to_owned()))??;
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

fn work(
    shared: &Shared,
    packs: &[Arc<dyn TranslationPack>],
    runtime: &dyn Runtime,
    ready: &SyncSender<Result<(), RuntimeError>>,
    nice: i32,
) {
    // On Linux the priority belongs to the thread. Without the right to change it, translation still works.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice) {
        tracing::warn!(%error, nice, "the priority of a translation thread could not be lowered");
    }
    let mut translators: Vec<Box<dyn Translator>> = match packs.iter().map(|pack| pack.load(runtime)).collect() {
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
        let answer = translators[batch[0].pack].translate(&texts, &batch[0].pair);
        let answer = answer.and_then(|translations| match translations.len() == batch.len() {
            true => Ok(translations),
            false => Err(RuntimeError::Run { runtime: "the translation model", reason: "not every text was translated".to_owned() }),
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Rten;

    /// Writes the language in front of each text; knows English to two others; fails on one text.
    struct Toy;

    impl TranslationPack for Toy {
        fn name(&self) -> &str {
            "toy"
        }
        fn translates(&self, pair: &Pair) -> bool {
            pair.from == "en" && ["de", "fr"].contains(&pair.to.as_str())
        }
        fn targets(&self, _: &str) -> Vec<String> {
            vec!["fr".into(), "de".into(), "de".into()]
        }
        fn pairs(&self) -> String {
            "en to de and fr".into()
        }
        fn load(&self, _: &dyn Runtime) -> Result<Box<dyn Translator>, RuntimeError> {
            Ok(Box::new(Toy))
        }
    }

    impl Translator for Toy {
        fn translate(&mut self, texts: &[&str], pair: &Pair) -> Result<Vec<String>, RuntimeError> {
            if texts.contains(&"bad") {
                return Err(RuntimeError::Run { runtime: "toy", reason: "bad".into() });
            }
            Ok(texts.iter().map(|text| format!("{}:{text}", pair.to)).collect())
        }
    }

    fn engine(threads: usize) -> TranslationEngine {
        let runtime: Arc<dyn Runtime> = Arc::new(Rten::default());
        TranslationEngine::start(vec![Arc::new(Toy)], &runtime, TranslationConfig { threads, nice: 0 }).expect("it starts")
    }

    #[test]
    fn texts_come_back_in_order_and_a_failure_is_the_callers_alone() {
        let engine = engine(2);
        let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let expected: Vec<String> = texts.iter().map(|text| format!("de:{text}")).collect();
        assert_eq!(engine.translate(&texts, &Pair::new("en-GB", "de-AT")).expect("it translates"), expected);
        assert!(engine.stats().runs < 100, "those that wait are one batch");
        let error = engine.translate(&["bad".into()], &Pair::new("en", "fr")).expect_err("it fails").to_string();
        assert!(error.contains("toy"), "{error}");
        assert_eq!(engine.translate(&["good".into()], &Pair::new("en", "fr")).expect("it goes on"), ["fr:good"]);
        assert_eq!((engine.stats().texts, engine.stats().failures), (101, 1));
        assert!(engine.translate(&[], &Pair::new("en", "fr")).expect("nothing").is_empty());
        assert_eq!(engine.targets("en"), ["de", "fr"]);
    }

    #[test]
    fn what_cannot_be_is_refused_at_once() {
        let engine = engine(1);
        let refusal = |text: &str, from: &str, to: &str| {
            engine.translate(&[text.to_owned()], &Pair::new(from, to)).expect_err("it is refused").to_string()
        };
        let message = refusal("x", "de", "en");
        assert!(message.contains("`de` to `en`") && message.contains("en to de and fr"), "{message}");
        assert!(refusal(&"x".repeat(MAX_TEXT_CHARS + 1), "en", "de").contains("2001 characters"));
        // The thread is held in the first sink, so the queue fills.
        let (hold, held) = sync_channel::<()>(0);
        let submit = |sink: Sink| engine.submit("x".into(), Pair::new("en", "de"), sink);
        submit(Box::new(move |_| held.recv().unwrap_or_default())).expect("there is room");
        let mut taken = 0;
        let error = loop {
            match submit(Box::new(|_| ())) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            assert!(taken <= 2 * MAX_WAITING, "the queue has a limit");
        };
        assert!(matches!(error, TranslationError::Busy) && engine.stats().refused == 1);
        drop(hold);
        assert_eq!(engine.translate(&[], &Pair::new("en", "de")).expect("it goes on").len(), 0);
    }
}
