//! The fixed pool: batches wait in one bounded queue, whichever thread is free takes the next.

use std::collections::VecDeque;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::EmbedError;
use super::model::{SentenceModel, Tokens};
use crate::runtime::RuntimeError;

/// Batches that wait, all calls together: at 32 texts each, four of the largest calls.
const MAX_WAITING: usize = 128;

type Answer = Result<Vec<(usize, Vec<f32>)>, Arc<RuntimeError>>;

struct Job {
    batch: Vec<Tokens>,
    answers: SyncSender<Answer>,
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
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; `None`: the pool ends.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.stop {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The threads. Dropping it ends them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads; each makes its model with what `loader` gives it.
    pub(super) fn start<L>(threads: usize, nice: i32, loader: impl Fn() -> L) -> Result<Self, EmbedError>
    where
        L: FnOnce() -> Result<SentenceModel, RuntimeError> + Send + 'static,
    {
        let mut pool = Self { shared: Arc::default(), threads: Vec::new() };
        let (ready, loaded) = sync_channel(threads);
        for index in 0..threads {
            let (shared, load, ready) = (pool.shared.clone(), loader(), ready.clone());
            let thread = std::thread::Builder::new()
                .name(format!("embedding-{index}"))
                .spawn(move || work(&shared, load, &ready, nice))
                .map_err(|error| EmbedError::Thread(error.to_string()))?;
            pool.threads.push(thread);
        }
        drop(ready);
        for _ in 0..threads {
            // Dropping the pool on an error stops the threads that did start.
            loaded.recv().map_err(|_| EmbedError::Thread("one ended while loading its model".to_owned()))??;
        }
        Ok(pool)
    }

    /// Runs the batches; gives each text's vector with its place.
    pub(super) fn run(&self, batches: Vec<Vec<Tokens>>) -> Result<Vec<(usize, Vec<f32>)>, EmbedError> {
        let count = batches.len();
        let (answers, answered) = sync_channel(count);
        {
            let mut queue = self.shared.lock();
            if queue.jobs.len() + count > MAX_WAITING {
                return Err(EmbedError::Busy);
            }
            let jobs = batches.into_iter().map(|batch| Job { batch, answers: answers.clone() });
            match count {
                1 => jobs.for_each(|job| queue.jobs.push_front(job)),
                _ => queue.jobs.extend(jobs),
            }
        }
        drop(answers);
        self.shared.bell.notify_all();
        let mut vectors = Vec::new();
        for _ in 0..count {
            let answer = answered.recv().map_err(|_| EmbedError::Thread("one ended at its work".to_owned()))?;
            vectors.extend(answer.map_err(EmbedError::Runtime)?);
        }
        Ok(vectors)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.bell.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

fn work(
    shared: &Shared,
    load: impl FnOnce() -> Result<SentenceModel, RuntimeError>,
    ready: &SyncSender<Result<(), RuntimeError>>,
    nice: i32,
) {
    // On Linux the priority belongs to the thread. Without the right to change it, embedding still works.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice) {
        tracing::warn!(%error, nice, "the priority of an embedding thread could not be lowered");
    }
    let mut model = match load() {
        Ok(model) => model,
        Err(error) => {
            // The pool may have given up on another thread's error already.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    while let Some(Job { batch, answers }) = shared.next() {
        let run = model.run(&batch).map_err(Arc::new);
        let answer = run.map(|vectors| batch.iter().map(|text| text.index).zip(vectors).collect());
        // The caller may have given up on another batch's error already.
        let _ = answers.send(answer);
    }
}
