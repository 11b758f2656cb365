//! The jobs that a worker runs now, and their signs of life.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{AbortHandle, JoinError};
use tokio::time::MissedTickBehavior;

use super::context::JobContext;
use super::{JobError, Parts, outcome};
use crate::queue::JobId;
use crate::queue::job::Progress;
use crate::queue::store::{Beat, Claimed, End, Heard, Outcome};

/// Why an attempt is cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Its owner wants it ended.
    Cancelled,
    /// The worker stops.
    Released,
    /// It is this worker's no longer.
    Lost,
}

struct Entry {
    context: JobContext,
    fence: i64,
    /// When the last sign of life that was heard was given.
    alive: Instant,
    beaten: Progress,
    cut: Option<oneshot::Sender<Cut>>,
}

/// By job.
#[derive(Default)]
pub struct Running {
    entries: Mutex<HashMap<JobId, Entry>>,
}

impl Running {
    fn entries(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, id: &JobId, fence: i64, cut: Cut) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(id).filter(|entry| entry.fence == fence) else { return };
        if let Some(sender) = entry.cut.take() {
            entry.context.token().cancel();
            let _ = sender.send(cut);
        }
    }

    /// Every attempt is given back.
    pub fn release_all(&self) {
        for entry in self.entries().values_mut() {
            if let Some(sender) = entry.cut.take() {
                entry.context.token().cancel();
                let _ = sender.send(Cut::Released);
            }
        }
    }

    fn beats(&self) -> Vec<Beat> {
        let beat = |(id, entry): (&JobId, &Entry)| Beat { id: id.clone(), fence: entry.fence, progress: entry.context.progress_now() };
        self.entries().iter().map(beat).collect()
    }
}

/// Runs an attempt and tells its end.
pub fn spawn(parts: Arc<Parts>, claimed: Claimed, permit: OwnedSemaphorePermit) {
    let Claimed { job, fence } = claimed;
    let Some(handler) = parts.handlers.get(&job.kind).cloned() else { return };
    let (cut, is_cut) = oneshot::channel();
    let (id, attempt) = (job.id.clone(), job.attempt);
    let context = JobContext::new(job);
    let entry = Entry { context: context.clone(), fence, alive: Instant::now(), beaten: Progress::default(), cut: Some(cut) };
    parts.running.entries().insert(id.clone(), entry);
    tokio::spawn(async move {
        let inner = context.clone();
        // A task of its own, so that a panic is an attempt that failed.
        let mut attempt_task = tokio::spawn(async move { handler.run(&inner).await });
        let abort = AbortOnDrop(attempt_task.abort_handle());
        let ended = tokio::select! {
            answer = &mut attempt_task => Some(outcome(answered(answer), &parts.config, attempt)),
            Ok(cut) = is_cut => match cut {
                Cut::Lost => None,
                Cut::Released => Some(Outcome::Released),
                // It may end by itself: what it still finishes counts.
                Cut::Cancelled => Some(match tokio::time::timeout(parts.config.cancel_grace, &mut attempt_task).await {
                    Ok(Ok(Ok(result))) => outcome(Ok(result), &parts.config, attempt),
                    Ok(answer) => Outcome::Cancelled(answered(answer).err().map_or_else(String::new, |error| crate::queue::job::cut(&error.to_string()))),
                    Err(_) => Outcome::Cancelled("it did not end by itself when it was cancelled".into()),
                }),
            },
        };
        drop(abort);
        if let Some(outcome) = ended {
            let end = End { id: id.clone(), fence, progress: context.progress_now(), outcome };
            // The room is free when the end is heard. The channel ends with the worker: then the lease tells.
            let _ = parts.ends.send((end, permit)).await;
        }
        let mut entries = parts.running.entries();
        if entries.get(&id).is_some_and(|entry| entry.fence == fence) {
            entries.remove(&id);
        }
    });
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn answered(answer: Result<Result<serde_json::Value, JobError>, JoinError>) -> Result<serde_json::Value, JobError> {
    answer.unwrap_or_else(|error| {
        let why = match error.try_into_panic() {
            Ok(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
                format!("its handler panicked: {}", text.unwrap_or("without words"))
            }
            Err(_) => "its handler was ended".to_owned(),
        };
        Err(JobError::Retryable(why))
    })
}

/// Signs of life, until the worker ends. A job whose lease ended without one being heard is stopped: another may have it.
pub async fn beat(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(parts.config.beat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = parts.queue.shared.cancels.notified() => {}
        }
        let beats = parts.running.beats();
        if beats.is_empty() {
            continue;
        }
        let given = Instant::now();
        match parts.queue.shared.store.beat(&beats, parts.config.lease).await {
            Ok(heard) => hear(&parts, beats, &heard, given),
            Err(error) => {
                tracing::warn!(%error, jobs = beats.len(), "signs of life are not heard");
                stop_late(&parts);
            }
        }
    }
}

fn hear(parts: &Parts, beats: Vec<Beat>, heard: &[Heard], given: Instant) {
    let mut progressed = false;
    for (beat, heard) in beats.into_iter().zip(heard) {
        match heard {
            Heard::Kept => {}
            Heard::Cancel => parts.running.cut(&beat.id, beat.fence, Cut::Cancelled),
            Heard::Lost => parts.running.cut(&beat.id, beat.fence, Cut::Lost),
        }
        if let Some(entry) = parts.running.entries().get_mut(&beat.id).filter(|entry| entry.fence == beat.fence) {
            entry.alive = given;
            progressed |= entry.beaten != beat.progress;
            entry.beaten = beat.progress;
        }
    }
    if progressed {
        parts.queue.changed();
    }
}

fn stop_late(parts: &Parts) {
    let late: Vec<_> = parts
        .running
        .entries()
        .iter()
        .filter(|(_, entry)| entry.alive.elapsed() >= parts.config.lease)
        .map(|(id, entry)| (id.clone(), entry.fence))
        .collect();
    for (id, fence) in late {
        tracing::warn!(job = %id, "stopped: its lease ended while the engine was away");
        metrics::counter!("auralink_jobs_fenced_total").increment(1);
        parts.running.cut(&id, fence, Cut::Lost);
    }
}
