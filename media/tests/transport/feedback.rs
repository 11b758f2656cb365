//! What the subscriber reports comes out as events, and lost packets come again as RTX.

use std::time::Duration;

use auralink_media::packet::{Codec, Extensions, MediaKind};
use auralink_media::transport::{RemoteAnswer, SendId, Sent, TransportEvent};
use str0m::media::KeyframeRequestKind;

use crate::world::{DELAY, Setup, World, track};

fn video_world() -> (World, SendId) {
    let mut world = World::new(Setup::default());
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    (world, video)
}

/// Sends 400 packets over a lossy network while answering every NACK.
fn exchange_with_loss(world: &mut World, video: SendId) -> usize {
    let body = |seq: u64| vec![seq as u8; 900];
    let mut random = fastrand::Rng::with_seed(11);
    world.fate = Box::new(move |packet| {
        let lost = packet.is_rtp() && packet.bytes.len() > 900 && random.u8(..100) < 10;
        (!lost).then_some(DELAY)
    });
    let (mut answered, mut nacked) = (world.events.len(), 0);
    for seq in 65_300..65_700u64 {
        world.send(video, Codec::Vp8, seq, (seq * 3000) as u32, &body(seq));
        world.run(Duration::from_millis(10));
        while answered < world.events.len() {
            if let TransportEvent::Nack { send, seqs } = &world.events[answered] {
                assert_eq!(*send, video);
                for seq in seqs.clone() {
                    nacked += 1;
                    assert_eq!(world.resend(video, Codec::Vp8, seq, (seq * 3000) as u32, &body(seq)), Sent::Yes);
                }
            }
            answered += 1;
        }
    }
    world.run(Duration::from_millis(300));
    nacked
}

#[test]
fn lost_packets_come_again_as_rtx_over_the_roll_over() {
    let (mut world, video) = video_world();
    let nacked = exchange_with_loss(&mut world, video);
    assert!(nacked > 20, "{nacked} were asked for");
    let mut seqs: Vec<u64> = world.client.rtp.iter().map(|packet| *packet.seq_no).collect();
    seqs.sort_unstable();
    seqs.dedup();
    // A loss among the last few may not have been noticed yet.
    assert!(seqs.len() >= 395, "{} arrived", seqs.len());
    for packet in &world.client.rtp {
        assert!(packet.payload.iter().all(|byte| *byte == *packet.seq_no as u8) && packet.payload.len() == 900);
    }
    assert!(world.server.stats().rtx_sent >= nacked as u64);
}

#[test]
fn picture_loss_is_a_key_frame_request() {
    let (mut world, video) = video_world();
    world.send(video, Codec::Vp8, 1, 0, &[1; 100]);
    world.run(Duration::from_millis(50));
    let ssrc = world.client.rtp[0].header.ssrc;
    for kind in [KeyframeRequestKind::Pli, KeyframeRequestKind::Fir] {
        world.events.clear();
        world.client.rtc.direct_api().stream_rx(&ssrc).unwrap().request_keyframe(kind);
        world.run(Duration::from_millis(100));
        assert!(world.events.iter().any(|e| matches!(e, TransportEvent::KeyFrameRequested { send } if *send == video)), "{kind:?}");
    }
}

#[test]
fn receiver_reports_tell_loss_and_round_trip() {
    let (mut world, video) = video_world();
    for seq in 0..300u64 {
        world.send(video, Codec::Vp8, seq, (seq * 900) as u32, &[7; 300]);
        world.run(Duration::from_millis(10));
    }
    let rtts: Vec<_> = world
        .events
        .iter()
        .filter_map(|event| match event {
            TransportEvent::ReceiverReport { send, loss, rtt: Some(rtt), .. } if *send == video => {
                assert_eq!(*loss, 0.0);
                Some(rtt.as_millis())
            }
            _ => None,
        })
        .collect();
    assert!(!rtts.is_empty());
    assert!(rtts.iter().all(|rtt| (9..=12).contains(rtt)), "{rtts:?}");
}

#[test]
fn sender_reports_carry_the_cname_of_the_sdp() {
    let mut world = World::new(Setup::default());
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    let offer = world.server.create_offer(world.now).unwrap().sdp;
    let cname = offer.split(" cname:").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let parsed = str0m::change::SdpOffer::from_sdp_string(&offer).unwrap();
    let answer = world.client.rtc.sdp_api().accept_offer(parsed).unwrap();
    world.server.accept_answer(world.now, RemoteAnswer::parse(&answer.to_sdp_string()).unwrap()).unwrap();
    world.run_until_connected();
    for seq in 0..30u64 {
        world.send(video, Codec::Vp8, seq, (seq * 900) as u32, &[7; 300]);
        world.run(Duration::from_millis(10));
    }
    let ssrc = world.client.rtp[0].header.ssrc;
    assert_eq!(world.client.rtc.direct_api().stream_rx(&ssrc).unwrap().cname(), Some(cname.as_str()));
    assert!(world.client.events.iter().any(|event| matches!(event, str0m::Event::SenderFeedback(_))));
}

#[test]
fn a_second_packet_under_one_number_is_refused() {
    let (mut world, video) = video_world();
    assert_eq!(world.send(video, Codec::Vp8, 5, 0, &[1]), Sent::Yes);
    assert_eq!(world.send(video, Codec::Vp8, 5, 0, &[2]), Sent::Repeated);
    assert_eq!(world.send(video, Codec::Vp8, 1 << 48, 0, &[2]), Sent::Repeated);
    assert_eq!(world.send(video, Codec::H264, 6, 0, &[2]), Sent::NotReady, "not negotiated");
    assert_eq!(world.server.stats().repeated, 2);
}

#[test]
fn the_estimate_falls_under_loss_and_under_a_growing_queue() {
    for growing_queue in [false, true] {
        let (mut world, video) = video_world();
        let mut busy_until = world.now;
        let mut random = fastrand::Rng::with_seed(5);
        world.fate = Box::new(move |packet| {
            if !packet.is_rtp() || packet.bytes.len() < 900 {
                return Some(DELAY);
            }
            if !growing_queue {
                return (random.u8(..100) >= 30).then_some(DELAY);
            }
            // A 600 kbps link with an endless queue.
            busy_until = busy_until.max(packet.at) + Duration::from_micros(packet.bytes.len() as u64 * 8_000 / 600);
            Some(busy_until.duration_since(packet.at) + DELAY)
        });
        // 1 Mbps for three seconds.
        for seq in 0..300u64 {
            world.send(video, Codec::Vp8, seq, (seq * 900) as u32, &[7; 1200]);
            world.run(Duration::from_millis(10));
        }
        let lowest = world
            .events
            .iter()
            .filter_map(|event| match event {
                TransportEvent::BandwidthEstimate { bps, congested: true } => Some(*bps),
                _ => None,
            })
            .min();
        assert!(lowest.is_some_and(|bps| bps < 900_000), "queue {growing_queue}: {lowest:?}");
    }
}

#[test]
fn header_extensions_arrive() {
    let mut world = World::new(Setup::default());
    let audio = world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Red, Codec::Opus]));
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    assert_eq!(world.negotiated()[&audio].1, [Codec::Red, Codec::Opus]);
    let ext = Extensions { audio_level: Some(37), voice: Some(true), ..Default::default() };
    world.send_with(audio, Codec::Red, 1, 0, &ext, &[111, 1, 2]);
    world.send_with(audio, Codec::Opus, 2, 960, &ext, &[1, 2]);
    let ext = Extensions { orientation: Some(1), ..Default::default() };
    world.send_with(video, Codec::Vp8, 1, 0, &ext, &[1, 2, 3, 4]);
    world.run(Duration::from_millis(100));
    let sound: Vec<_> = world.client.rtp.iter().filter(|packet| packet.header.ext_vals.audio_level == Some(-37)).collect();
    assert_eq!(sound.len(), 2);
    assert_ne!(sound[0].header.payload_type, sound[1].header.payload_type, "RED and Opus");
    let picture = world.client.rtp.iter().find(|packet| packet.payload.len() == 4).unwrap();
    assert_eq!(picture.header.ext_vals.video_orientation.map(|value| value as u8), Some(1));
    assert!(picture.header.ext_vals.transport_cc.is_some());
}
