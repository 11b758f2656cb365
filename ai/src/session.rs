//! A stream session: the state machine from 16 kHz mono samples to speech events.
//!
//! Place: one per stream; captions, gRPC and files use the same one. The scheduler feeds it, gathers the work that it
//! offers ([`StreamSession::next_work`]) over all streams of a thread, runs the networks once for all ([`models`]) and gives
//! each its part of the result. Rules: it never sleeps, blocks or looks at a clock: its time is the sample count; its buffers are
//! bounded; in silence it asks for no recogniser run.

mod backlog;
mod config;
mod endpoint;
pub mod event;
pub mod models;
mod segment;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::audio::Samples;
use crate::audio::enhance::{Enhancement, Enhancer};
use crate::recogniser::{SpeechPack, Utterance};
use crate::vad::activity::{Activity, Change};
use crate::vad::{Detector, DetectorState};
use backlog::Backlog;
pub use config::{MAX_HOTWORD_CHARS, MAX_HOTWORDS, SessionConfig, SessionUpdate};
pub use event::{DegradeRule, SegmentId, SpeechEvent, Word};
use segment::{Closing, Segment};

/// Audio before the detected onset that is recognised too: the detector is late for soft consonants.
const PREROLL: Samples = Samples::from_ms(320);
/// Silence after which the detector is no longer run on digital silence.
const DETECTOR_TAIL: Samples = Samples::from_ms(200);

/// Silence inside speech at which a long segment is cut.
const BREATH: Samples = Samples::from_ms(90);

/// Characters of what was said that the next utterance is begun with.
const CONTEXT_CHARS: usize = 400;

/// What a session needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The detector on [`StreamSession::window`].
    Detect,
    /// The recogniser on the segment's next chunk.
    Recognise,
}

/// One stream of speech.
pub struct StreamSession {
    config: SessionConfig,
    pack: Arc<dyn SpeechPack>,
    /// For when the machine does not keep up.
    smaller: Option<Arc<dyn SpeechPack>>,
    enhancer: Option<Enhancer>,
    enhanced: Vec<f32>,
    backlog: Backlog,
    clock: Samples,
    window: Vec<f32>,
    window_ready: bool,
    detector: DetectorState,
    activity: Activity,
    /// Silence that the detector has seen since the last sound.
    quiet: Samples,
    preroll: VecDeque<f32>,
    segment: Option<Segment>,
    segments: u64,
    /// The end of what was said before, for packs that take a context.
    said: String,
    /// [`SpeechEvent::TurnMayEnd`] was told, and nothing since.
    may_end: bool,
    flushing: bool,
    interim_suspended: bool,
    prefers_smaller: bool,
    events: VecDeque<SpeechEvent>,
}

impl StreamSession {
    /// A session at sample zero, for the models that `pack` describes and the windows of `detector`.
    pub fn new(config: SessionConfig, pack: Arc<dyn SpeechPack>, detector: &Detector) -> Self {
        let config = config.clamped();
        Self {
            enhancer: enhancer(config.enhancement),
            enhanced: Vec::new(),
            config,
            pack,
            smaller: None,
            backlog: Backlog::default(),
            clock: Samples(0),
            window: Vec::with_capacity(detector.window()),
            window_ready: false,
            detector: detector.new_state(),
            activity: Activity::default(),
            quiet: DETECTOR_TAIL,
            preroll: VecDeque::new(),
            segment: None,
            segments: 0,
            said: String::new(),
            may_end: false,
            flushing: false,
            interim_suspended: false,
            prefers_smaller: false,
            events: VecDeque::new(),
        }
    }

    /// The session with a smaller model at hand, which the same [`models::SpeechModels`] have.
    #[must_use]
    pub fn with_smaller(mut self, pack: Option<Arc<dyn SpeechPack>>) -> Self {
        self.smaller = pack;
        self
    }

    /// Takes audio in: 16 kHz mono in [-1, 1]; anything else is clamped, and what is no number becomes silence.
    pub fn push_audio(&mut self, samples: &[f32]) {
        let Some(enhancer) = &mut self.enhancer else { return self.backlog.push_pcm(samples) };
        self.enhanced.clear();
        match enhancer.process(samples, &mut self.enhanced) {
            Ok(()) => self.backlog.push_pcm(&self.enhanced),
            // Unheard of; better heard with its noise than not at all.
            Err(_) => self.backlog.push_pcm(samples),
        }
    }

    /// What the enhancer still holds joins the backlog.
    fn settle_enhancer(&mut self) {
        let Some(enhancer) = &mut self.enhancer else { return };
        self.enhanced.clear();
        if enhancer.finish(&mut self.enhanced).is_ok() {
            self.backlog.push_pcm(&self.enhanced);
        }
    }

    /// Takes `length` samples of digital silence in; while nobody speaks this costs nothing.
    pub fn push_silence(&mut self, length: u64) {
        self.settle_enhancer();
        self.backlog.push_silence(length);
    }

    /// Changes what the stream wants from here on, in the order of its audio only if what was pushed before is processed already.
    pub fn update(&mut self, update: SessionUpdate) {
        let (config, cut) = update.apply(&self.config);
        if cut {
            // The talk goes on in other words: what was said is no context for it.
            self.said.clear();
            if let Some(segment) = self.segment.as_mut().filter(|segment| segment.closing().is_none()) {
                segment.close(self.clock, Closing::Cut);
            }
        }
        if config.enhancement != self.config.enhancement {
            self.settle_enhancer();
            self.enhancer = enhancer(config.enhancement);
        }
        self.config = config;
    }

    /// What the stream wants now.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The end of the audio: what is open is recognised to its end and closed. More audio may follow.
    pub fn flush(&mut self) {
        self.settle_enhancer();
        self.flushing = true;
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<SpeechEvent> {
        self.events.pop_front()
    }

    /// Samples processed so far.
    pub fn clock(&self) -> Samples {
        self.clock
    }

    /// Sound that waits to be processed; digital silence does not count.
    pub fn backlog(&self) -> Samples {
        Samples(self.backlog.sound())
    }

    /// Whether nobody speaks and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.segment.is_none() && !self.activity.is_rising() && !self.flushing && self.backlog.len() == 0
    }

    /// Whether a flush waits for the audio before it.
    pub fn is_flushing(&self) -> bool {
        self.flushing
    }

    /// Whether a segment is open.
    pub fn is_speaking(&self) -> bool {
        self.segment.is_some()
    }

    /// Rule one of degradation: text that may still change is not reported until this is undone.
    pub fn suspend_interim(&mut self, suspended: bool) {
        if suspended != self.interim_suspended {
            self.interim_suspended = suspended;
            if let Some(utterance) = self.utterance() {
                utterance.spare(suspended);
            }
            self.tell_degradation(suspended, DegradeRule::InterimSuspended);
        }
    }

    /// Rule two of degradation: segments that begin from now on go to the smaller model, if there is one that knows the language.
    pub fn prefer_smaller(&mut self, preferred: bool) {
        let possible = self.smaller.as_ref().is_some_and(|pack| pack.speaks(&self.config.language));
        let preferred = preferred && possible;
        if preferred != self.prefers_smaller {
            self.prefers_smaller = preferred;
            self.tell_degradation(preferred, DegradeRule::SmallerModel);
        }
    }

    /// A rule begins, or ends: once none is left all is well.
    fn tell_degradation(&mut self, begins: bool, rule: DegradeRule) {
        if begins {
            self.events.push_back(SpeechEvent::Degraded { rule });
        } else if !self.interim_suspended && !self.prefers_smaller {
            self.events.push_back(SpeechEvent::Recovered);
        }
    }

    /// Whether the open segment is the smaller model's.
    pub(crate) fn is_smaller(&self) -> bool {
        self.segment.as_ref().is_some_and(Segment::is_smaller)
    }

    /// The last rule of degradation: all audio but the newest `keep` is skipped. Returns how much was.
    pub fn drop_backlog(&mut self, keep: Samples) -> Samples {
        let dropped = Samples(self.backlog.drop_oldest(keep.0));
        if dropped.0 > 0 {
            self.close_segment();
            self.clock = self.clock + dropped;
            self.detector.reset();
            self.preroll.clear();
            self.window.clear();
            self.window_ready = false;
            self.events.push_back(SpeechEvent::Degraded { rule: DegradeRule::AudioDropped { length: dropped } });
        }
        dropped
    }

    /// The models cannot be run: the open segment ends as it stands.
    pub(crate) fn fail(&mut self) {
        self.window_ready = false;
        self.window.clear();
        self.close_segment();
        self.events.push_back(SpeechEvent::Degraded { rule: DegradeRule::ModelFailed });
    }

    /// What is to be run next, or `None` when more audio is needed.
    pub(crate) fn next_work(&mut self) -> Option<Work> {
        loop {
            if self.segment.as_ref().is_some_and(Segment::is_due) {
                return Some(Work::Recognise);
            }
            if self.segment.as_ref().is_some_and(|segment| segment.closing().is_some()) {
                self.close_segment();
                continue;
            }
            if self.window_ready {
                return Some(Work::Detect);
            }
            if self.skip_silence() {
                continue;
            }
            let capacity = self.window.capacity();
            self.backlog.take(&mut self.window, capacity);
            self.window_ready = self.window.len() == capacity;
            if !self.window_ready {
                if self.flushing {
                    return self.finish_flush();
                }
                return self.segment.as_ref().is_some_and(Segment::is_due_when_caught_up).then_some(Work::Recognise);
            }
        }
    }

    /// Silence while nobody speaks only moves the clock.
    fn skip_silence(&mut self) -> bool {
        if self.segment.is_some() || self.activity.is_rising() || self.quiet < DETECTOR_TAIL {
            return false;
        }
        let Some(length) = self.backlog.take_silence() else { return false };
        self.clock = self.clock + Samples(length + self.window.len() as u64);
        self.window.clear();
        self.preroll.clear();
        self.detector.reset();
        true
    }

    /// No whole window is left: a flush closes what is open.
    fn finish_flush(&mut self) -> Option<Work> {
        self.flushing = false;
        self.activity.settle();
        self.clock = self.clock + Samples(self.window.len() as u64);
        let rest = std::mem::take(&mut self.window);
        self.window = Vec::with_capacity(rest.capacity());
        if let Some(segment) = &mut self.segment {
            segment.push_audio(&rest);
            segment.close(self.clock, Closing::Silence);
            return self.next_work();
        }
        None
    }

    /// The window to be judged and its detector's state.
    pub(crate) fn detection(&mut self) -> (&[f32], &mut DetectorState) {
        (&self.window, &mut self.detector)
    }

    /// Takes the probability of speech of the window.
    pub(crate) fn handle_detection(&mut self, probability: f32) {
        let length = self.window.len() as u64;
        self.clock = self.clock + Samples(length);
        self.window_ready = false;
        let change = self.activity.push(probability, length, self.clock);
        let silent = self.window.iter().all(|&sample| sample == 0.0);
        self.quiet = if silent { self.quiet + Samples(length) } else { Samples(0) };
        if let Change::Started(at) = change {
            self.open_segment(at);
        }
        match &mut self.segment {
            Some(segment) => {
                segment.push_audio(&self.window);
                let voiced = self.activity.last_voiced();
                let silence = self.clock.saturating_sub(voiced);
                self.may_end = turn(segment, &self.config, &mut self.events, self.may_end, voiced, silence);
                if silence >= silence_that_ends(segment, &self.config, silence) {
                    segment.close(voiced, Closing::Silence);
                } else if self.clock.saturating_sub(segment.start()) >= longest(self.config.max_segment_ms, silence) {
                    segment.close(self.clock, Closing::Cut);
                }
            }
            None => {
                self.preroll.extend(&self.window);
                // The windows that may be the onset come on top of the preroll proper.
                let keep = (PREROLL.0 + 4 * length) as usize;
                let excess = self.preroll.len().saturating_sub(keep);
                self.preroll.drain(..excess);
            }
        }
        self.window.clear();
    }

    fn open_segment(&mut self, at: Samples) {
        self.segments += 1;
        let available = Samples(self.preroll.len() as u64);
        // The window in hand is not in the preroll: the segment's audio begins so much before its own begin.
        let begin = self.clock.saturating_sub(Samples(self.window.len() as u64)).saturating_sub(available);
        let options = self.config.utterance(&self.said);
        let (pack, smaller) = match &self.smaller {
            Some(pack) if self.prefers_smaller => (pack, true),
            _ => (&self.pack, false),
        };
        let mut segment = Segment::new(SegmentId(self.segments), begin, at, pack, smaller, &options);
        segment.utterance().spare(self.interim_suspended);
        segment.push_audio(self.preroll.make_contiguous());
        self.preroll.clear();
        self.segment = Some(segment);
        self.events.push_back(SpeechEvent::SpeechStarted { at });
    }

    /// The utterance that the recogniser is to be run on.
    pub(crate) fn utterance(&mut self) -> Option<&mut dyn Utterance> {
        self.segment.as_mut().map(Segment::utterance)
    }

    /// Reports what a run of the recogniser brought.
    pub(crate) fn handle_recognition(&mut self) {
        if let Some(segment) = &mut self.segment
            && let Some(event) = segment.progress(self.config.interim && !self.interim_suspended)
        {
            self.events.push_back(event);
        }
    }

    fn close_segment(&mut self) {
        let Some(segment) = self.segment.take() else { return };
        let closing = segment.closing();
        let end = self.activity.last_voiced();
        if let Some(event) = segment.finish(end) {
            if let SpeechEvent::Final { text, .. } = &event {
                self.remember(text.clone());
            }
            self.events.push_back(event);
        }
        self.activity.close();
        self.may_end = false;
        // Cut: the speaker goes on, and so does a new segment.
        if closing == Some(Closing::Silence) {
            self.events.push_back(SpeechEvent::TurnEnded { at: end });
        }
    }

    /// Keeps the end of what was said.
    fn remember(&mut self, text: String) {
        if !self.said.is_empty() {
            self.said.push(' ');
        }
        self.said.push_str(&text);
        let excess = self.said.chars().count().saturating_sub(CONTEXT_CHARS);
        if excess > 0 {
            self.said = self.said.chars().skip(excess).collect();
        }
    }
}

fn enhancer(wanted: Enhancement) -> Option<Enhancer> {
    // Its rates are constants that can be resampled.
    (wanted != Enhancement::default()).then(|| Enhancer::new(wanted).ok()).flatten()
}

/// Tells that the turn may end, or goes on; whether the first was told and nothing since.
fn turn(
    segment: &mut Segment,
    config: &SessionConfig,
    events: &mut VecDeque<SpeechEvent>,
    told: bool,
    voiced: Samples,
    silence: Samples,
) -> bool {
    let eager = Samples::from_ms(u64::from(config.eager_silence_ms));
    if told && silence.0 == 0 {
        events.push_back(SpeechEvent::TurnResumed { at: voiced });
        return false;
    }
    if !told && eager.0 > 0 && silence >= eager {
        let text = event::join(&segment.words_so_far());
        events.push_back(SpeechEvent::TurnMayEnd { at: voiced, text });
        return true;
    }
    told
}

/// The silence after which this segment is closed. The words are only looked at where they may decide.
fn silence_that_ends(segment: &mut Segment, config: &SessionConfig, silence: Samples) -> Samples {
    let configured = Samples::from_ms(u64::from(config.endpoint_silence_ms));
    if !config.endpoint_by_text || silence.0 == 0 {
        return configured;
    }
    endpoint::silence(configured, &segment.words_so_far(), segment.language())
}

/// How long a segment may be: less when there is a breath to cut at, so that words stay whole.
fn longest(max_segment_ms: u32, silence: Samples) -> Samples {
    let longest = Samples::from_ms(u64::from(max_segment_ms));
    if silence >= BREATH { Samples(longest.0 * 3 / 4) } else { longest }
}
