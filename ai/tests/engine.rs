//! The engine: real packets and samples in, events out on its threads; limits, silence, and the end.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use auralink_ai::audio::TapPacket;
use auralink_ai::audio::file::FileDecoder;
use auralink_ai::audio::opus::OpusEncoder;
use auralink_ai::runtime::RuntimeChoice;
use auralink_ai::scheduler::{Engine, EngineConfig, EngineError, Sink, Source, StreamHandle};
use auralink_ai::session::{SessionConfig, SpeechEvent};

/// Longer than any wait of these tests: only a hang gets there.
const HANG: Duration = Duration::from_secs(60);

fn engine(config: EngineConfig) -> Engine {
    Engine::start(config).expect("the default engine starts")
}

fn sink() -> (Sink, Receiver<SpeechEvent>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |event| drop(sender.send(event))), receiver)
}

fn speech(rate: u32) -> Vec<f32> {
    let path = Path::new("packs/en-demo/golden.wav");
    let file = std::fs::File::open(path).expect("the golden utterance is committed");
    let mut decoder = FileDecoder::open(file, "golden.wav", rate).expect("it is a WAV file");
    let mut samples = Vec::new();
    while decoder.read(&mut samples).expect("it is whole") {}
    samples
}

fn packets(levels: impl Fn(usize) -> Option<u8>) -> Vec<TapPacket> {
    let mut encoder = OpusEncoder::new(32_000).expect("libopus makes an encoder");
    let speech = speech(48_000);
    let frames = speech.chunks_exact(OpusEncoder::FRAME).enumerate();
    frames
        .map(|(index, frame)| TapPacket {
            seq: 60_000 + index as u64,
            timestamp: (index * OpusEncoder::FRAME) as u32,
            arrival: Instant::now(),
            level: levels(index),
            voice: None,
            marker: index == 0,
            epoch: 0,
            payload: Arc::from(encoder.encode(frame).expect("a whole frame is encoded")),
        })
        .collect()
}

/// Events until the turn has ended.
fn turn(events: &Receiver<SpeechEvent>) -> Vec<SpeechEvent> {
    let mut turn = Vec::new();
    loop {
        turn.push(events.recv_timeout(HANG).expect("the turn ends"));
        if matches!(turn.last(), Some(SpeechEvent::TurnEnded { .. })) {
            return turn;
        }
    }
}

fn words(events: &[SpeechEvent]) -> usize {
    let count = |event: &SpeechEvent| if let SpeechEvent::Final { words, .. } = event { words.len() } else { 0 };
    events.iter().map(count).sum()
}

/// Hands samples over as a source that can wait does.
fn push_all(stream: &StreamHandle, samples: &[f32], pace: &Receiver<()>) {
    for piece in samples.chunks(4_800) {
        while !stream.push_pcm(piece) {
            let _ = pace.recv_timeout(Duration::from_millis(5));
        }
    }
}

#[test]
fn packets_become_text_and_silence_ends_the_turn() {
    let engine = engine(EngineConfig::default());
    let (sink, events) = sink();
    let stream = engine.open(SessionConfig::default(), Source::Packets, sink).expect("there is room");
    for packet in packets(|_| None) {
        assert!(stream.push_packet(packet));
    }
    // Nothing more arrives: the stream is silent from here on.
    let events = turn(&events);
    assert!(matches!(events[0], SpeechEvent::SpeechStarted { .. } | SpeechEvent::Degraded { .. }), "{:?}", events[0]);
    assert!(words(&events) > 0, "{events:?}");
    let stats = engine.stats();
    assert!(stats.decoded > 100 && stats.recogniser_runs > 0 && stats.finals > 0, "{stats:?}");
    assert_eq!((stats.streams, stats.lost, stats.failures), (1, 0, 0));
}

#[test]
fn both_engines_hear_the_same_from_samples() {
    let (_never, pace) = mpsc::channel();
    let mut texts = Vec::new();
    for runtime in [RuntimeChoice::OnnxRuntime(None), RuntimeChoice::Rten] {
        let engine = engine(EngineConfig { runtime, ..EngineConfig::default() });
        let (sink, events) = sink();
        let stream = engine.open(SessionConfig::default(), Source::Pcm { rate: 48_000 }, sink).expect("there is room");
        push_all(&stream, &speech(48_000), &pace);
        stream.flush();
        let text = turn(&events).into_iter().find_map(|event| if let SpeechEvent::Final { text, .. } = event { Some(text) } else { None });
        texts.push(text.expect("something was said"));
    }
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn a_long_file_is_held_back_not_lost() {
    let engine = engine(EngineConfig::default());
    let (_never, pace) = mpsc::channel();
    let (sink, events) = sink();
    let stream = engine.open(SessionConfig::default(), Source::Pcm { rate: 16_000 }, sink).expect("there is room");
    let turns = 6;
    for _ in 0..turns {
        push_all(&stream, &speech(16_000), &pace);
        push_all(&stream, &[0.0; 24_000], &pace);
    }
    for _ in 0..turns {
        assert!(words(&turn(&events)) > 0);
    }
    assert_eq!(engine.stats().audio_dropped_ms, 0);
}

#[test]
fn quiet_packets_are_not_decoded() {
    let engine = engine(EngineConfig::default());
    let (sink, events) = sink();
    let stream = engine.open(SessionConfig::default(), Source::Packets, sink).expect("there is room");
    for packet in packets(|_| Some(127)) {
        stream.push_packet(packet);
    }
    let deadline = Instant::now() + HANG;
    while engine.stats().packets < 170 && Instant::now() < deadline {
        assert!(events.recv_timeout(Duration::from_millis(10)).is_err(), "what is called silent is not heard");
    }
    let stats = engine.stats();
    assert!(stats.gated > 150 && stats.decoded == 0 && stats.windows == 0, "{stats:?}");
}

#[test]
fn one_stream_too_many_is_refused_and_there_is_room_again_afterwards() {
    let engine = engine(EngineConfig { max_streams: 2, ..EngineConfig::default() });
    let open = || engine.open(SessionConfig::default(), Source::Packets, sink().0);
    let (first, _second) = (open().expect("there is room"), open().expect("there is room"));
    let error = open().err().expect("the limit is 2");
    assert!(matches!(error, EngineError::TooManyStreams { limit: 2 }));
    assert!(error.to_string().contains("ai.max_streams"), "{error}");
    assert_eq!(engine.stats().refused_streams, 1);
    drop(first);
    let deadline = Instant::now() + HANG;
    let (_never, pause) = mpsc::channel::<()>();
    while engine.stats().streams == 2 && Instant::now() < deadline {
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
    open().expect("there is room again");
}

#[test]
fn impossible_streams_are_refused() {
    let engine = engine(EngineConfig::default());
    let german = SessionConfig { language: "de-DE".to_owned(), ..SessionConfig::default() };
    let message = engine.open(german, Source::Packets, sink().0).err().expect("the pack is English").to_string();
    assert!(message.contains("de-DE") && message.contains("`en`"), "{message}");
    for rate in [0, 7_999, 48_001, u32::MAX] {
        let error = engine.open(SessionConfig::default(), Source::Pcm { rate }, sink().0).err().expect("no such rate");
        assert!(error.to_string().contains(&rate.to_string()), "{error}");
    }
    assert_eq!(engine.stats().streams, 0, "a refused stream takes no place");
}

#[test]
fn a_stream_takes_only_what_it_was_opened_for() {
    let engine = engine(EngineConfig::default());
    let samples = engine.open(SessionConfig::default(), Source::Pcm { rate: 16_000 }, sink().0).expect("there is room");
    let packets_stream = engine.open(SessionConfig::default(), Source::Packets, sink().0).expect("there is room");
    assert!(!samples.push_packet(packets(|_| None).remove(0)));
    assert!(!packets_stream.push_pcm(&[0.0; 160]));
    assert_eq!(engine.stats().refused_inputs, 2);
}

#[test]
fn hostile_packets_do_not_stop_the_others() {
    let engine = engine(EngineConfig::default());
    let (sink_bad, _events_bad) = sink();
    let (sink_good, events) = sink();
    let bad = engine.open(SessionConfig::default(), Source::Packets, sink_bad).expect("there is room");
    let good = engine.open(SessionConfig::default(), Source::Packets, sink_good).expect("there is room");
    let mut random = 7_u64;
    for packet in packets(|_| None) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let payload: Vec<u8> = random.to_be_bytes().into_iter().cycle().take((random >> 56) as usize).collect();
        bad.push_packet(TapPacket { seq: random >> 40, timestamp: random as u32, payload: payload.into(), ..packet.clone() });
        assert!(good.push_packet(packet));
    }
    assert!(words(&turn(&events)) > 0);
    assert!(engine.stats().malformed > 0);
}

#[test]
fn a_sink_that_panics_takes_its_threads_streams_and_nothing_else() {
    let engine = engine(EngineConfig::default());
    let panics: Sink = Box::new(|_| panic!("a sink's bug"));
    let stream = engine.open(SessionConfig::default(), Source::Packets, panics).expect("there is room");
    for packet in packets(|_| None) {
        stream.push_packet(packet);
    }
    let deadline = Instant::now() + HANG;
    let (_never, pause) = mpsc::channel::<()>();
    while engine.stats().streams > 0 && Instant::now() < deadline {
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
    assert_eq!((engine.stats().streams, engine.stats().failures), (0, 1));
    assert!(!stream.push_packet(packets(|_| None).remove(0)), "the stream is over");
    let (sink, events) = sink();
    let stream = engine.open(SessionConfig::default(), Source::Packets, sink).expect("there is room");
    packets(|_| None).into_iter().for_each(|packet| assert!(stream.push_packet(packet)));
    assert!(words(&turn(&events)) > 0, "the thread serves the next stream");
}

#[test]
fn the_pool_ends_with_its_last_owner() {
    let engine = engine(EngineConfig { threads: 2, ..EngineConfig::default() });
    let (sink, events) = sink();
    let stream = engine.open(SessionConfig::default(), Source::Packets, sink).expect("there is room");
    drop(engine);
    assert!(stream.push_packet(packets(|_| None).remove(0)), "a stream keeps the pool");
    drop(stream);
    // The sink went with its thread: the channel is closed.
    assert!(matches!(events.recv_timeout(HANG), Err(mpsc::RecvTimeoutError::Disconnected)));
}
