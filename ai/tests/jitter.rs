//! The jitter buffer: whatever the network does, its output is an unbroken, ordered line of the right length.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_ai::audio::TapPacket;
use auralink_ai::audio::jitter::{Frame, JitterBuffer, packet_ticks};
use proptest::prelude::*;

/// 20 ms in RTP ticks.
const FRAME: u64 = 960;
/// Table of contents of one 20 ms CELT frame, mono.
const TOC: u8 = 31 << 3;

fn packet(index: u64, seq: u64, timestamp: u64, arrival: Instant, epoch: u32) -> TapPacket {
    let mut payload = vec![TOC];
    payload.extend_from_slice(&index.to_be_bytes());
    TapPacket { seq, timestamp: timestamp as u32, arrival, level: None, voice: None, marker: false, epoch, payload: Arc::from(payload) }
}

fn index_of(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[1..9].try_into().expect("the payload carries its index"))
}

fn drain(buffer: &mut JitterBuffer, now: Instant) -> Vec<Frame> {
    std::iter::from_fn(|| buffer.poll(now)).collect()
}

fn length(frames: &[Frame]) -> u64 {
    frames
        .iter()
        .map(|frame| match frame {
            Frame::Packet { ticks, .. } | Frame::Lost { ticks, .. } | Frame::Silence { ticks } => *ticks,
            Frame::Reset => 0,
        })
        .sum()
}

fn order(frames: &[Frame]) -> Vec<u64> {
    frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Packet { payload, .. } => Some(index_of(payload)),
            _ => None,
        })
        .collect()
}

#[test]
fn in_order_packets_leave_at_once() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    for index in 0..50 {
        let now = start + Duration::from_millis(20 * index);
        buffer.push(packet(index, 1000 + index, index * FRAME, now, 0));
        assert_eq!(order(&drain(&mut buffer, now)), [index]);
    }
}

#[test]
fn a_lost_packet_is_recovered_from_the_next_one() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    buffer.push(packet(0, 0, 0, start, 0));
    buffer.push(packet(2, 2, 2 * FRAME, start + Duration::from_millis(40), 0));
    assert_eq!(order(&drain(&mut buffer, start + Duration::from_millis(41))), [0], "the missing one is waited for");
    let frames = drain(&mut buffer, start + Duration::from_millis(400));
    assert!(matches!(&frames[0], Frame::Lost { ticks: FRAME, next: Some(next) } if index_of(next) == 2), "{frames:?}");
    assert_eq!(order(&frames), [2]);
    assert_eq!(buffer.stats().lost, 1);
}

#[test]
fn a_gap_in_time_without_a_gap_in_numbers_is_silence() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    buffer.push(packet(0, 0, 0, start, 0));
    buffer.push(packet(1, 1, 11 * FRAME, start + Duration::from_millis(220), 0));
    let frames = drain(&mut buffer, start + Duration::from_millis(220));
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[1], Frame::Silence { ticks: 10 * FRAME });
    assert_eq!(buffer.stats().lost, 0);
}

#[test]
fn loss_after_a_comfort_noise_packet_is_silence() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    let mut quiet = packet(0, 0, 0, start, 0);
    quiet.payload = Arc::from([TOC]);
    buffer.push(quiet);
    buffer.push(packet(2, 2, 40 * FRAME, start + Duration::from_millis(800), 0));
    let frames = drain(&mut buffer, start + Duration::from_millis(910));
    assert!(!frames.iter().any(|frame| matches!(frame, Frame::Lost { .. })), "{frames:?}");
    assert_eq!(length(&frames), 41 * FRAME);
}

#[test]
fn a_stream_that_stops_becomes_silence_and_its_clock_does_not_run_ahead() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    buffer.push(packet(0, 0, 0, start, 0));
    let mut frames = drain(&mut buffer, start);
    for ms in (20..1000).step_by(20) {
        frames.extend(drain(&mut buffer, start + Duration::from_millis(ms)));
    }
    let silent = length(&frames) - FRAME;
    assert!((700 * 48..=1000 * 48).contains(&silent), "{silent}");
    // It goes on after one second: the silence already handed out is part of the gap.
    buffer.push(packet(1, 1, 50 * FRAME, start + Duration::from_millis(1000), 0));
    frames.extend(drain(&mut buffer, start + Duration::from_millis(1000)));
    assert_eq!(length(&frames), 51 * FRAME);
}

#[test]
fn sequence_and_timestamp_may_wrap() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    let (mut frames, first) = (Vec::new(), u64::from(u32::MAX) - 5 * FRAME);
    for index in 0..20 {
        let now = start + Duration::from_millis(20 * index);
        buffer.push(packet(index, 65_530 + index, first + index * FRAME, now, 0));
        frames.extend(drain(&mut buffer, now));
    }
    assert_eq!(order(&frames), (0..20).collect::<Vec<_>>());
    assert_eq!(length(&frames), 20 * FRAME);
}

#[test]
fn a_new_epoch_resets_and_the_old_one_is_refused() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    buffer.push(packet(0, 500, 0, at(0), 0));
    buffer.push(packet(1, 7, 900_000, at(20), 1));
    buffer.push(packet(9, 501, FRAME, at(21), 0));
    let frames = drain(&mut buffer, at(40));
    assert_eq!(order(&frames), [0, 1]);
    assert!(frames.contains(&Frame::Reset));
    assert_eq!(buffer.stats().late, 1);
}

#[test]
fn a_sender_that_begins_anew_is_heard_again() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    buffer.push(packet(0, 50_000, 0, start, 0));
    let mut frames = drain(&mut buffer, start);
    for index in 1..60 {
        let now = start + Duration::from_millis(20 * index);
        buffer.push(packet(index, index, index * FRAME, now, 0));
        frames.extend(drain(&mut buffer, now));
    }
    assert!(frames.contains(&Frame::Reset));
    assert_eq!(order(&frames), std::iter::once(0).chain(25..60).collect::<Vec<_>>());
}

#[test]
fn a_clock_that_jumps_is_a_reset_not_an_hour_of_silence() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    buffer.push(packet(0, 0, 0, start, 0));
    buffer.push(packet(1, 1, 3600 * 48_000, start + Duration::from_millis(20), 0));
    let frames = drain(&mut buffer, start + Duration::from_millis(20));
    assert!(frames.contains(&Frame::Reset));
    assert!(length(&frames) < 5 * FRAME, "{frames:?}");
}

#[test]
fn what_is_no_opus_is_counted_and_ignored() {
    let mut buffer = JitterBuffer::new();
    let start = Instant::now();
    // Nothing at all; a multi-frame packet without its count; with a count of zero; 63 frames of 60 ms.
    for payload in [&[][..], &[0b11], &[0b11, 0], &[(3 << 3) | 3, 63]] {
        assert_eq!(packet_ticks(payload), None, "{payload:?}");
        let mut bad = packet(0, 0, 0, start, 0);
        bad.payload = Arc::from(payload);
        buffer.push(bad);
    }
    assert_eq!(drain(&mut buffer, start + Duration::from_secs(1)), []);
    assert_eq!(buffer.stats().malformed, 4);
}

/// What the network does to one packet.
#[derive(Debug, Clone)]
struct Fate {
    lost: bool,
    duplicated: bool,
    delay_ms: u64,
    /// 20 ms frames of DTX before it.
    pause: u64,
}

fn fate() -> impl Strategy<Value = Fate> {
    let pause = prop_oneof![9 => Just(0), 1 => 1_u64..5];
    (prop::bool::weighted(0.1), prop::bool::weighted(0.05), 0_u64..60, pause).prop_map(|(lost, duplicated, delay_ms, pause)| Fate {
        lost,
        duplicated,
        delay_ms,
        pause,
    })
}

proptest! {
    #[test]
    fn the_line_is_ordered_and_as_long_as_the_sender_meant(
        fates in prop::collection::vec(fate(), 2..200),
        first_seq in 0_u64..100_000,
        first_timestamp in any::<u32>(),
    ) {
        let start = Instant::now();
        let mut sent = Vec::new();
        let mut timestamp = u64::from(first_timestamp);
        for (index, fate) in fates.iter().enumerate() {
            timestamp += fate.pause * FRAME;
            let media_ms = (timestamp - u64::from(first_timestamp)) / 48;
            // The first and the last arrive, and arrive first and last, so that the expected length is known.
            let edge = index == 0 || index + 1 == fates.len();
            let delay = if index == 0 { 0 } else if edge { 60 } else { fate.delay_ms };
            let arrival = start + Duration::from_millis(media_ms + delay);
            let packet = packet(index as u64, first_seq + index as u64, timestamp, arrival, 0);
            if edge || !fate.lost {
                sent.push(packet.clone());
                if fate.duplicated {
                    sent.push(packet);
                }
            }
            timestamp += FRAME;
        }
        let meant = timestamp - u64::from(first_timestamp) - fates[0].pause * FRAME;
        sent.sort_by_key(|packet| packet.arrival);
        let end = sent.last().expect("two packets arrive").arrival;

        let mut buffer = JitterBuffer::new();
        let mut frames = Vec::new();
        let distinct = sent.iter().map(|packet| packet.seq).collect::<std::collections::BTreeSet<_>>().len() as u64;
        let mut sent = sent.into_iter().peekable();
        let mut now = start;
        while now <= end + Duration::from_millis(110) {
            while let Some(packet) = sent.next_if(|packet| packet.arrival <= now) {
                buffer.push(packet);
            }
            frames.extend(drain(&mut buffer, now));
            now += Duration::from_millis(5);
        }

        let order = order(&frames);
        prop_assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "ordered, no duplicates: {order:?}");
        let stats = buffer.stats();
        // A duplicate of a packet that has left already counts as late.
        prop_assert_eq!(order.len() as u64 + stats.lost, fates.len() as u64, "each packet is handed out or counted lost");
        prop_assert!(order.len() as u64 <= distinct);
        let slack = fates.iter().map(|fate| fate.pause).sum::<u64>() * FRAME;
        let got = length(&frames);
        prop_assert!(got >= meant && got <= meant + slack, "{got} ticks of {meant} meant");
    }

    #[test]
    fn no_input_makes_it_panic_or_grow(
        packets in prop::collection::vec((any::<u32>(), any::<u32>(), 0_u32..3, prop::collection::vec(any::<u8>(), 0..4), 0_u64..5_000), 0..400),
    ) {
        let start = Instant::now();
        let mut buffer = JitterBuffer::new();
        for (seq, timestamp, epoch, payload, ms) in packets {
            let arrival = start + Duration::from_millis(ms);
            let mut packet = packet(0, u64::from(seq), u64::from(timestamp), arrival, epoch);
            packet.payload = Arc::from(payload);
            buffer.push(packet);
            let frames = drain(&mut buffer, arrival);
            prop_assert!(frames.len() < 1_000);
            prop_assert!(length(&frames) <= 70 * 60_000 * 48);
        }
    }
}
