//! The stream session on real (synthesised) speech: what is reported, in which order, and what bad audio does.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::path::Path;
use std::sync::Arc;

use auralink_ai::audio::Samples;
use auralink_ai::audio::file::FileDecoder;
use auralink_ai::pack::{Pack, PackSource, onnxruntime_candidates, open_silero};
use auralink_ai::recogniser::{Abilities, Recogniser, SpeechPack, Utterance, UtteranceOptions};
use auralink_ai::runtime::{Runtime, RuntimeChoice, RuntimeError, open};
use auralink_ai::session::models::SpeechModels;
use auralink_ai::session::{DegradeRule, SessionConfig, SessionUpdate, SpeechEvent, StreamSession};

/// Where speech begins and ends in `golden.wav`, samples, to within a window of the detector or two.
const TOLERANCE: u64 = 4_000;

struct Rig {
    pack: Arc<Pack>,
    models: SpeechModels,
}

impl Rig {
    fn new(silero: bool) -> Self {
        let pack = Arc::new(Pack::open(&PackSource::BuiltIn).expect("the default pack opens"));
        let onnx = open_silero(None).expect("a Silero file that is there can be read").0.filter(|_| silero);
        assert_eq!(onnx.is_some(), silero, "`make setup` installs Silero VAD");
        let (runtime, _) = open(&RuntimeChoice::Auto, &onnxruntime_candidates(None)).expect("there is always an engine");
        let models = SpeechModels::load(&*runtime, &*pack, onnx.as_ref()).expect("the networks load");
        Self { pack, models }
    }

    fn session(&self, config: SessionConfig) -> StreamSession {
        StreamSession::new(config, self.pack.clone(), self.models.detector())
    }

    /// Feeds audio in pieces and collects every event.
    fn run(&mut self, session: &mut StreamSession, audio: &[f32], step: usize) -> Vec<SpeechEvent> {
        let mut events = Vec::new();
        for piece in audio.chunks(step) {
            session.push_audio(piece);
            events.extend(self.settle(session));
        }
        events
    }

    fn settle(&mut self, session: &mut StreamSession) -> Vec<SpeechEvent> {
        while self.models.advance(&mut [session], 1) {}
        std::iter::from_fn(|| session.poll_event()).collect()
    }
}

fn speech() -> Vec<f32> {
    let path = Path::new("packs/en-demo/golden.wav");
    let file = std::fs::File::open(path).expect("the golden utterance is committed");
    let mut decoder = FileDecoder::open(file, "golden.wav", 16_000).expect("it is a WAV file");
    let mut samples = Vec::new();
    while decoder.read(&mut samples).expect("it is whole") {}
    samples
}

/// Two seconds of quiet noise, the speech, three seconds of quiet noise.
fn scene() -> (Vec<f32>, u64, u64) {
    let speech = speech();
    let mut random = 1_u32;
    let mut noise = |length: usize| -> Vec<f32> {
        (0..length)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((random >> 8) as f32 / 8_388_608.0 - 1.0) * 0.0005
            })
            .collect()
    };
    let (before, after) = (noise(32_000), noise(48_000));
    let (start, end) = (before.len() as u64, (before.len() + speech.len()) as u64);
    ([before, speech, after].concat(), start, end)
}

fn text_of(events: &[SpeechEvent]) -> String {
    let finals = events.iter().filter_map(|event| match event {
        SpeechEvent::Final { text, .. } => Some(text.as_str()),
        _ => None,
    });
    finals.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_utterance_is_reported_from_its_onset_to_its_end() {
    for silero in [true, false] {
        let mut rig = Rig::new(silero);
        let (audio, start, end) = scene();
        let mut session = rig.session(SessionConfig::default());
        let events = rig.run(&mut session, &audio, 320);
        let Some(SpeechEvent::SpeechStarted { at }) = events.first() else { panic!("silero {silero}: {:?}", events.first()) };
        assert!(at.0.abs_diff(start) < TOLERANCE, "silero {silero}: begins at {} of {start}", at.0);
        let Some(SpeechEvent::TurnEnded { at }) = events.last() else { panic!("silero {silero}: {:?}", events.last()) };
        assert!(at.0.abs_diff(end) < 2 * TOLERANCE, "silero {silero}: ends at {} of {end}", at.0);
        assert!(!session.is_speaking());
        assert!(session.clock().0 + 512 > audio.len() as u64);
    }
}

#[test]
fn committed_text_never_changes() {
    let mut rig = Rig::new(true);
    let (audio, ..) = scene();
    let mut session = rig.session(SessionConfig::default());
    let mut committed = String::new();
    let (mut interims, mut finals) = (0, 0);
    for event in rig.run(&mut session, &audio, 320) {
        match event {
            SpeechEvent::Interim { text, committed_chars, words, .. } => {
                interims += 1;
                let now: String = text.chars().take(committed_chars).collect();
                assert!(now.starts_with(&committed), "`{committed}` became `{now}`");
                committed = now;
                assert_eq!(words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" "), text);
            }
            SpeechEvent::Final { text, words, start, end, .. } => {
                finals += 1;
                assert!(text.starts_with(&committed), "`{committed}` became `{text}`");
                assert!(start <= end);
                assert!(words.windows(2).all(|pair| pair[0].start <= pair[1].start), "words are in order");
                assert!(words.iter().all(|word| word.start <= word.end && (0.0..=1.0).contains(&word.confidence)));
                committed.clear();
            }
            _ => {}
        }
    }
    assert!(interims > 0 && finals > 0, "{interims} interims, {finals} finals");
}

#[test]
fn words_stand_where_they_were_spoken_not_where_the_network_named_them() {
    let mut rig = Rig::new(true);
    let (audio, start, _) = scene();
    let sound = |sample: &f32| sample.abs() > 0.02;
    let (first, last) = (audio.iter().position(sound).unwrap() as u64, audio.iter().rposition(sound).unwrap() as u64);
    assert!(first >= start);
    let mut session = rig.session(SessionConfig::default());
    let events = rig.run(&mut session, &audio, 320);
    let words: Vec<_> =
        events.into_iter().filter_map(|e| if let SpeechEvent::Final { words, .. } = e { Some(words) } else { None }).flatten().collect();
    let (begin, end) = (words.first().unwrap().start.0, words.last().unwrap().end.0);
    assert!(begin.abs_diff(first) < TOLERANCE / 2, "the first word begins at {begin}, the sound at {first}");
    assert!(end.abs_diff(last) < TOLERANCE / 2, "the last word ends at {end}, the sound at {last}");
}

#[test]
fn the_size_of_the_pieces_changes_nothing() {
    let mut rig = Rig::new(false);
    let (audio, ..) = scene();
    let reference = {
        let mut session = rig.session(SessionConfig::default());
        rig.run(&mut session, &audio, 320)
    };
    for step in [37, 5_000, audio.len()] {
        let mut session = rig.session(SessionConfig::default());
        assert_eq!(rig.run(&mut session, &audio, step), reference, "pieces of {step} samples");
    }
}

#[test]
fn without_interim_only_committed_words_are_reported() {
    let mut rig = Rig::new(false);
    let (audio, ..) = scene();
    let mut session = rig.session(SessionConfig { interim: false, ..SessionConfig::default() });
    for event in rig.run(&mut session, &audio, 320) {
        if let SpeechEvent::Interim { text, committed_chars, .. } = event {
            assert_eq!(text.chars().count(), committed_chars);
        }
    }
}

#[test]
fn silence_runs_no_recogniser() {
    let mut rig = Rig::new(true);
    let mut session = rig.session(SessionConfig::default());
    let quiet: Vec<f32> = scene().0[..32_000].to_vec();
    assert_eq!(rig.run(&mut session, &quiet, 320), []);
    assert_eq!(rig.models.stats().recogniser_runs, 0);
    let runs = rig.models.stats().detector_runs;
    session.push_silence(3_600 * 16_000);
    assert_eq!(rig.settle(&mut session), []);
    assert!(rig.models.stats().detector_runs - runs < 20, "an hour of digital silence needs no detector either");
    assert!(session.clock() >= Samples(3_600 * 16_000));
}

#[test]
fn silence_as_a_number_closes_a_segment() {
    let mut rig = Rig::new(false);
    let mut session = rig.session(SessionConfig::default());
    let events = rig.run(&mut session, &speech(), 320);
    assert!(session.is_speaking(), "{events:?}");
    session.push_silence(16_000);
    let events = rig.settle(&mut session);
    assert!(matches!(events.last(), Some(SpeechEvent::TurnEnded { .. })), "{events:?}");
}

#[test]
fn a_flush_closes_what_is_open() {
    let mut rig = Rig::new(false);
    let mut session = rig.session(SessionConfig::default());
    let mut events = rig.run(&mut session, &speech(), 320);
    session.flush();
    events.extend(rig.settle(&mut session));
    assert!(matches!(events.last(), Some(SpeechEvent::TurnEnded { .. })), "{:?}", events.last());
    assert!(!text_of(&events).is_empty());
    session.flush();
    assert_eq!(rig.settle(&mut session), [], "nothing is open");
}

#[test]
fn endless_speech_is_cut_at_the_longest_segment() {
    let mut rig = Rig::new(false);
    let mut session = rig.session(SessionConfig { max_segment_ms: 2_000, ..SessionConfig::default() });
    let audio = [speech(), speech(), speech()].concat();
    let events = rig.run(&mut session, &audio, 320);
    let finals = events.iter().filter(|event| matches!(event, SpeechEvent::Final { .. })).count();
    assert!(finals >= 2, "{finals} segments in {} s", audio.len() / 16_000);
}

#[test]
fn audio_that_is_none_does_no_harm() {
    let mut rig = Rig::new(true);
    let loud: Vec<f32> = speech().iter().map(|sample| (sample * 1e6).clamp(-1e9, 1e9)).collect();
    for bad in [vec![f32::NAN; 16_000], vec![f32::INFINITY; 16_000], vec![-f32::MAX; 16_000], vec![1e-40; 16_000], vec![], loud] {
        let mut session = rig.session(SessionConfig::default());
        let mut events = rig.run(&mut session, &bad, 1_000);
        session.flush();
        events.extend(rig.settle(&mut session));
        assert!(!events.iter().any(|event| matches!(event, SpeechEvent::Degraded { .. })), "{events:?}");
        // The session hears speech afterwards.
        let mut events = rig.run(&mut session, &speech(), 320);
        session.flush();
        events.extend(rig.settle(&mut session));
        assert!(!text_of(&events).is_empty());
    }
    assert_eq!(rig.models.stats().failures, 0);
}

#[test]
fn degradation_is_told_and_undone() {
    let mut rig = Rig::new(false);
    let mut session = rig.session(SessionConfig::default());
    session.suspend_interim(true);
    session.suspend_interim(true);
    session.suspend_interim(false);
    let events = rig.settle(&mut session);
    assert_eq!(events, [SpeechEvent::Degraded { rule: DegradeRule::InterimSuspended }, SpeechEvent::Recovered]);
    session.push_audio(&vec![0.1; 80_000]);
    assert_eq!(session.drop_backlog(Samples(8_000)), Samples(72_000));
    assert_eq!(session.backlog(), Samples(8_000));
    let events: Vec<_> = std::iter::from_fn(|| session.poll_event()).collect();
    assert_eq!(events, [SpeechEvent::Degraded { rule: DegradeRule::AudioDropped { length: Samples(72_000) } }]);
}

/// Quiet noise, too soft for any detector.
fn quiet(ms: usize) -> Vec<f32> {
    (0..ms * 16).map(|n| if n % 7 == 0 { 0.0004 } else { -0.0002 }).collect()
}

#[test]
fn a_turn_that_may_end_is_told_early_and_taken_back_or_ended() {
    let mut rig = Rig::new(true);
    let mut session = rig.session(SessionConfig { eager_silence_ms: 250, endpoint_silence_ms: 1_200, ..SessionConfig::default() });
    let audio = [speech(), quiet(700), speech(), quiet(2_000)].concat();
    let events = rig.run(&mut session, &audio, 320);
    let order: Vec<char> = events
        .iter()
        .filter_map(|event| match event {
            SpeechEvent::SpeechStarted { .. } => Some('s'),
            SpeechEvent::TurnMayEnd { text, .. } => {
                assert!(!text.is_empty());
                Some('m')
            }
            SpeechEvent::TurnResumed { .. } => Some('r'),
            SpeechEvent::Final { .. } => Some('f'),
            SpeechEvent::TurnEnded { .. } => Some('e'),
            _ => None,
        })
        .collect();
    // The golden utterance may itself hold a pause that is long enough.
    let told: String = order.iter().collect();
    assert!(told.starts_with('s') && told.ends_with("mfe"), "{told}");
    let middle = told.trim_start_matches('s').trim_end_matches("mfe");
    assert!(!middle.is_empty() && middle.len().is_multiple_of(2) && middle.as_bytes().chunks(2).all(|pair| pair == b"mr"), "{told}");
    // And never without being asked for.
    let mut session = rig.session(SessionConfig { endpoint_silence_ms: 1_200, ..SessionConfig::default() });
    let events = rig.run(&mut session, &audio, 320);
    assert!(!events.iter().any(|event| matches!(event, SpeechEvent::TurnMayEnd { .. } | SpeechEvent::TurnResumed { .. })));
}

#[test]
fn what_a_stream_wants_can_be_changed_in_its_middle() {
    let mut rig = Rig::new(true);
    let mut session = rig.session(SessionConfig { endpoint_silence_ms: 5_000, ..SessionConfig::default() });
    let mut events = rig.run(&mut session, &[speech(), quiet(700)].concat(), 320);
    assert!(!events.iter().any(|event| matches!(event, SpeechEvent::Final { .. })), "the silence is too short");
    session.update(SessionUpdate { endpoint_silence_ms: Some(300), interim: Some(false), ..SessionUpdate::default() });
    events = rig.run(&mut session, &quiet(100), 320);
    assert!(matches!(events.last(), Some(SpeechEvent::TurnEnded { .. })), "{events:?}");
    // Another language cuts what is being said: one segment before, one after, and one turn.
    let speech = speech();
    let half = speech.len() / 2;
    events = rig.run(&mut session, &speech[..half], 320);
    session.update(SessionUpdate { language: Some("en-GB".into()), ..SessionUpdate::default() });
    events.extend(rig.run(&mut session, &[&speech[half..], &quiet(1_000)].concat(), 320));
    let finals: Vec<&str> = events
        .iter()
        .filter_map(|event| if let SpeechEvent::Final { language, .. } = event { Some(language.as_str()) } else { None })
        .collect();
    assert_eq!(finals, ["en", "en-GB"]);
    assert_eq!(events.iter().filter(|event| matches!(event, SpeechEvent::TurnEnded { .. })).count(), 1);
    assert_eq!(session.config().endpoint_silence_ms, 300, "what was not named stays");
}

#[test]
fn a_configuration_is_brought_into_its_range() {
    let word = |text: &str, boost: f32| auralink_ai::recogniser::Hotword { text: text.to_owned(), boost };
    let config = SessionConfig {
        endpoint_silence_ms: 1,
        eager_silence_ms: 9_000,
        hotwords: [word("  ", 1.0), word(&"x".repeat(200), 1.0), word("fine", f32::NAN), word("loud", 1e9)]
            .into_iter()
            .chain((0..1_000).map(|n| word(&n.to_string(), 1.0)))
            .collect(),
        ..SessionConfig::default()
    }
    .clamped();
    assert_eq!((config.endpoint_silence_ms, config.eager_silence_ms), (200, 200));
    assert_eq!(config.hotwords.len(), auralink_ai::session::MAX_HOTWORDS);
    assert_eq!(config.hotwords[..2], [word("fine", 0.0), word("loud", 10.0)]);
}

/// The default pack under another name, which counts its utterances.
struct Smaller(Arc<Pack>, std::sync::atomic::AtomicUsize);

impl SpeechPack for Smaller {
    fn name(&self) -> &str {
        "smaller"
    }
    fn languages(&self) -> &[String] {
        self.0.languages()
    }
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }
    fn begin(self: Arc<Self>, options: &UtteranceOptions) -> Box<dyn Utterance> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.clone().begin(options)
    }
    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Recogniser>, RuntimeError> {
        self.0.load(runtime)
    }
}

#[test]
fn a_late_stream_goes_on_with_the_smaller_model_and_comes_back() {
    let mut rig = Rig::new(false);
    let smaller = Arc::new(Smaller(rig.pack.clone(), 0.into()));
    let (runtime, _) = open(&RuntimeChoice::Auto, &onnxruntime_candidates(None)).expect("there is always an engine");
    rig.models =
        SpeechModels::load(&*runtime, &*rig.pack, None).and_then(|models| models.with_smaller(&*runtime, &*smaller)).expect("both load");
    let mut session = rig.session(SessionConfig::default()).with_smaller(Some(smaller.clone()));
    let begun = || smaller.1.load(std::sync::atomic::Ordering::Relaxed);
    let turn = [speech(), quiet(1_000)].concat();
    assert!(!text_of(&rig.run(&mut session, &turn, 320)).is_empty());
    assert_eq!(begun(), 0);
    session.suspend_interim(true);
    session.prefer_smaller(true);
    session.prefer_smaller(true);
    let events = rig.run(&mut session, &turn, 320);
    assert_eq!(events[..2], [DegradeRule::InterimSuspended, DegradeRule::SmallerModel].map(|rule| SpeechEvent::Degraded { rule }));
    assert!(begun() > 0 && !text_of(&events).is_empty(), "{events:?}");
    session.suspend_interim(false);
    assert_eq!(rig.settle(&mut session), [], "not all is well yet");
    session.prefer_smaller(false);
    assert_eq!(rig.settle(&mut session), [SpeechEvent::Recovered]);
    let before = begun();
    assert!(!text_of(&rig.run(&mut session, &turn, 320)).is_empty());
    assert_eq!(begun(), before);
    // Without a smaller model there is nothing to prefer.
    let mut alone = rig.session(SessionConfig::default());
    alone.prefer_smaller(true);
    assert_eq!(rig.settle(&mut alone), []);
}
