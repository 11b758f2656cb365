//! A stream's two ends: the handle outside, the bounded queue between, and what a thread needs to open it.
//!
//! Rule: pushing takes one short lock that only this stream's thread shares; a full queue refuses and counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::stats::Counters;
use super::worker::WorkerShared;
use super::{Engine, Sink, Source};
use crate::audio::TapPacket;
use crate::audio::resample::Resampler;
use crate::session::{SessionConfig, SessionUpdate};

/// Packets that may wait: 5 s of 20 ms packets.
const MAX_PACKETS: usize = 256;
/// Samples that may wait, at the stream's own rate, in milliseconds of it.
const MAX_PCM_MS: usize = 5_000;

/// What waits for the thread.
pub(super) enum Input {
    Packet(TapPacket),
    Pcm(Vec<f32>),
    Flush,
    Update(Box<SessionUpdate>),
}

#[derive(Default)]
struct Queue {
    inputs: VecDeque<Input>,
    packets: usize,
    samples: usize,
}

/// The queue between a handle and its thread.
pub(super) struct StreamShared {
    source: Source,
    max_samples: usize,
    queue: Mutex<Queue>,
    closed: AtomicBool,
    finishing: AtomicBool,
}

impl StreamShared {
    pub(super) fn new(source: Source) -> Self {
        let rate = match source {
            Source::Packets => crate::audio::SAMPLE_RATE,
            Source::Pcm { rate } => rate,
        };
        let max_samples = rate as usize / 1000 * MAX_PCM_MS;
        Self { source, max_samples, queue: Mutex::default(), closed: AtomicBool::new(false), finishing: AtomicBool::new(false) }
    }

    pub(super) fn source(&self) -> Source {
        self.source
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The source has ended: once all of it is text, the stream may close.
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire) && self.queue.lock().unwrap_or_else(PoisonError::into_inner).inputs.is_empty()
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Everything that waits, in order.
    pub(super) fn take(&self) -> VecDeque<Input> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        (queue.packets, queue.samples) = (0, 0);
        std::mem::take(&mut queue.inputs)
    }

    /// Puts an input at the end, unless the queue is full.
    fn push(&self, input: Input) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match &input {
            Input::Packet(_) if queue.packets >= MAX_PACKETS => return false,
            Input::Packet(_) => queue.packets += 1,
            // One push of any length is taken by an empty queue, so that no length is impossible.
            Input::Pcm(samples) if queue.samples > 0 && queue.samples + samples.len() > self.max_samples => return false,
            Input::Pcm(samples) => queue.samples += samples.len(),
            Input::Flush if matches!(queue.inputs.back(), Some(Input::Flush)) => return true,
            // No more than a caller may reasonably send while its audio waits.
            Input::Update(_) if queue.inputs.len() >= MAX_PACKETS => return false,
            Input::Flush | Input::Update(_) => {}
        }
        queue.inputs.push_back(input);
        true
    }
}

/// A stream that a thread is to take over.
pub(super) struct Opened {
    pub(super) shared: Arc<StreamShared>,
    pub(super) config: SessionConfig,
    pub(super) resampler: Option<Resampler>,
    pub(super) sink: Sink,
}

/// An open stream. Dropping it ends the stream at once; [`StreamHandle::finish`] ends it after its last word.
pub struct StreamHandle {
    shared: Arc<StreamShared>,
    worker: Arc<WorkerShared>,
    counters: Arc<Counters>,
    /// Keeps the pool alive as long as a stream is open.
    _engine: Engine,
}

impl StreamHandle {
    pub(super) fn new(shared: Arc<StreamShared>, worker: Arc<WorkerShared>, counters: Arc<Counters>, engine: Engine) -> Self {
        Self { shared, worker, counters, _engine: engine }
    }

    /// Hands a packet over. `false`: the queue is full (or the stream is one of samples) and the packet was dropped, counted.
    pub fn push_packet(&self, packet: TapPacket) -> bool {
        self.push(Input::Packet(packet), self.shared.source() == Source::Packets)
    }

    /// Hands mono samples over, at the rate of the stream's source. `false`: the queue holds five seconds already (or the
    /// stream is one of packets) and the samples were not taken; a source that can wait tries again.
    pub fn push_pcm(&self, samples: &[f32]) -> bool {
        self.push(Input::Pcm(samples.to_vec()), matches!(self.shared.source(), Source::Pcm { .. }))
    }

    /// The audio ends here for now: what is open is closed.
    pub fn flush(&self) {
        self.push(Input::Flush, true);
    }

    /// Changes what the stream wants, for the audio that is pushed after it. `false`: too much waits already, or the stream has ended.
    pub fn update(&self, update: SessionUpdate) -> bool {
        self.push(Input::Update(Box::new(update)), true)
    }

    /// The source has ended: what was pushed becomes text, what is open is closed, then the stream ends and its sink is dropped.
    pub fn finish(self) {
        self.flush();
        self.shared.finishing.store(true, Ordering::Release);
    }

    fn push(&self, input: Input, allowed: bool) -> bool {
        let taken = allowed && !self.shared.is_closed() && self.shared.push(input);
        if taken {
            self.worker.wake();
        } else {
            self.counters.refused_inputs.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        if !self.shared.finishing.load(Ordering::Acquire) {
            self.shared.close();
        }
        self.worker.wake();
    }
}
