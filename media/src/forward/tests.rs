//! Whatever the order, loss and switches of the source: a subscriber's numbers are continuous, unique and can be mapped back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::packet::Extensions;

fn vp8(seq: u64, timestamp: u32, picture_id: u16, tl0: u8, key: bool, arrival: Instant) -> RtpPacket {
    let id = (0x8000 | picture_id & 0x7fff).to_be_bytes();
    RtpPacket {
        arrival,
        codec: Codec::Vp8,
        seq,
        timestamp,
        marker: true,
        ext: Extensions::default(),
        payload: Arc::from([0x90, 0xe0, id[0], id[1], tl0, 0, u8::from(!key), seq as u8]),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Next packet of the current layer, sent this many places late (0: in order) or not at all.
    Packet {
        lost: bool,
        late: bool,
    },
    Switch(u8),
    Pause,
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(|(lost, late)| Step::Packet { lost, late }),
        2 => (0u8..3).prop_map(Step::Switch),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn numbers_are_continuous_whatever_comes(steps in steps(), first in 1u16..0x8000) {
        let origin = Instant::now();
        let mut now = origin;
        let mut rewriter = Rewriter::new(first);
        // Three layers with time lines, sequence numbers and picture ids of their own; one packet is one frame.
        let mut layers: Vec<(u64, u32, u16, u8, TimeReference)> = (0..3u32)
            .map(|i| (1000 * u64::from(i) + 7, i.wrapping_mul(0x5000_0000), (i * 9000) as u16, (i * 90) as u8, TimeReference::new(90_000, origin)))
            .collect();
        let mut layer = 0usize;
        let mut sending = false;
        let mut paused = false;
        // out seq -> (layer, source seq, timestamp, picture id)
        let mut placed: BTreeMap<u64, (usize, u64, u32, u16)> = BTreeMap::new();
        let mut held: Vec<(usize, RtpPacket)> = Vec::new();
        let mut deliver = |rewriter: &mut Rewriter, at: usize, packet: &RtpPacket, start: Option<&TimeReference>| -> Result<(), TestCaseError> {
            let facts = PacketFacts::of(StreamKey(at as u32), packet);
            let placement = match start {
                Some(reference) => Some(rewriter.start(packet, &facts, reference)),
                None => rewriter.place(packet, &facts),
            };
            if let Some(placement) = placement {
                let mut head = [0; MAX_DESCRIPTOR];
                let out = placement.outgoing(packet, facts.vp8.as_ref(), &mut head);
                let written = Vp8Descriptor::parse(&[out.head, out.body].concat()).unwrap();
                let entry = (at, packet.seq, out.timestamp, written.picture_id.unwrap());
                prop_assert!(placed.insert(out.seq, entry).is_none(), "{} was given twice", out.seq);
                let (stream, seq, again) = rewriter.source_of(out.seq).unwrap();
                prop_assert_eq!((stream, seq, again), (facts.stream, packet.seq, placement));
            }
            Ok(())
        };
        for step in steps {
            now += Duration::from_millis(33);
            match step {
                Step::Switch(to) => {
                    if usize::from(to) != layer {
                        sending = false;
                        layer = usize::from(to);
                    }
                }
                Step::Pause => {
                    rewriter.stop(Some(&layers[layer].4));
                    (sending, paused) = (false, true);
                }
                Step::Resume => paused = false,
                Step::Packet { lost, late } => {
                    let state = &mut layers[layer];
                    let ticks = (now - origin).as_millis() as u32 * 90;
                    let packet = vp8(state.0, state.1.wrapping_add(ticks), state.2, state.3, !sending, now);
                    state.0 += 1;
                    state.2 = (state.2 + 1) & 0x7fff;
                    state.3 = state.3.wrapping_add(1);
                    if paused {
                        continue;
                    }
                    state.4.observe(packet.timestamp, now);
                    if !sending {
                        let reference = state.4;
                        rewriter.stop(None);
                        deliver(&mut rewriter, layer, &packet, Some(&reference))?;
                        sending = true;
                    } else if late {
                        held.push((layer, packet));
                    } else if !lost {
                        deliver(&mut rewriter, layer, &packet, None)?;
                    }
                    if held.len() > 3 {
                        let (at, packet) = held.remove(0);
                        deliver(&mut rewriter, at, &packet, None)?;
                    }
                }
            }
        }
        // Every number from the first to the last is either placed or belongs to a packet that was lost or is still on its way.
        let highest = placed.keys().last().copied();
        if let Some(highest) = highest {
            prop_assert_eq!(*placed.keys().next().unwrap(), u64::from(first));
            let mut before: Option<(u64, (usize, u64, u32, u16))> = None;
            for out in u64::from(first)..=highest {
                let Some((stream, seq, _)) = rewriter.source_of(out) else { continue };
                if let Some(&(layer, source, timestamp, picture)) = placed.get(&out) {
                    prop_assert_eq!((stream.0 as usize, seq), (layer, source));
                    if let Some((last, (_, _, last_timestamp, last_picture))) = before {
                        // One packet is one frame here: picture ids run exactly as sequence numbers do, time goes forward.
                        prop_assert_eq!(u64::from(picture.wrapping_sub(last_picture) & 0x7fff), out - last);
                        prop_assert!((timestamp.wrapping_sub(last_timestamp) as i32) > 0);
                    }
                    before = Some((out, (layer, source, timestamp, picture)));
                }
            }
        }
    }
}

#[test]
fn a_switch_keeps_the_time_line() {
    let origin = Instant::now();
    let mut rewriter = Rewriter::new(100);
    let mut low = TimeReference::new(90_000, origin);
    let mut high = TimeReference::new(90_000, origin);
    let at = |ms: u64| origin + Duration::from_millis(ms);
    for i in 0..30u32 {
        low.observe(1_000_000 + i * 3000, at(u64::from(i) * 1000 / 30));
        high.observe(77 + i * 3000, at(u64::from(i) * 1000 / 30));
    }
    let first = vp8(5, 1_000_000, 1, 1, true, at(0));
    let placed = rewriter.start(&first, &PacketFacts::of(StreamKey(1), &first), &low);
    assert_eq!(placed.timestamp_offset, 0);
    rewriter.stop(Some(&low));
    let second = vp8(900, 77 + 29 * 3000, 1, 1, true, at(967));
    let placed = rewriter.start(&second, &PacketFacts::of(StreamKey(2), &second), &high);
    assert_eq!(placed.seq, 101);
    let out = second.timestamp.wrapping_add(placed.timestamp_offset);
    let expected = 1_000_000 + 29 * 3000;
    assert!(out.abs_diff(expected) < 200, "{out} is not near {expected}");
}

#[test]
fn a_jump_of_the_source_does_not_move_the_roll_over_counter() {
    let now = Instant::now();
    let mut rewriter = Rewriter::new(10);
    let reference = TimeReference::new(90_000, now);
    let first = vp8(5, 0, 1, 1, true, now);
    rewriter.start(&first, &PacketFacts::of(StreamKey(1), &first), &reference);
    let far = vp8(60_000, 3000, 2, 2, false, now);
    assert_eq!(rewriter.place(&far, &PacketFacts::of(StreamKey(1), &far)).unwrap().seq, 12);
    assert_eq!(rewriter.source_of(11), None);
}
