//! From packets to an unbroken line of sound: decoding, loss, DTX, and the level gate with its pre-roll.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_ai::audio::TapPacket;
use auralink_ai::audio::opus::OpusEncoder;
use auralink_ai::audio::receiver::{Audio, AudioReceiver};

/// Opus packets of a tone, 20 ms each.
fn tone(count: usize) -> Vec<Arc<[u8]>> {
    let mut encoder = OpusEncoder::new(32_000).expect("libopus makes an encoder");
    let sample = |i: usize| 0.4 * (std::f32::consts::TAU * 300.0 * i as f32 / 48_000.0).sin();
    (0..count)
        .map(|index| {
            let frame: Vec<f32> = (0..OpusEncoder::FRAME).map(|i| sample(index * OpusEncoder::FRAME + i)).collect();
            Arc::from(encoder.encode(&frame).expect("a whole frame is encoded"))
        })
        .collect()
}

struct Line {
    receiver: AudioReceiver,
    start: Instant,
    sound: usize,
    silence: u64,
}

impl Line {
    fn new() -> Self {
        Self { receiver: AudioReceiver::new().expect("libopus makes a decoder"), start: Instant::now(), sound: 0, silence: 0 }
    }

    fn packet(&mut self, index: usize, level: Option<u8>, payload: &Arc<[u8]>) {
        let arrival = self.start + Duration::from_millis(20 * index as u64);
        self.receiver.push(TapPacket {
            seq: index as u64,
            timestamp: index as u32 * 960,
            arrival,
            level,
            voice: None,
            marker: false,
            epoch: 0,
            payload: payload.clone(),
        });
        self.poll(arrival, true);
    }

    fn poll(&mut self, now: Instant, quiet: bool) {
        while let Some(audio) = self.receiver.poll(now, quiet) {
            match audio {
                Audio::Pcm(samples) => self.sound += samples.len(),
                Audio::Silence(samples) => self.silence += samples,
            }
        }
    }
}

#[test]
fn every_packet_becomes_its_samples() {
    let mut line = Line::new();
    for (index, payload) in tone(50).iter().enumerate() {
        line.packet(index, None, payload);
    }
    assert_eq!((line.sound, line.silence), (50 * 320, 0));
}

#[test]
fn losses_are_filled_to_the_sample() {
    let mut line = Line::new();
    for (index, payload) in tone(100).iter().enumerate() {
        if index % 7 != 3 && !(40..45).contains(&index) {
            line.packet(index, None, payload);
        }
    }
    let end = line.start + Duration::from_millis(2_060);
    line.poll(end, true);
    assert_eq!(line.sound as u64 + line.silence, 100 * 320);
    assert!(line.receiver.stats().concealed >= 14);
}

#[test]
fn dtx_packets_are_silence() {
    let mut line = Line::new();
    let empty: Arc<[u8]> = Arc::from([31 << 3]);
    for index in 0..50 {
        line.packet(index, None, &empty);
    }
    assert_eq!((line.sound, line.silence), (0, 50 * 320));
}

#[test]
fn the_gate_saves_decoding_and_keeps_the_beginning_of_speech() {
    let mut line = Line::new();
    let packets = tone(200);
    for (index, payload) in packets[..100].iter().enumerate() {
        line.packet(index, Some(127), payload);
    }
    assert_eq!(line.sound, 0, "a quiet stream is not decoded");
    assert_eq!(line.receiver.stats().decoded, 0);
    line.packet(100, Some(30), &packets[100]);
    assert_eq!(line.sound, 11 * 320, "the 200 ms before the first loud packet are decoded with it");
    assert_eq!(line.sound as u64 + line.silence, 101 * 320, "nothing is lost or doubled");
    // Quiet again: it stays open for 600 ms, so that the ends of words are heard.
    for (index, payload) in packets.iter().enumerate().skip(101) {
        line.packet(index, Some(127), payload);
    }
    assert_eq!(line.sound, 11 * 320 + 29 * 320);
}
