//! One thread of the pool: its streams, its models, its loop.
//!
//! Rules: it looks at its streams every [`TICK`] while any of them has something to do, which batches what became due in
//! between (and batches more when it is late, because a longer look finds more streams due); it sleeps without end when all are
//! quiet. Live streams come before those that can wait. This file alone reads the clock.

#![expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::stats::Counters;
use super::stream::{Input, Opened, StreamShared};
use super::{EngineError, Packs, Sink, Source, new_session};
use crate::audio::Samples;
use crate::audio::receiver::{Audio, AudioReceiver, ReceiverStats};
use crate::audio::resample::Resampler;
use crate::runtime::{ModelFile, Runtime, RuntimeError};
use crate::session::models::SpeechModels;
use crate::session::{SpeechEvent, StreamSession};

/// Time between two looks at busy streams: one Opus packet. Shorter wakes more often for less, longer delays captions.
const TICK: Duration = Duration::from_millis(20);
/// Quiet looks before the thread sleeps without end.
const TICKS_TO_SLEEP: u32 = 50;
/// Time over which the load is measured.
const LOAD_WINDOW: Duration = Duration::from_secs(1);
/// Rounds of one window and one chunk per look, before new input is taken: half a second of audio.
const ROUNDS: usize = 20;
/// A live stream so late loses its interim text (rule 1) ...
const SUSPEND_INTERIM: Samples = Samples::from_ms(500);
/// ... until it has caught up to this.
const RESUME_INTERIM: Samples = Samples::from_ms(100);
/// A live stream so late goes on with the smaller model (rule 2), until it has caught up.
const SMALLER_MODEL: Samples = Samples::from_ms(1_500);
/// A live stream so late loses audio (rule 3) ...
const DROP_AUDIO: Samples = Samples::from_ms(4_000);
/// ... and keeps this much.
const KEEP_AUDIO: Samples = Samples::from_ms(500);

/// What handles and the thread share.
#[derive(Default)]
pub(super) struct WorkerShared {
    door: Mutex<Door>,
    bell: Condvar,
    streams: AtomicUsize,
    /// Time spent on live streams, thousandths of the last second.
    load: AtomicU64,
}

#[derive(Default)]
struct Door {
    opened: Vec<Opened>,
    /// The thread sleeps without end: whoever brings something rings.
    asleep: bool,
    rung: bool,
    stop: bool,
}

impl WorkerShared {
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Time spent on live streams lately, thousandths.
    pub(super) fn load_permille(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self, stream: Opened) {
        self.streams.fetch_add(1, Ordering::AcqRel);
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.opened.push(stream);
        self.ring(&mut door);
    }

    /// Something is there to be looked at.
    pub(super) fn wake(&self) {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.ring(&mut door);
    }

    pub(super) fn stop(&self) {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.stop = true;
        self.bell.notify_one();
    }

    fn ring(&self, door: &mut Door) {
        door.rung = true;
        if door.asleep {
            door.asleep = false;
            self.bell.notify_one();
        }
    }
}

struct Stream {
    shared: Arc<StreamShared>,
    session: StreamSession,
    receiver: Option<AudioReceiver>,
    receiver_stats: ReceiverStats,
    resampler: Option<Resampler>,
    /// Taken from the queue, not yet given to the session (a source of samples is taken in bit by bit).
    inputs: VecDeque<Input>,
    suspended: bool,
    smaller: bool,
    sink: Sink,
}

pub(super) struct Worker {
    shared: Arc<WorkerShared>,
    counters: Arc<Counters>,
    streams: Vec<Stream>,
    /// This thread's part of the gauges, as last reported.
    reported: Gauges,
    /// Time spent on live streams since the load was last told, and when that was.
    busy: Duration,
    load_told: Instant,
}

#[derive(Default, Clone, Copy)]
struct Gauges {
    speaking: u64,
    backlog_ms: u64,
}

impl Worker {
    pub(super) fn new(shared: Arc<WorkerShared>, counters: Arc<Counters>) -> Self {
        Self { shared, counters, streams: Vec::new(), reported: Gauges::default(), busy: Duration::ZERO, load_told: Instant::now() }
    }

    /// The thread's life. Tells `ready` the detector's name, or why the models could not be loaded.
    pub(super) fn run(
        mut self,
        runtime: Arc<dyn Runtime>,
        packs: &Packs,
        silero: Option<&ModelFile>,
        nice: i32,
        ready: &mpsc::SyncSender<Result<&'static str, EngineError>>,
    ) {
        // On Linux the priority belongs to the thread. Without the right to change it, speech still works.
        if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice) {
            tracing::warn!(%error, nice, "the priority of a speech thread could not be lowered");
        }
        let mut models = match load(&*runtime, packs, silero) {
            Ok(models) => models,
            Err(error) => {
                // The engine may have given up on another thread's error already.
                let _ = ready.send(Err(error.into()));
                return;
            }
        };
        let _ = ready.send(Ok(models.detector().name()));
        let mut quiet_ticks = 0;
        let mut next_tick = Instant::now();
        loop {
            let Some(opened) = self.wait(quiet_ticks >= TICKS_TO_SLEEP, next_tick) else { break };
            for stream in opened {
                self.open(stream, packs, &models);
            }
            let now = Instant::now();
            let busy = self.tick_or_drop(now, &mut models);
            quiet_ticks = if busy == Busy::Quiet { quiet_ticks + 1 } else { 0 };
            next_tick = match busy {
                // More waits: go on at once, but take new input in between.
                Busy::Behind => now,
                Busy::Working | Busy::Quiet => (next_tick + TICK).max(now + TICK / 4),
            };
        }
    }

    /// Sleeps until the next look is due; `None`: the pool ends.
    fn wait(&self, without_end: bool, until: Instant) -> Option<Vec<Opened>> {
        let mut door = self.shared.door.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if door.stop {
                return None;
            }
            let now = Instant::now();
            let due = if without_end { door.rung } else { now >= until };
            if due {
                door.rung = false;
                return Some(std::mem::take(&mut door.opened));
            }
            door.asleep = without_end;
            if without_end {
                self.shared.load.store(0, Ordering::Relaxed);
            }
            door = if without_end {
                self.shared.bell.wait(door).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.shared.bell.wait_timeout(door, until - now).unwrap_or_else(PoisonError::into_inner).0
            };
            door.asleep = false;
        }
    }

    fn open(&mut self, opened: Opened, packs: &Packs, models: &SpeechModels) {
        let receiver = match opened.shared.source() {
            Source::Packets => match AudioReceiver::new() {
                Ok(receiver) => Some(receiver),
                Err(error) => {
                    tracing::error!(%error, "a stream could not be opened");
                    self.closed(1);
                    return;
                }
            },
            Source::Pcm { .. } => None,
        };
        self.streams.push(Stream {
            shared: opened.shared,
            session: new_session(opened.config, packs, models),
            receiver,
            receiver_stats: ReceiverStats::default(),
            resampler: opened.resampler,
            inputs: VecDeque::new(),
            suspended: false,
            smaller: false,
            sink: opened.sink,
        });
    }

    fn closed(&self, streams: usize) {
        self.shared.streams.fetch_sub(streams, Ordering::AcqRel);
        self.counters.streams.fetch_sub(streams as u64, Ordering::AcqRel);
    }

    /// One look at all streams. A panic, which would be a bug, ends this thread's streams but not the thread.
    fn tick_or_drop(&mut self, now: Instant, models: &mut SpeechModels) -> Busy {
        catch_unwind(AssertUnwindSafe(|| self.tick(now, models))).unwrap_or_else(|_| {
            tracing::error!(streams = self.streams.len(), "a speech thread panicked: its streams end here");
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            let streams = std::mem::take(&mut self.streams);
            self.closed(streams.len());
            // Gone for their handles as well: what they still push is refused.
            streams.iter().for_each(|stream| stream.shared.close());
            Busy::Quiet
        })
    }

    /// One look at all streams.
    fn tick(&mut self, now: Instant, models: &mut SpeechModels) -> Busy {
        self.counters.ticks.fetch_add(1, Ordering::Relaxed);
        let before = self.streams.len();
        self.streams.retain(|stream| !stream.shared.is_closed());
        self.closed(before - self.streams.len());

        let mut any_input = false;
        for stream in &mut self.streams {
            any_input |= stream.take_in(now);
            stream.degrade(&self.counters);
        }
        let stats = models.stats();
        let (mut live, mut patient): (Vec<&mut StreamSession>, Vec<&mut StreamSession>) = (Vec::new(), Vec::new());
        for stream in &mut self.streams {
            match stream.shared.source() {
                Source::Packets => live.push(&mut stream.session),
                Source::Pcm { .. } => patient.push(&mut stream.session),
            }
        }
        let mut behind = models.advance(&mut live, ROUNDS);
        self.busy += now.elapsed();
        behind |= models.advance(&mut patient, ROUNDS);
        self.counters.add_models(stats, models.stats());
        if models.stats().failures > stats.failures {
            tracing::error!(reason = models.last_failure(), "a speech model could not be run");
        }
        for stream in &mut self.streams {
            stream.hand_out(&self.counters);
            if stream.inputs.is_empty() && stream.session.is_idle() && stream.shared.is_finishing() {
                stream.shared.close();
            }
        }
        self.report();
        self.tell_load(now);
        let pending = self.streams.iter().any(|stream| !stream.inputs.is_empty());
        let ending = self.streams.iter().any(|stream| stream.shared.is_closed());
        if behind || pending || ending {
            Busy::Behind
        } else if any_input || self.streams.iter().any(Stream::is_live_and_busy) {
            Busy::Working
        } else {
            Busy::Quiet
        }
    }

    /// Once a second: how much of it live streams took.
    fn tell_load(&mut self, now: Instant) {
        let window = now.saturating_duration_since(self.load_told);
        if window >= LOAD_WINDOW {
            let permille = self.busy.as_micros() * 1_000 / window.as_micros().max(1);
            self.shared.load.store(u64::try_from(permille).unwrap_or(u64::MAX), Ordering::Relaxed);
            (self.busy, self.load_told) = (Duration::ZERO, now);
        }
    }

    /// Brings the shared gauges up to date by this thread's change.
    fn report(&mut self) {
        let now = Gauges {
            speaking: self.streams.iter().filter(|stream| stream.session.is_speaking()).count() as u64,
            backlog_ms: self.streams.iter().map(|stream| stream.session.backlog().as_ms()).sum(),
        };
        let change = |counter: &std::sync::atomic::AtomicU64, before: u64, after: u64| {
            counter.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        };
        change(&self.counters.speaking, self.reported.speaking, now.speaking);
        change(&self.counters.backlog_ms, self.reported.backlog_ms, now.backlog_ms);
        self.reported = now;
    }
}

fn load(runtime: &dyn Runtime, packs: &Packs, silero: Option<&ModelFile>) -> Result<SpeechModels, RuntimeError> {
    let models = SpeechModels::load(runtime, &*packs.usual, silero)?;
    match &packs.smaller {
        Some(pack) => models.with_smaller(runtime, &**pack),
        None => Ok(models),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    /// Nothing came and nobody speaks.
    Quiet,
    /// All that was due is done.
    Working,
    /// There is more to do.
    Behind,
}

impl Stream {
    /// Whether time alone may bring it work: packets may be missing, or silence be due.
    fn is_live_and_busy(&self) -> bool {
        self.receiver.is_some() && !self.session.is_idle()
    }

    /// Moves what waits in the queue into the session. Whether anything came.
    fn take_in(&mut self, now: Instant) -> bool {
        if self.inputs.is_empty() {
            self.inputs = self.shared.take();
        }
        let any = !self.inputs.is_empty();
        // Samples are taken in only as the session gets through them, so that the queue's limit holds the source back.
        // What follows a flush waits until the flush is done, so that turns do not run into each other.
        while self.receiver.is_some() || (self.session.backlog() < KEEP_AUDIO && !self.session.is_flushing()) {
            let Some(input) = self.inputs.pop_front() else { break };
            match input {
                Input::Packet(packet) => {
                    if let Some(receiver) = &mut self.receiver {
                        receiver.push(packet);
                    }
                }
                Input::Pcm(samples) => {
                    let mut converted = Vec::with_capacity(samples.len());
                    if let Some(resampler) = &mut self.resampler
                        && let Err(error) = resampler.process(&samples, &mut converted)
                    {
                        tracing::error!(%error, "samples could not be resampled");
                    }
                    self.session.push_audio(&converted);
                }
                // In the order of the audio: what came before it is processed first.
                Input::Update(update) => {
                    if self.session.backlog().0 > 0 {
                        self.inputs.push_front(Input::Update(update));
                        break;
                    }
                    self.session.update(*update);
                }
                Input::Flush => {
                    let mut tail = Vec::new();
                    if let Some(resampler) = &mut self.resampler
                        && let Err(error) = resampler.finish(&mut tail)
                    {
                        tracing::error!(%error, "samples could not be resampled");
                    }
                    self.session.push_audio(&tail);
                    self.session.flush();
                    break;
                }
            }
        }
        if let Some(receiver) = &mut self.receiver {
            let mut quiet = !self.session.is_speaking();
            while let Some(audio) = receiver.poll(now, quiet) {
                match audio {
                    Audio::Pcm(samples) => {
                        self.session.push_audio(samples);
                        quiet = false;
                    }
                    Audio::Silence(length) => self.session.push_silence(length),
                }
            }
        }
        any
    }

    fn degrade(&mut self, counters: &Counters) {
        if self.receiver.is_none() {
            return;
        }
        let late = self.session.backlog();
        if late > DROP_AUDIO {
            let dropped = self.session.drop_backlog(KEEP_AUDIO);
            counters.audio_dropped_ms.fetch_add(dropped.as_ms(), Ordering::Relaxed);
            counters.audio_drops.fetch_add(1, Ordering::Relaxed);
        }
        if late > SUSPEND_INTERIM && !self.suspended {
            self.suspended = true;
            counters.interim_suspended.fetch_add(1, Ordering::Relaxed);
        } else if late < RESUME_INTERIM {
            self.suspended = false;
        }
        self.session.suspend_interim(self.suspended);
        if late > SMALLER_MODEL && !self.smaller {
            self.smaller = true;
            counters.smaller_model.fetch_add(1, Ordering::Relaxed);
        } else if late < RESUME_INTERIM {
            self.smaller = false;
        }
        self.session.prefer_smaller(self.smaller);
    }

    fn hand_out(&mut self, counters: &Counters) {
        while let Some(event) = self.session.poll_event() {
            if matches!(event, SpeechEvent::Final { .. }) {
                counters.finals.fetch_add(1, Ordering::Relaxed);
            }
            (self.sink)(event);
        }
        if let Some(receiver) = &self.receiver {
            let stats = receiver.stats();
            counters.add_receiver(self.receiver_stats, stats);
            self.receiver_stats = stats;
        }
    }
}
