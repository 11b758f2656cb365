//! What can be bound and what cannot; who answers from which address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

use auralink_media::control::MediaConfig;
use auralink_media::ids::{ParticipantKey, TrackKey};
use auralink_media::net::{NetError, Sfu};
use auralink_media::packet::MediaKind;

use crate::meeting::{Meeting, Way, config, sharing};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOME_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn bound_to(ip: IpAddr, advertised: &[IpAddr]) -> MediaConfig {
    MediaConfig { udp_bind: vec![(ip, 0).into()], advertised: advertised.to_vec(), ..config(1) }
}

/// Some containers have no IPv6.
fn has_ipv6() -> bool {
    let bound = UdpSocket::bind((HOME_V6, 0));
    if let Err(error) = &bound {
        eprintln!("not tried, this machine has no IPv6: {error}");
    }
    bound.is_ok()
}

/// Two people, each where it is said, speak with each other and show themselves.
fn talk(meeting: &mut Meeting, homes: [IpAddr; 2], single: bool) {
    let room = meeting.open();
    let people = homes.map(|home| {
        meeting.home = home;
        meeting.join(room, single)
    });
    let mut tracks: Vec<(ParticipantKey, TrackKey)> = Vec::new();
    for (who, other) in [(people[0], people[1]), (people[1], people[0])] {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            tracks.push((other, meeting.publish(who, kind)));
        }
    }
    meeting.run_until("media both ways", |m| tracks.iter().all(|(who, track)| m.received(*who, *track) > 20));
}

#[test]
fn who_is_bound_to_all_addresses_answers_from_the_one_that_was_asked() {
    for single in [false, true] {
        let second: IpAddr = [127, 0, 0, 2].into();
        let (sfu, mut meeting) = Meeting::start(bound_to(Ipv4Addr::UNSPECIFIED.into(), &[HOME, second]));
        meeting.way = Way { only: Some(second), ..Way::default() };
        talk(&mut meeting, [HOME, HOME], single);
        assert_eq!(meeting.heard_from, BTreeSet::from([second]));
        sfu.stop();
    }
}

#[test]
fn ipv6_works_like_ipv4() {
    if !has_ipv6() {
        return;
    }
    let (sfu, mut meeting) = Meeting::start(bound_to(HOME_V6, &[]));
    talk(&mut meeting, [HOME_V6, HOME_V6], true);
    talk(&mut meeting, [HOME_V6, HOME_V6], false);
    assert_eq!(meeting.heard_from, BTreeSet::from([HOME_V6]));
    sfu.stop();
}

#[test]
fn one_socket_serves_both_families_when_it_is_bound_to_all_addresses() {
    if !has_ipv6() {
        return;
    }
    for single in [false, true] {
        let (sfu, mut meeting) = Meeting::start(bound_to(Ipv6Addr::UNSPECIFIED.into(), &[HOME_V6, HOME]));
        talk(&mut meeting, [HOME_V6, HOME], single);
        assert_eq!(meeting.heard_from, BTreeSet::from([HOME, HOME_V6]));
        sfu.stop();
    }
}

#[test]
fn an_advertised_address_need_not_be_one_of_this_machine() {
    for single in [false, true] {
        let outside: IpAddr = [192, 0, 2, 7].into();
        let (sfu, mut meeting) = Meeting::start(bound_to(Ipv4Addr::UNSPECIFIED.into(), &[outside]));
        meeting.way = Way { nat: Some((outside, HOME)), ..Way::default() };
        talk(&mut meeting, [HOME, HOME], single);
        assert_eq!(meeting.heard_from, BTreeSet::from([HOME]));
        sfu.stop();
    }
}

#[test]
fn what_cannot_be_bound_is_said() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let start = |config| Sfu::start(config, Arc::new(|_| {}), Vec::new()).err().unwrap();
    let error = start(MediaConfig { udp_bind: vec![address], ..config(1) });
    assert!(matches!(error, NetError::Bind { .. }) && error.to_string().contains(&address.to_string()), "{error}");
    let error = start(MediaConfig { udp_bind: vec!["0.0.0.0:0".parse().unwrap()], ..config(1) });
    assert!(matches!(error, NetError::NoAddress { .. }), "{error}");
    assert!(matches!(start(config(0)), NetError::NoSocket));
    let taken = start(MediaConfig { udp_bind: vec![address], ..sharing(2) });
    assert!(matches!(taken, NetError::Bind { .. }), "shards share a port with each other only: {taken}");
    for (shards, addresses) in [(0, 1), (1, 2), (3, 2), (1_000, 1)] {
        let error = start(MediaConfig { shards, ..config(addresses) });
        assert!(matches!(error, NetError::Shards { .. }) && error.to_string().contains(&shards.to_string()), "{error}");
    }
}

#[test]
fn a_port_that_shards_share_is_shared_with_nobody_else() {
    let sfu = Sfu::start(sharing(2), Arc::new(|_| {}), Vec::new()).unwrap();
    let address = sfu.addresses()[0];
    assert!(UdpSocket::bind(address).is_err(), "a process that knows nothing of us");
    for shards in [1, 2] {
        let another = Sfu::start(MediaConfig { udp_bind: vec![address], ..sharing(shards) }, Arc::new(|_| {}), Vec::new());
        assert!(matches!(another.err(), Some(NetError::Bind { .. })), "another of us with {shards} shards");
    }
    sfu.stop();
    let sfu = Sfu::start(MediaConfig { udp_bind: vec![address], ..sharing(2) }, Arc::new(|_| {}), Vec::new());
    sfu.expect("the port is free again").stop();
}
