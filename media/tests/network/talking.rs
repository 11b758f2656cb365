//! Two people see and hear each other; a handle without shards.

use auralink_media::control::Command;
use auralink_media::ids::RoomKey;
use auralink_media::net::{MediaHandle, Refused};
use auralink_media::packet::MediaKind;

use crate::meeting::{Meeting, config};

#[test]
fn two_people_see_and_hear_each_other_over_loopback() {
    for single in [false, true] {
        let (sfu, mut meeting) = Meeting::start(config(1));
        let room = meeting.open();
        let (alice, bob) = (meeting.join(room, single), meeting.join(room, single));
        let tracks = [
            (bob, meeting.publish(alice, MediaKind::Audio)),
            (bob, meeting.publish(alice, MediaKind::Video)),
            (alice, meeting.publish(bob, MediaKind::Audio)),
            (alice, meeting.publish(bob, MediaKind::Video)),
        ];
        meeting.run_until("media both ways", |m| tracks.iter().all(|(who, track)| m.received(*who, *track) > 30));
        meeting.run_until("a report of counters", |m| m.media.stats()[0].rtp_out > 100);
        sfu.stop();
        assert_eq!(meeting.media.send(Command::OpenRoom { room: RoomKey(9999) }), Err(Refused::Stopped));
    }
}

#[test]
fn a_detached_handle_collects_commands() {
    let (media, commands) = MediaHandle::detached();
    media.send(Command::OpenRoom { room: RoomKey(1) }).unwrap();
    assert!(matches!(commands.try_recv(), Ok(Command::OpenRoom { room: RoomKey(1) })));
    assert_ne!(media.next_key(), media.next_key());
}
