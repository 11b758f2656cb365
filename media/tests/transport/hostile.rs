//! Bytes from outside: wrong tags, wrong addresses, wrong SSRCs, noise. Dropped, counted, and the connection goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{
    Identity, RemoteAnswer, RemoteCandidate, RemoteOffer, SendSlab, Transport, TransportConfig, TransportEvent, TransportOutput,
};
use proptest::prelude::*;
use str0m::media::{Direction, MediaKind as ClientKind};
use str0m::rtp::{ExtensionValues, RtpWrite};

use crate::world::{DELAY, Setup, World, server_address, track};

#[test]
fn flipped_bits_are_bad_tags() {
    let mut world = World::new(Setup { offerer: false, ..Setup::default() });
    let mut api = world.client.rtc.sdp_api();
    let mid = api.add_media(ClientKind::Video, Direction::SendOnly, None, None, None);
    let (offer, pending) = api.apply().unwrap();
    world.client_offers(offer, pending);
    world.run_until_connected();
    let pt = world.client.rtc.codec_config().params().iter().find(|p| p.spec().codec.is_video()).unwrap().pt();
    let captured = std::rc::Rc::new(std::cell::RefCell::new(vec![]));
    let store = captured.clone();
    world.fate = Box::new(move |packet| {
        if packet.destination == server_address() && (packet.is_rtp() || packet.is_rtcp()) {
            store.borrow_mut().push(packet.clone());
        }
        Some(DELAY)
    });
    for seq in 1..=150u64 {
        let mut api = world.client.rtc.direct_api();
        let stream = api.stream_tx_by_mid(mid, None).unwrap();
        let ext = ExtensionValues { mid: Some(mid), ..Default::default() };
        let write = RtpWrite::new(pt, seq.into(), 0, world.now, vec![3u8; 200]).ext_vals(ext);
        stream.write_rtp(write);
        world.run(Duration::from_millis(10));
    }
    let rtp = |world: &World| world.events.iter().filter(|e| matches!(e, TransportEvent::Rtp { .. })).count();
    assert_eq!((rtp(&world), world.server.stats().bad_tag), (150, 0));

    let packets = captured.borrow().clone();
    let client = world.client.address;
    let media = packets.iter().find(|packet| packet.is_rtp()).unwrap();
    let report = packets.iter().find(|packet| packet.is_rtcp()).unwrap();
    // A replay is silent: it opens, and it is old.
    world.reach_server(client, &media.bytes);
    assert_eq!((rtp(&world), world.server.stats().bad_tag), (150, 0));
    world.reach_server(client, &report.bytes);
    assert_eq!((world.server.stats().replayed, world.server.stats().bad_tag), (1, 0));
    // A flipped bit in the payload, a forged sequence number, a forged SSRC, a flipped bit in a report.
    let mut broken = media.bytes.clone();
    *broken.last_mut().unwrap() ^= 1;
    broken[3] = broken[3].wrapping_add(200);
    world.reach_server(client, &broken);
    let mut forged = media.bytes.clone();
    forged[9] ^= 1;
    world.reach_server(client, &forged);
    let mut forged = report.bytes.clone();
    forged[12] ^= 1;
    world.reach_server(client, &forged);
    assert_eq!((rtp(&world), world.server.stats().bad_tag), (150, 3));
    // An address that ICE has not validated is not heard at all.
    let before = world.server.stats().unvalidated;
    world.reach_server("10.9.9.9:1".parse().unwrap(), &media.bytes);
    assert_eq!(world.server.stats().unvalidated, before + 1);
}

#[test]
fn dtls_and_stun_from_strangers_are_dropped_and_counted() {
    let mut world = World::new(Setup::default());
    world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    world.negotiate();
    let stranger: SocketAddr = "10.9.9.9:1".parse().unwrap();
    // The shape of a ClientHello.
    let mut hello = vec![22u8, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60, 1];
    hello.resize(73, 0);
    assert!(!world.server.accepts(stranger, server_address(), &hello));
    world.reach_server(stranger, &hello);
    // A binding request with our ufrag and a wrong integrity.
    let mut request = vec![0, 1, 0, 16, 0x21, 0x12, 0xa4, 0x42];
    request.extend([9u8; 12]);
    request.extend([0, 6, 0, 12]);
    request.extend(b"s0abcdefgh:x");
    assert!(!world.server.accepts(stranger, server_address(), &request));
    world.reach_server(stranger, &request);
    assert_eq!(world.server.stats().unvalidated, 2);
    assert!(world.sent.iter().all(|packet| packet.destination != stranger), "no answer to a stranger");
    world.run_until_connected();
}

fn connected() -> World {
    let mut world = World::new(Setup::default());
    world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    world
}

thread_local! {
    static WORLD: std::cell::RefCell<World> = std::cell::RefCell::new(connected());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any bytes, from the validated address and from elsewhere, before and after the handshake.
    #[test]
    fn any_datagram_is_survived(first in any::<u8>(), mut bytes in proptest::collection::vec(any::<u8>(), 0..300), known in any::<bool>()) {
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        WORLD.with_borrow_mut(|world| {
            let source = if known { world.client.address } else { "10.9.9.9:1".parse().unwrap() };
            let now = world.now;
            let _ = world.server.accepts(source, server_address(), &bytes);
            world.reach_server(source, &bytes);
            assert!(now <= world.now);
        });
        let now = Instant::now();
        let mut fresh = bare();
        let mut slab = SendSlab::default();
        fresh.handle_datagram(now, "10.9.9.9:1".parse().unwrap(), server_address(), &bytes, &mut slab);
        prop_assert!(matches!(fresh.poll_output(now, &mut slab), TransportOutput::Timeout(_)));
    }

    /// Any text as offer and candidate.
    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}", lines in proptest::collection::vec(sdp_line(), 0..30)) {
        let now = Instant::now();
        let mut fresh = bare();
        for sdp in [text.clone(), format!("v=0\r\n{}\r\n", lines.join("\r\n"))] {
            let _ = RemoteAnswer::parse(&sdp);
            let _ = RemoteOffer::parse(&sdp).and_then(|offer| fresh.accept_offer(now, offer));
        }
        for line in [text.clone(), format!("candidate:{text}")] {
            let _ = RemoteCandidate::parse(&line).map(|read| read.map(|candidate| fresh.add_remote_candidate(candidate)));
        }
    }
}

fn sdp_line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("o=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0".to_owned()),
        Just("a=group:BUNDLE 0 1".to_owned()),
        Just("a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx".to_owned()),
        Just("a=fingerprint:sha-256 00:11:22".to_owned()),
        Just("a=setup:actpass".to_owned()),
        "m=(audio|video|application) [0-9]{1,2} UDP/TLS/RTP/SAVPF( [0-9]{1,3}){1,6}",
        "a=mid:[0-3]",
        "a=(sendonly|recvonly|inactive|sendrecv)",
        "a=rtpmap:[0-9]{1,3} (opus|VP8|rtx|H264|red)/[0-9]{4,5}",
        "a=fmtp:[0-9]{1,3} (apt=[0-9]{1,3}|packetization-mode=1;profile-level-id=42e01f)",
        "a=extmap:[0-9]{1,2} urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=simulcast:send [~a-z;,]{0,12}",
        "a=rid:[a-z] send",
        "a=ssrc:[0-9]{1,10} cname:x",
        "a=candidate:1 1 udp 1 10.0.0.[0-9]{1,3} [0-9]{1,5} typ host",
        "\\PC{0,40}",
    ]
}

fn bare() -> Transport {
    thread_local! {
        static IDENTITY: std::sync::Arc<Identity> = Identity::new();
    }
    let config = TransportConfig {
        ice_ufrag: "s0abcdefgh".to_owned(),
        ice_pwd: "a-password-of-enough-letters".to_owned(),
        candidates: vec![server_address()],
        ice_lite: false,
        offerer: false,
        seed: 1,
    };
    IDENTITY.with(|identity| Transport::new(config, identity, Instant::now()))
}
