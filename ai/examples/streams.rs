//! What speech costs: CPU seconds per second of audio, stage by stage, and how much batching saves.
//!
//!     cargo run --release -p auralink-ai --example streams [PACK_FOLDER]
//!
//! Figures are CPU time of the process, not wall time, so that a loaded machine changes them little.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;

use auralink_ai::audio::file::FileDecoder;
use auralink_ai::audio::opus::{OpusDecoder, OpusEncoder};
use auralink_ai::decoder::Decoder;
use auralink_ai::features::FeatureExtractor;
use auralink_ai::pack::{Pack, PackSource, onnxruntime_candidates, open_silero};
use auralink_ai::recogniser::{Network, NetworkState};
use auralink_ai::runtime::{RuntimeChoice, open};
use auralink_ai::session::models::SpeechModels;
use auralink_ai::session::{SessionConfig, StreamSession};

/// CPU seconds of this process so far (Linux: fields 14 and 15 of its stat, in ticks of 10 ms).
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux tells a process's CPU time");
    let fields = text.rsplit(") ").next().expect("the name stands in brackets").split(' ');
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks are a number")).sum::<f64>() / 100.0
}

/// CPU microseconds of one call, over as many as take half a second.
fn cost(mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut calls) = (cpu(), 0.0);
    while cpu() - start < 0.5 {
        for _ in 0..4 {
            call();
        }
        calls += 4.0;
    }
    (cpu() - start) * 1e6 / calls
}

fn speech(rate: u32) -> Vec<f32> {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("packs/en-demo/golden.wav");
    let mut decoder = FileDecoder::open(std::fs::File::open(path).expect("the golden utterance is there"), "golden.wav", rate)
        .expect("the golden utterance is a WAV file");
    let mut samples = Vec::new();
    while decoder.read(&mut samples).expect("the golden utterance is whole") {}
    samples
}

fn main() {
    let source = std::env::args().nth(1).map_or(PackSource::BuiltIn, |folder| PackSource::Folder(folder.into()));
    let pack = Arc::new(Pack::open(&source).expect("the pack opens"));
    let samples = speech(16_000);
    let seconds = samples.len() as f64 / 16_000.0;
    let per_second = |us: f64| us / seconds / 1e6;
    println!("pack {}, {seconds:.2} s of speech\n", pack.name());

    let mut encoder = OpusEncoder::new(32_000).expect("libopus makes an encoder");
    let packets: Vec<Vec<u8>> =
        speech(48_000).chunks_exact(OpusEncoder::FRAME).map(|frame| encoder.encode(frame).expect("a whole frame is encoded")).collect();
    let us = cost(|| {
        let mut decoder = OpusDecoder::new().expect("libopus makes a decoder");
        for packet in &packets {
            std::hint::black_box(decoder.decode(packet, 320));
        }
    });
    println!("Opus to 16 kHz      {:7.1} us per packet    RTF {:.5}", us / packets.len() as f64, per_second(us));

    let mut frames = Vec::new();
    let us = cost(|| {
        frames.clear();
        FeatureExtractor::new(pack.filter_bank().clone()).push(&samples, &mut frames);
    });
    println!("log-mel features    {:7.1} us per 10 ms     RTF {:.5}", us / (seconds * 100.0), per_second(us));

    let spec = pack.network();
    let chunk_seconds = spec.chunk_frames as f64 * 0.01;
    let chunks: Vec<&[f32]> = frames.chunks_exact(spec.chunk_values()).collect();
    let silero = open_silero(None).expect("a Silero file that is there can be read").0;
    let candidates = onnxruntime_candidates(None);
    for choice in [RuntimeChoice::OnnxRuntime(None), RuntimeChoice::Rten] {
        let Ok((runtime, _)) = open(&choice, &candidates) else { continue };
        println!("\n{}", runtime.name());
        let mut recogniser = Network::load(&*runtime, &pack).expect("the network loads");
        for batch in [1, 2, 4, 8, 16, 32] {
            let mut states = vec![NetworkState::new(spec); batch];
            let us = cost(|| {
                let mut streams: Vec<(&[f32], &mut NetworkState)> = states.iter_mut().map(|state| (chunks[3], state)).collect();
                recogniser.run(&mut streams).expect("the network runs");
            }) / batch as f64;
            println!("network, batch {batch:2}   {us:7.1} us per chunk     RTF {:.5}", us / 1e6 / chunk_seconds);
        }
        let mut models = SpeechModels::load(&*runtime, &*pack, silero.as_ref()).expect("the networks load");
        let window = models.detector().window() as f64 / 16_000.0;
        let mut noise = 1_u32;
        let quiet: Vec<f32> = (0..32_000)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((noise >> 8) as f32 / 8_388_608.0 - 1.0) * 0.0005
            })
            .collect();
        for (name, audio, count) in
            [("quiet room", &quiet, 1), ("quiet room", &quiet, 16), ("speech", &samples, 1), ("speech", &samples, 16)]
        {
            let seconds = audio.len() as f64 / 16_000.0 * count as f64;
            let us = cost(|| {
                let mut sessions: Vec<StreamSession> =
                    (0..count).map(|_| StreamSession::new(SessionConfig::default(), pack.clone(), models.detector())).collect();
                for piece in audio.chunks(320) {
                    let mut due: Vec<&mut StreamSession> = sessions.iter_mut().collect();
                    due.iter_mut().for_each(|session| session.push_audio(piece));
                    while models.advance(&mut due, 1) {}
                }
            });
            println!(
                "whole session, {name:10} x{count:2}                  RTF {:.5}   ({:.0} streams a core)",
                us / 1e6 / seconds,
                seconds * 1e6 / us
            );
        }
        println!("detector: {}, windows of {:.0} ms", models.detector().name(), window * 1000.0);
        let mut log_probs = Vec::new();
        let mut state = NetworkState::new(spec);
        for chunk in &chunks {
            log_probs.push(recogniser.run(&mut [(chunk, &mut state)]).expect("the network runs").remove(0));
        }
        let us = cost(|| {
            let mut decoder = Decoder::new(pack.decoder().clone());
            for chunk in &log_probs {
                decoder.push(chunk);
                std::hint::black_box(decoder.hypothesis());
            }
        });
        println!("beam search         {:7.1} us per chunk     RTF {:.5}", us / log_probs.len() as f64, per_second(us));
    }
    let mut session = StreamSession::new(SessionConfig::default(), pack.clone(), &auralink_ai::vad::Detector::Earshot);
    let mut models =
        SpeechModels::load(&*open(&RuntimeChoice::Rten, &[]).expect("rten is built in").0, &*pack, None).expect("the networks load");
    let us = cost(|| {
        for _ in 0..50 {
            session.push_silence(320);
            while models.advance(&mut [&mut session], 1) {}
        }
    });
    println!("\ngated or DTX silence {:6.2} us per second of audio", us);
}
