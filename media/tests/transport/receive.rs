//! The client publishes: layers, extensions, RED, retransmissions, key-frame requests, and the end of a section.

use std::time::Duration;

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{CodecWish, RecvId, TransportEvent};
use str0m::Event;
use str0m::bwe::BweKind;
use str0m::format::Codec as ClientCodec;
use str0m::media::{Direction, MediaKind as ClientKind, Mid, Simulcast, SimulcastLayer};
use str0m::rtp::{ExtensionValues, RtpWrite};

use crate::world::{DELAY, Setup, World};

fn publisher(client: fn(str0m::RtcConfig) -> str0m::RtcConfig) -> World {
    World::new(Setup { offerer: false, client, ..Setup::default() })
}

fn offer(world: &mut World, kind: ClientKind, simulcast: Option<Simulcast>) -> Mid {
    let mut api = world.client.rtc.sdp_api();
    let mid = api.add_media(kind, Direction::SendOnly, Some("stream".into()), Some("cid".into()), simulcast);
    let (offer, pending) = api.apply().unwrap();
    world.client_offers(offer, pending);
    mid
}

fn write(world: &mut World, mid: Mid, rid: Option<&str>, codec: ClientCodec, red: bool, seq: u64, body: &[u8]) {
    let params = *world.client.rtc.codec_config().params().iter().find(|params| params.spec().codec == codec).unwrap();
    let pt = if red { params.red().unwrap() } else { params.pt() };
    let mut api = world.client.rtc.direct_api();
    let stream = api.stream_tx_by_mid(mid, rid.map(Into::into)).unwrap();
    let ext = ExtensionValues {
        audio_level: Some(-21),
        voice_activity: Some(true),
        mid: Some(mid),
        rid: rid.map(Into::into),
        ..Default::default()
    };
    let write =
        RtpWrite::new(pt, seq.into(), (seq * 960) as u32, world.now, body).ext_vals(ext).marker(seq.is_multiple_of(2)).nackable(true);
    stream.write_rtp(write);
    world.run(Duration::from_millis(10));
}

fn received(world: &World) -> Vec<(RecvId, Codec, u64, usize)> {
    world
        .events
        .iter()
        .filter_map(|event| match event {
            TransportEvent::Rtp { recv, packet } => Some((*recv, packet.codec, packet.seq, packet.payload.len())),
            _ => None,
        })
        .collect()
}

#[test]
fn audio_with_level_and_red_arrives() {
    let mut world = publisher(|config| config);
    let mid = offer(&mut world, ClientKind::Audio, None);
    world.run_until_connected();
    for seq in 65_530..65_545u64 {
        write(&mut world, mid, None, ClientCodec::Opus, seq % 2 == 1, seq, &[1; 30]);
    }
    let packets = received(&world);
    assert_eq!(packets.len(), 15);
    for (at, (_, codec, seq, _)) in packets.iter().enumerate() {
        assert_eq!(*seq, 65_530 + at as u64, "extended over the roll-over");
        assert_eq!(*codec, if seq % 2 == 1 { Codec::Red } else { Codec::Opus });
    }
    let TransportEvent::Rtp { packet, .. } = world.events.iter().find(|event| matches!(event, TransportEvent::Rtp { .. })).unwrap() else {
        unreachable!()
    };
    assert_eq!((packet.ext.audio_level, packet.ext.voice), (Some(21), Some(true)));
    let streams = world.events.iter().filter(|event| matches!(event, TransportEvent::ReceiveStream { .. })).count();
    assert_eq!(streams, 1);
}

#[test]
fn red_goes_first_unless_the_track_is_limited_to_opus() {
    for limited in [false, true] {
        let mut world = publisher(|config| config);
        if limited {
            world.server.wish_received("cid".to_owned(), Some(CodecWish::Only(Codec::Opus)));
        }
        let mut api = world.client.rtc.sdp_api();
        api.add_media(ClientKind::Audio, Direction::SendOnly, Some("stream".into()), Some("cid".into()), None);
        let (offer, pending) = api.apply().unwrap();
        let answer = world.client_offers(offer, pending);
        let formats = answer.split("m=audio 9 UDP/TLS/RTP/SAVPF ").nth(1).unwrap().lines().next().unwrap();
        assert_eq!(formats, if limited { "111" } else { "63 111" });
    }
}

#[test]
fn video_is_answered_in_the_clients_order_until_a_codec_is_wished() {
    let mut world = publisher(|config| config);
    let mut api = world.client.rtc.sdp_api();
    let mid = api.add_media(ClientKind::Video, Direction::SendOnly, Some("stream".into()), Some("cid".into()), None);
    let (offer, pending) = api.apply().unwrap();
    let unwished = world.client_offers(offer, pending);
    let count = video_codecs(&unwished).len();
    assert_eq!(video_codecs(&unwished)[0], "VP8");
    // Announced after the section was offered: the next answer says so, and goes on saying so.
    for (codec, name) in [(Codec::Vp9, "VP9"), (Codec::H264, "H264"), (Codec::Vp9, "VP9")] {
        world.server.wish_received("cid".to_owned(), Some(CodecWish::First(codec)));
        for direction in [Direction::Inactive, Direction::SendOnly] {
            let mut api = world.client.rtc.sdp_api();
            api.set_direction(mid, direction);
            let (offer, pending) = api.apply().unwrap();
            let answer = world.client_offers(offer, pending);
            if direction == Direction::SendOnly {
                assert_eq!(video_codecs(&answer)[0], name);
                assert_eq!(video_codecs(&answer).len(), count, "the client may fall back on the others");
            }
        }
    }
}

/// Encoding names of the video section's formats, retransmissions left out, in the order of its first line.
fn video_codecs(sdp: &str) -> Vec<String> {
    let section = sdp.split("m=video 9 UDP/TLS/RTP/SAVPF ").nth(1).expect("a video section");
    let name = |format: &str| {
        let line = section.split(&format!("a=rtpmap:{format} ")).nth(1).expect("every format has a name");
        line.split('/').next().unwrap_or_default().to_owned()
    };
    section.lines().next().unwrap_or_default().split(' ').map(name).filter(|name| name != "rtx").collect()
}

#[test]
fn simulcast_layers_are_streams_of_their_own() {
    let mut world = publisher(|config| config);
    let mut simulcast = Simulcast::new();
    for rid in ["q", "h", "f"] {
        simulcast.add_send_layer(SimulcastLayer { rid: rid.into(), attributes: None });
    }
    let mid = offer(&mut world, ClientKind::Video, Some(simulcast));
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, TransportEvent::ReceiveSection { rids, kind: MediaKind::Video, .. } if *rids == ["q", "h", "f"]))
    );
    world.run_until_connected();
    for seq in 1..=10u64 {
        for (rid, len) in [("q", 100), ("h", 200), ("f", 300)] {
            write(&mut world, mid, Some(rid), ClientCodec::Vp8, false, seq, &vec![1; len]);
        }
    }
    let mut layers = vec![];
    for event in &world.events {
        if let TransportEvent::ReceiveStream { recv, mid: section, rid } = event {
            assert_eq!(*section, mid.to_string());
            layers.push((rid.clone().unwrap(), *recv));
        }
    }
    assert_eq!(layers.len(), 3);
    for ((rid, recv), (expected, len)) in layers.iter().zip([("q", 100), ("h", 200), ("f", 300)]) {
        assert_eq!(rid, expected);
        let of_layer: Vec<_> = received(&world).into_iter().filter(|packet| packet.0 == *recv).collect();
        assert_eq!(of_layer.len(), 10);
        assert!(of_layer.iter().all(|packet| packet.3 == len));
    }
    // A key frame is asked for of one layer.
    world.client.events.clear();
    let now = world.now;
    world.server.request_key_frame(now, layers[1].1);
    world.run(Duration::from_millis(50));
    let asked: Vec<_> = world
        .client
        .events
        .iter()
        .filter_map(|event| match event {
            Event::KeyframeRequest(request) => request.rid.map(|rid| rid.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(asked, ["h"]);
}

#[test]
fn losses_are_asked_for_and_come_as_the_original() {
    let mut world = publisher(|config| config);
    let mid = offer(&mut world, ClientKind::Video, None);
    world.run_until_connected();
    let mut count = 0;
    world.fate = Box::new(move |packet| {
        let media = packet.is_rtp() && packet.destination == crate::world::server_address();
        count += u32::from(media);
        (!media || count % 10 != 5).then_some(DELAY)
    });
    for seq in 1..=200u64 {
        write(&mut world, mid, None, ClientCodec::Vp8, false, seq, &[seq as u8; 500]);
    }
    world.run(Duration::from_millis(500));
    let mut seqs: Vec<u64> = received(&world).iter().map(|packet| packet.2).collect();
    let arrived = seqs.len();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(arrived, seqs.len(), "no duplicates");
    assert!(seqs.len() >= 198, "{}", seqs.len());
    assert_eq!(world.server.stats().bad_tag, 0);
}

#[test]
fn the_publisher_gets_transport_feedback() {
    let mut world = publisher(|config| config.enable_bwe(Some(str0m::bwe::Bitrate::kbps(500))));
    let mid = offer(&mut world, ClientKind::Video, None);
    world.run_until_connected();
    for seq in 1..=300u64 {
        write(&mut world, mid, None, ClientCodec::Vp8, false, seq, &[seq as u8; 500]);
    }
    let estimates = world.client.events.iter().filter(|event| matches!(event, Event::EgressBitrateEstimate(BweKind::Twcc { .. }))).count();
    assert!(estimates > 1, "{estimates} estimates");
}

#[test]
fn an_ended_section_is_said_and_comes_back() {
    let mut world = publisher(|config| config);
    let mid = offer(&mut world, ClientKind::Audio, None);
    world.run_until_connected();
    write(&mut world, mid, None, ClientCodec::Opus, false, 1, &[1; 30]);
    world.events.clear();
    let mut api = world.client.rtc.sdp_api();
    api.set_direction(mid, Direction::Inactive);
    let (offer, pending) = api.apply().unwrap();
    world.client_offers(offer, pending);
    assert!(
        world.events.iter().any(|event| matches!(event, TransportEvent::ReceiveSectionEnded { mid: ended } if *ended == mid.to_string()))
    );
    let mut api = world.client.rtc.sdp_api();
    api.set_direction(mid, Direction::SendOnly);
    let (offer, pending) = api.apply().unwrap();
    world.client_offers(offer, pending);
    assert!(world.events.iter().any(|event| matches!(event, TransportEvent::ReceiveSection { .. })));
    write(&mut world, mid, None, ClientCodec::Opus, false, 2, &[1; 30]);
    assert!(world.events.iter().any(|event| matches!(event, TransportEvent::ReceiveStream { .. })));
}
