//! Single-connection mode: the client's offer has sections for both directions, our answer fills what it receives on.

use std::time::Duration;

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{Sent, TransportEvent};
use str0m::media::{Direction, MediaKind as ClientKind};

use crate::world::{Setup, World, track};

fn answerer() -> World {
    World::new(Setup { offerer: false, ..Setup::default() })
}

fn section<'a>(sdp: &'a str, mid: &str) -> &'a str {
    sdp.split("\r\nm=").find(|section| section.contains(&format!("a=mid:{mid}\r\n"))).unwrap()
}

#[test]
fn the_answer_carries_our_msid_on_the_clients_receiving_sections() {
    let mut world = answerer();
    let audio = world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    let extra = world.server.add_send_track(track(MediaKind::Video, "w", &[Codec::Vp8]));

    let mut api = world.client.rtc.sdp_api();
    let publish = api.add_media(ClientKind::Audio, Direction::SendOnly, Some("-".into()), Some("cid-1".into()), None);
    let down_audio = api.add_media(ClientKind::Audio, Direction::RecvOnly, None, None, None);
    let down_video = api.add_media(ClientKind::Video, Direction::RecvOnly, None, None, None);
    let unused = api.add_media(ClientKind::Audio, Direction::RecvOnly, None, None, None);
    api.add_channel("_reliable".into());
    let (offer, pending) = api.apply().unwrap();
    let answer = world.client_offers(offer, pending);

    assert!(section(&answer, &publish).contains("a=recvonly") && !section(&answer, &publish).contains("a=msid"));
    assert!(section(&answer, &down_audio).contains("a=msid:PA_x|TR_a TR_a\r\n"));
    assert!(section(&answer, &down_video).contains("a=msid:PA_x|TR_v TR_v\r\n"));
    assert!(!section(&answer, &down_video).contains("H264"));
    assert!(section(&answer, &unused).contains("a=inactive") && !section(&answer, &unused).contains("a=msid"));
    assert_eq!(world.server.sections_missing(), (0, 1));
    assert!(world.server.needs_client_offer());
    assert!(world.events.iter().any(|event| matches!(event,
        TransportEvent::ReceiveSection { mid, kind: MediaKind::Audio, track_id, .. }
            if *mid == publish.to_string() && track_id == "cid-1")));
    assert_eq!(world.negotiated().len(), 2);

    world.run_until_connected();
    for seq in 0..10u64 {
        assert_eq!(world.send(audio, Codec::Opus, seq, 0, &[1; 40]), Sent::Yes);
        assert_eq!(world.send(video, Codec::Vp8, seq, 0, &[2; 50]), Sent::Yes);
        assert_eq!(world.send(extra, Codec::Vp8, seq, 0, &[2; 60]), Sent::NotReady);
        world.run(Duration::from_millis(10));
    }
    world.run(Duration::from_millis(50));
    assert_eq!(world.client.rtp.len(), 20);

    // The client adds the missing section; the removed track's section goes inactive and is not refilled in that answer.
    world.server.remove_send_track(video);
    let late = world.server.add_send_track(track(MediaKind::Video, "x", &[Codec::Vp8]));
    assert_eq!(world.server.sections_missing(), (0, 1));
    let mut api = world.client.rtc.sdp_api();
    let second_video = api.add_media(ClientKind::Video, Direction::RecvOnly, None, None, None);
    let (offer, pending) = api.apply().unwrap();
    let answer = world.client_offers(offer, pending);
    assert!(section(&answer, &down_video).contains("a=inactive"));
    assert!(section(&answer, &second_video).contains("TR_w"));
    assert_eq!(world.server.sections_missing(), (0, 0));
    assert!(world.server.needs_client_offer(), "the freed section waits for an offer");
    assert_eq!(world.send(extra, Codec::Vp8, 100, 0, &[2; 60]), Sent::Yes);
    assert_eq!(world.send(late, Codec::Vp8, 100, 0, &[2; 60]), Sent::NotReady);
    world.run(Duration::from_millis(50));

    let mut api = world.client.rtc.sdp_api();
    let third_video = api.add_media(ClientKind::Audio, Direction::RecvOnly, None, None, None);
    // str0m answers `inactive` by setting its section inactive: a client that listens says so again.
    api.set_direction(down_video, Direction::RecvOnly);
    let (offer, pending) = api.apply().unwrap();
    let answer = world.client_offers(offer, pending);
    assert!(section(&answer, &third_video).contains("a=inactive"));
    assert!(section(&answer, &down_video).contains("TR_x"), "{}", section(&answer, &down_video));
    assert!(!world.server.needs_client_offer());
    world.client.rtp.clear();
    assert_eq!(world.send(late, Codec::Vp8, 101, 0, &[2; 60]), Sent::Yes);
    world.run(Duration::from_millis(50));
    assert_eq!(world.client.rtp.len(), 1);
}

#[test]
fn a_section_that_the_client_ends_loses_its_track() {
    let mut world = answerer();
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    let mut api = world.client.rtc.sdp_api();
    let down = api.add_media(ClientKind::Video, Direction::RecvOnly, None, None, None);
    let (offer, pending) = api.apply().unwrap();
    world.client_offers(offer, pending);
    world.run_until_connected();
    assert_eq!(world.send(video, Codec::Vp8, 1, 0, &[2; 60]), Sent::Yes);

    let mut api = world.client.rtc.sdp_api();
    api.set_direction(down, Direction::Inactive);
    let (offer, pending) = api.apply().unwrap();
    world.client_offers(offer, pending);
    assert_eq!(world.send(video, Codec::Vp8, 2, 0, &[2; 60]), Sent::NotReady);
    assert_eq!(world.server.sections_missing(), (0, 1));
}
