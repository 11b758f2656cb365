//! The rules of a room, without sockets or clocks.

use super::*;
use crate::access::VideoGrant;
use crate::rooms::To;
use crate::rooms::signal;
use auralink_media::control::{Event, Quality, Refusal, Speaker, Target};
use auralink_media::ids::RoomKey;
use auralink_media::packet::Codec;
use livekit::leave_request::Action;
use livekit::signal_request::Message as Asked;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

const ROOM: RoomKey = RoomKey(1);

struct House {
    state: RoomState,
    now: Now,
}

#[derive(Clone, Copy)]
struct Who {
    key: ParticipantKey,
    connection: ConnectionId,
}

fn house() -> House {
    house_with(RoomsConfig::default())
}

fn house_with(config: RoomsConfig) -> House {
    let now = Now { at: Instant::now(), unix_ms: 1_700_000_000_000 };
    let config = Arc::new(config);
    let room = RoomRef { key: ROOM, sid: "RM_x".into(), name: "r".into() };
    let info = room_info("r", "RM_x", None, &config, now);
    let next = AtomicU64::new(100);
    let keys: KeySource = Arc::new(move || next.fetch_add(1, Ordering::Relaxed));
    let mut house = House { state: RoomState::new(room, info, config, keys, now), now };
    house.state.drain();
    house
}

fn join_of(identity: &str, grant: VideoGrant) -> Join {
    let mut claims = Claims::join(identity, "r");
    claims.video = Some(VideoGrant { room_join: true, room: "r".into(), ..grant });
    Join {
        api_key: "devkey".into(),
        claims,
        client: livekit::ClientInfo::default(),
        single_connection: false,
        auto_subscribe: true,
        add_tracks: Vec::new(),
        publisher_offer: None,
        link: Some(signal::queue(16, 1 << 20).0),
    }
}

impl House {
    fn join(&mut self, identity: &str) -> Who {
        self.join_with(join_of(identity, VideoGrant::default()))
    }

    fn join_with(&mut self, join: Join) -> Who {
        let joined = self.state.join(self.now, join).unwrap();
        Who { key: joined.participant, connection: joined.connection }
    }

    fn ask(&mut self, who: Who, asked: Asked) -> Vec<Effect> {
        self.state.drain();
        self.state.request(self.now, who.key, who.connection, asked);
        self.state.drain()
    }

    fn media(&mut self, event: Event) -> Vec<Effect> {
        self.state.drain();
        self.state.media_event(self.now, event);
        self.state.drain()
    }

    /// Its media connection stands.
    fn connect(&mut self, who: Who) {
        self.media(Event::Connected { room: ROOM, participant: who.key, target: Target::Subscriber });
    }

    fn pass(&mut self, seconds: u64) -> Vec<Effect> {
        self.state.drain();
        self.now.at += Duration::from_secs(seconds);
        self.state.tick(self.now);
        self.state.drain()
    }

    fn add_track(&mut self, who: Who, cid: &str) -> (TrackKey, String) {
        let effects = self.ask(who, Asked::AddTrack(microphone(cid)));
        let sid = told(&effects, who)
            .into_iter()
            .find_map(|message| match message {
                Message::TrackPublished(published) => Some(published.track.unwrap().sid),
                _ => None,
            })
            .unwrap();
        let key = commands(&effects)
            .into_iter()
            .find_map(|command| match command {
                Command::AddTrack { track, .. } => Some(*track),
                _ => None,
            })
            .unwrap();
        (key, sid)
    }

    fn publish(&mut self, who: Who, cid: &str) -> (TrackKey, String) {
        let (track, sid) = self.add_track(who, cid);
        self.media(Event::TrackStarted { room: ROOM, participant: who.key, track, codec: Codec::Opus });
        (track, sid)
    }
}

fn microphone(cid: &str) -> livekit::AddTrackRequest {
    livekit::AddTrackRequest { cid: cid.into(), name: "mic".into(), source: livekit::TrackSource::Microphone as i32, ..Default::default() }
}

fn told(effects: &[Effect], who: Who) -> Vec<Message> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Signal { to, message } if *to == who.key => Some(message.message().clone()),
            _ => None,
        })
        .collect()
}

fn commands(effects: &[Effect]) -> Vec<&Command> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Media(command) => Some(command),
            _ => None,
        })
        .collect()
}

fn updates(effects: &[Effect], who: Who) -> Vec<livekit::ParticipantInfo> {
    told(effects, who)
        .into_iter()
        .filter_map(|message| match message {
            Message::Update(update) => Some(update.participants),
            _ => None,
        })
        .flatten()
        .collect()
}

fn leave_of(effects: &[Effect], who: Who) -> Option<(DisconnectReason, Action)> {
    told(effects, who).into_iter().find_map(|message| match message {
        Message::Leave(leave) => Some((leave.reason(), leave.action())),
        _ => None,
    })
}

fn subscribes(effects: &[Effect]) -> Vec<(ParticipantKey, TrackKey)> {
    commands(effects)
        .into_iter()
        .filter_map(|command| match command {
            Command::Subscribe { subscriber, track, .. } => Some((*subscriber, *track)),
            _ => None,
        })
        .collect()
}

fn unsubscribes(effects: &[Effect]) -> Vec<(ParticipantKey, TrackKey)> {
    commands(effects)
        .into_iter()
        .filter_map(|command| match command {
            Command::Unsubscribe { subscriber, track, .. } => Some((*subscriber, *track)),
            _ => None,
        })
        .collect()
}

#[test]
fn who_joins_hears_of_who_is_there_and_others_hear_of_it_before_media_does() {
    let mut house = house();
    let ann = house.join("ann");
    house.state.drain();
    let ben = house.join("ben");
    let effects = house.state.drain();
    let Some(Message::Join(join)) = told(&effects, ben).into_iter().next() else { panic!("the join comes first") };
    assert_eq!(join.other_participants.len(), 1);
    assert_eq!(join.other_participants[0].identity, "ann");
    assert!(join.subscriber_primary && join.ping_interval == 5 && join.ping_timeout == 15);
    assert_eq!(join.server_info.unwrap().protocol, 17);
    assert_eq!(join.participant.unwrap().state(), State::Joining);
    let update = updates(&effects, ann);
    assert_eq!((update[0].identity.as_str(), update[0].state()), ("ben", State::Joined));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Refresh { to, .. } if *to == ben.key)));
}

#[test]
fn a_second_with_the_same_identity_sends_the_first_away() {
    let mut house = house();
    let first = house.join("ann");
    house.state.drain();
    let second = house.join("ann");
    let effects = house.state.drain();
    assert_eq!(leave_of(&effects, first), Some((DisconnectReason::DuplicateIdentity, Action::Disconnect)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Close { participant, .. } if *participant == first.key)));
    assert!(commands(&effects).iter().any(|c| matches!(c, Command::RemoveParticipant { participant, .. } if *participant == first.key)));
    assert_eq!(house.state.participants().len(), 1);
    assert!(house.ask(first, Asked::Ping(1)).is_empty());
    assert_eq!(house.state.connection(second.key), Some(second.connection));
}

#[test]
fn a_track_is_answered_at_once_and_announced_when_its_media_arrives() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    house.state.drain();
    let effects = house.ask(ann, Asked::AddTrack(microphone("c1")));
    let Message::TrackPublished(published) = &told(&effects, ann)[0] else { panic!("track published") };
    assert_eq!(published.cid, "c1");
    let info = published.track.clone().unwrap();
    assert!(info.sid.starts_with("TR_AM"));
    assert!(updates(&effects, ben).is_empty(), "no media, no announcement");
    let Command::AddTrack { track, spec, .. } = commands(&effects)[0] else { panic!("media is told") };
    assert_eq!((spec.cid.as_str(), spec.speaks), ("c1", true));

    let effects = house.media(Event::TrackStarted { room: ROOM, participant: ann.key, track: *track, codec: Codec::Red });
    let update = updates(&effects, ben);
    assert_eq!(update[0].tracks[0].sid, info.sid);
    assert_eq!(update[0].tracks[0].mime_type, "audio/red");
    assert!(update[0].is_publisher);
    assert_eq!(subscribes(&effects), [(ben.key, *track)], "others get it, its publisher does not");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Event(What::TrackPublished { track: t, .. }) if t == track)));
    let again = house.media(Event::TrackStarted { room: ROOM, participant: ann.key, track: *track, codec: Codec::Red });
    assert!(again.is_empty());
}

#[test]
fn a_track_announced_twice_with_one_cid_is_one_track() {
    let mut house = house();
    let ann = house.join("ann");
    let (_, sid) = house.add_track(ann, "c1");
    let effects = house.ask(ann, Asked::AddTrack(microphone("c1")));
    let Message::TrackPublished(published) = &told(&effects, ann)[0] else { panic!("track published") };
    assert_eq!(published.track.clone().unwrap().sid, sid);
    assert!(commands(&effects).is_empty());
}

#[test]
fn grants_are_held_when_publishing() {
    let mut house = house();
    let listener = house.join_with(join_of("l", VideoGrant { can_publish: Some(false), ..Default::default() }));
    let speaker = house.join_with(join_of("s", VideoGrant { can_publish_sources: vec!["camera".into()], ..Default::default() }));
    for who in [listener, speaker] {
        let effects = house.ask(who, Asked::AddTrack(microphone("c")));
        assert!(commands(&effects).is_empty());
        let Message::RequestResponse(refused) = &told(&effects, who)[0] else { panic!("a refusal") };
        assert_eq!(refused.reason(), livekit::request_response::Reason::NotAllowed);
        assert!(refused.message.contains("microphone"), "{}", refused.message);
    }
}

#[test]
fn tracks_have_a_limit() {
    let mut config = RoomsConfig::default();
    config.limits.tracks_per_participant = 2;
    let mut house = house_with(config);
    let ann = house.join("ann");
    house.add_track(ann, "c1");
    house.add_track(ann, "c2");
    let effects = house.ask(ann, Asked::AddTrack(microphone("c3")));
    let Message::RequestResponse(refused) = &told(&effects, ann)[0] else { panic!("a refusal") };
    assert_eq!(refused.reason(), livekit::request_response::Reason::LimitExceeded);
}

#[test]
fn a_track_that_media_refuses_ends_with_the_reason() {
    let mut house = house();
    let ann = house.join("ann");
    house.add_track(ann, "c1");
    let track = *house.state.owners.keys().next().unwrap();
    let refusal = Refusal { reason: "at most 1 track".into() };
    let effects = house.media(Event::TrackRefused { room: ROOM, participant: ann.key, track, refusal });
    let [Message::RequestResponse(refused), Message::TrackUnpublished(ended)] = &told(&effects, ann)[..] else { panic!("{effects:?}") };
    assert_eq!(refused.reason(), livekit::request_response::Reason::LimitExceeded);
    assert_eq!(refused.message, "at most 1 track");
    assert!(ended.track_sid.starts_with("TR_"));
    assert!(commands(&effects).iter().any(|c| matches!(c, Command::RemoveTrack { track: ended, .. } if *ended == track)));
    let (again, _) = house.publish(ann, "c1");
    assert_ne!(again, track, "it may be published again");
}

#[test]
fn who_comes_later_gets_the_tracks_that_are_there_unless_it_may_or_will_not() {
    let mut house = house();
    let ann = house.join("ann");
    let (track, sid) = house.publish(ann, "c1");
    house.state.drain();
    let ben = house.join("ben");
    assert_eq!(subscribes(&house.state.drain()), [(ben.key, track)]);
    house.join_with(join_of("deaf", VideoGrant { can_subscribe: Some(false), ..Default::default() }));
    assert!(subscribes(&house.state.drain()).is_empty());
    let mut choosy = join_of("choosy", VideoGrant::default());
    choosy.auto_subscribe = false;
    let choosy = house.join_with(choosy);
    assert!(subscribes(&house.state.drain()).is_empty());
    let wish = |subscribe| livekit::UpdateSubscription { track_sids: vec![sid.clone()], subscribe, ..Default::default() };
    assert_eq!(subscribes(&house.ask(choosy, Asked::Subscription(wish(true)))), [(choosy.key, track)]);
    assert_eq!(unsubscribes(&house.ask(choosy, Asked::Subscription(wish(false)))), [(choosy.key, track)]);
    assert!(unsubscribes(&house.ask(choosy, Asked::Subscription(wish(false)))).is_empty());
}

#[test]
fn an_unknown_track_is_answered() {
    let mut house = house();
    let ann = house.join("ann");
    let wish = livekit::UpdateSubscription { track_sids: vec!["TR_?".into()], subscribe: true, ..Default::default() };
    let effects = house.ask(ann, Asked::Subscription(wish));
    let Message::SubscriptionResponse(answer) = &told(&effects, ann)[0] else { panic!("an answer") };
    assert_eq!(answer.err(), livekit::SubscriptionError::SeTrackNotfound);
    let effects = house.ask(ann, Asked::Mute(livekit::MuteTrackRequest { sid: "TR_?".into(), muted: true }));
    let Message::RequestResponse(answer) = &told(&effects, ann)[0] else { panic!("an answer") };
    assert_eq!(answer.reason(), livekit::request_response::Reason::NotFound);
}

#[test]
fn track_settings_become_medias() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let (_, sid) = house.publish(ann, "c1");
    let mut settings = |settings: livekit::UpdateTrackSettings| {
        let settings = livekit::UpdateTrackSettings { track_sids: vec![sid.clone()], ..settings };
        let effects = house.ask(ben, Asked::TrackSetting(settings));
        match commands(&effects)[0] {
            Command::SetTrackSettings { settings, .. } => *settings,
            other => panic!("{other:?}"),
        }
    };
    let sized = settings(livekit::UpdateTrackSettings { width: 640, height: 360, fps: 15, ..Default::default() });
    assert_eq!((sized.width, sized.height, sized.fps, sized.max_spatial), (640, 360, 15, None));
    let medium = settings(livekit::UpdateTrackSettings { quality: 1, ..Default::default() });
    assert_eq!((medium.max_spatial, medium.disabled), (Some(1), false));
    assert!(settings(livekit::UpdateTrackSettings { quality: 3, ..Default::default() }).disabled);
    assert!(settings(livekit::UpdateTrackSettings { disabled: true, ..Default::default() }).disabled);
    let first = settings(livekit::UpdateTrackSettings { priority: 1, ..Default::default() });
    let second = settings(livekit::UpdateTrackSettings { priority: 2, ..Default::default() });
    assert!(first.priority > second.priority && second.priority > sized.priority);
}

#[test]
fn a_publisher_chooses_its_audience() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let cid = house.join("cid");
    let (track, sid) = house.publish(ann, "c1");
    let only_ben = livekit::SubscriptionPermission {
        all_participants: false,
        track_permissions: vec![livekit::TrackPermission { participant_identity: "ben".into(), all_tracks: true, ..Default::default() }],
    };
    let effects = house.ask(ann, Asked::SubscriptionPermission(only_ben));
    assert_eq!(unsubscribes(&effects), [(cid.key, track)]);
    let Message::SubscriptionPermissionUpdate(update) = &told(&effects, cid)[0] else { panic!("cid is told") };
    assert!(!update.allowed && update.track_sid == sid);
    assert!(told(&effects, ben).is_empty());
    let wish = livekit::UpdateSubscription { track_sids: vec![sid], subscribe: true, ..Default::default() };
    let effects = house.ask(cid, Asked::Subscription(wish));
    assert!(subscribes(&effects).is_empty());
    assert!(matches!(&told(&effects, cid)[0], Message::SubscriptionPermissionUpdate(update) if !update.allowed));
    let all = livekit::SubscriptionPermission { all_participants: true, ..Default::default() };
    assert_eq!(subscribes(&house.ask(ann, Asked::SubscriptionPermission(all))), [(cid.key, track)]);
}

#[test]
fn mute_reaches_media_and_everyone() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let (track, sid) = house.publish(ann, "c1");
    let effects = house.ask(ann, Asked::Mute(livekit::MuteTrackRequest { sid: sid.clone(), muted: true }));
    assert!(matches!(commands(&effects)[0], Command::SetMuted { track: t, muted: true, .. } if *t == track));
    assert!(updates(&effects, ben)[0].tracks[0].muted);
    let again = house.ask(ann, Asked::Mute(livekit::MuteTrackRequest { sid: sid.clone(), muted: true }));
    assert!(again.is_empty());
    house.ask(ann, Asked::Mute(livekit::MuteTrackRequest { sid: sid.clone(), muted: false }));
    house.state.mute_track("ann", &sid, true).unwrap();
    assert!(told(&house.state.drain(), ann).iter().any(|message| matches!(message, Message::Mute(mute) if mute.muted)));
    assert!(matches!(house.state.mute_track("ann", &sid, false), Err(RoomsError::Invalid(_))));
    assert!(matches!(house.state.mute_track("ann", "TR_?", true), Err(RoomsError::TrackNotFound(_))));
}

#[test]
fn own_metadata_needs_the_grant_and_fits_the_limits() {
    let mut house = house();
    let plain = house.join("plain");
    let may = |n: &str| join_of(n, VideoGrant { can_update_own_metadata: Some(true), ..Default::default() });
    let ann = house.join_with(may("ann"));
    let change = |attributes: &[(&str, &str)]| {
        Asked::UpdateMetadata(livekit::UpdateParticipantMetadata {
            name: "New".into(),
            attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            request_id: 7,
            ..Default::default()
        })
    };
    let reason = |effects: &[Effect], who| {
        told(effects, who).into_iter().find_map(|message| match message {
            Message::RequestResponse(response) => Some((response.request_id, response.reason())),
            _ => None,
        })
    };
    use livekit::request_response::Reason;
    let effects = house.ask(plain, change(&[]));
    assert_eq!(reason(&effects, plain), Some((7, Reason::NotAllowed)));
    let effects = house.ask(ann, change(&[("a", "1"), ("b", "2")]));
    assert_eq!(reason(&effects, ann), Some((7, Reason::Ok)));
    let info = &updates(&effects, plain)[0];
    assert_eq!((info.name.as_str(), info.attributes.len()), ("New", 2));
    let effects = house.ask(ann, change(&[("a", "")]));
    assert_eq!(updates(&effects, plain)[0].attributes.keys().collect::<Vec<_>>(), ["b"]);
    let effects = house.ask(ann, change(&[("c", &"x".repeat(65 * 1024))]));
    assert_eq!(reason(&effects, ann), Some((7, Reason::LimitExceeded)));
    assert_eq!(house.state.participant("ann").unwrap().attributes.len(), 1, "refused as a whole");
}

#[test]
fn a_lost_signal_waits_for_its_resume_and_then_leaves() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    house.state.signal_lost(house.now, ann.key, ann.connection);
    assert!(updates(&house.pass(14), ben).is_empty());
    let effects = house.pass(1);
    let gone = &updates(&effects, ben)[0];
    assert_eq!((gone.identity.as_str(), gone.state()), ("ann", State::Disconnected));
    assert_eq!(gone.disconnect_reason(), DisconnectReason::SignalClose);
}

#[test]
fn a_resume_brings_the_present_and_restarts_ice() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let cid = house.join("cid");
    let (_, sid) = house.add_track(ann, "c1");
    house.state.signal_lost(house.now, ann.key, ann.connection);
    house.ask(ben, Asked::Leave(livekit::LeaveRequest::default()));
    let ann_sid = house.state.participant("ann").unwrap().sid;
    let published = livekit::TrackPublishedResponse { cid: "c1".into(), track: Some(livekit::TrackInfo { sid, ..Default::default() }) };
    let resume = |identity: &str, participant_sid: &str, state| Resume {
        participant_sid: participant_sid.into(),
        identity: identity.into(),
        sync_state: state,
        link: signal::queue(16, 1 << 20).0,
    };
    assert!(matches!(house.state.resume(house.now, resume("ann", "PA_other", None)), Err(RoomsError::UnknownSession(_))));
    assert!(house.state.resume(house.now, resume("cid", &ann_sid, None)).is_err(), "of somebody else");
    house.state.drain();
    let state = livekit::SyncState { publish_tracks: vec![published], ..Default::default() };
    let back = house.state.resume(house.now, resume("ann", &ann_sid, Some(state))).unwrap();
    let back = Who { key: back.participant, connection: back.connection };
    assert_eq!(back.key, ann.key);
    let effects = house.state.drain();
    assert!(matches!(&told(&effects, back)[0], Message::Reconnect(_)), "the answer comes first");
    let states: HashMap<String, State> = updates(&effects, back).into_iter().map(|info| (info.identity.clone(), info.state())).collect();
    assert_eq!(states["ben"], State::Disconnected);
    assert_eq!(states["cid"], State::Joined);
    assert!(commands(&effects).iter().any(|command| matches!(command, Command::RestartIce { .. })));
    // A late word of the old connection changes nothing.
    house.state.signal_lost(house.now, ann.key, ann.connection);
    assert_eq!(house.state.connection(ann.key), Some(back.connection));
    assert!(house.ask(ann, Asked::Leave(livekit::LeaveRequest::default())).is_empty());
    let _ = cid;
}

#[test]
fn a_resume_says_which_data_came_and_hears_which_is_missing() {
    let mut house = house();
    let ann = house.join("ann");
    for sequence in [1, 7, 3] {
        let packet = Box::new(livekit::DataPacket { sequence, ..Default::default() });
        house.media(Event::Data { room: ROOM, participant: ann.key, packet });
    }
    let participant_sid = house.state.participants[&ann.key].sid.to_string();
    let has = livekit::DataChannelReceiveState { publisher_sid: "PA_ben".into(), last_seq: 4 };
    let state = livekit::SyncState { datachannel_receive_states: vec![has], ..Default::default() };
    let resume = Resume { participant_sid, identity: "ann".into(), sync_state: Some(state), link: signal::queue(16, 1 << 20).0 };
    house.state.drain();
    house.state.resume(house.now, resume).unwrap();
    let effects = house.state.drain();
    let told = told(&effects, ann);
    let Some(Message::Reconnect(answer)) = told.first() else { panic!("{told:?}") };
    assert_eq!(answer.last_message_seq, 7, "the highest, whatever came later");
    let replayed = commands(&effects).into_iter().find_map(|command| match command {
        Command::ReplayData { states, .. } => Some((states[0].publisher_sid.clone(), states[0].last_sequence)),
        _ => None,
    });
    assert_eq!(replayed, Some(("PA_ben".to_owned(), 4)));
}

#[test]
fn a_resume_with_tracks_that_are_not_known_starts_over() {
    let mut house = house();
    let ann = house.join("ann");
    let published = livekit::TrackPublishedResponse {
        cid: "c1".into(),
        track: Some(livekit::TrackInfo { sid: "TR_old".into(), ..Default::default() }),
    };
    let state = livekit::SyncState { publish_tracks: vec![published], ..Default::default() };
    let effects = house.ask(ann, Asked::SyncState(state));
    assert_eq!(leave_of(&effects, ann), Some((DisconnectReason::StateMismatch, Action::Reconnect)));
}

#[test]
fn a_client_of_one_connection_is_asked_for_sections_and_restarts_ice_itself() {
    let mut house = house();
    let mut join = join_of("ann", VideoGrant::default());
    join.single_connection = true;
    let ann = house.join_with(join);
    let Message::Join(response) = &told(&house.state.drain(), ann)[0] else { panic!("join") };
    assert!(!response.subscriber_primary);
    let effects = house.media(Event::SectionsRequired { room: ROOM, participant: ann.key, audios: 2, videos: 1 });
    assert!(matches!(&told(&effects, ann)[0], Message::MediaSectionsRequirement(s) if (s.num_audios, s.num_videos) == (2, 1)));
    house.state.signal_lost(house.now, ann.key, ann.connection);
    let participant_sid = house.state.participant("ann").unwrap().sid;
    let resume = Resume { participant_sid, identity: "ann".into(), sync_state: None, link: signal::queue(16, 1 << 20).0 };
    house.state.resume(house.now, resume).unwrap();
    let effects = house.state.drain();
    assert!(!commands(&effects).iter().any(|command| matches!(command, Command::RestartIce { .. })));
}

#[test]
fn who_never_connects_its_media_is_dismissed_after_a_minute() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    house.connect(ben);
    house.media(Event::Connected { room: ROOM, participant: ann.key, target: Target::Publisher });
    assert_eq!(leave_of(&house.pass(59), ann), None);
    let effects = house.pass(1);
    assert_eq!(leave_of(&effects, ann), Some((DisconnectReason::JoinFailure, Action::Disconnect)));
    let gone = &updates(&effects, ben)[0];
    assert_eq!((gone.identity.as_str(), gone.disconnect_reason()), ("ann", DisconnectReason::JoinFailure));
    assert_eq!(leave_of(&house.pass(600), ben), None, "who was connected stays");
}

#[test]
fn a_participant_is_active_when_its_primary_connection_stands() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let connected = |target| Event::Connected { room: ROOM, participant: ann.key, target };
    assert!(updates(&house.media(connected(Target::Publisher)), ben).is_empty());
    let effects = house.media(connected(Target::Subscriber));
    assert_eq!(updates(&effects, ben)[0].state(), State::Active);
    house.media(Event::Disconnected { room: ROOM, participant: ann.key, target: Target::Subscriber });
    let early = house.pass(29);
    assert_eq!(leave_of(&early, ann), None, "{early:?}");
    let effects = house.pass(1);
    assert_eq!(leave_of(&effects, ann), Some((DisconnectReason::ConnectionTimeout, Action::Reconnect)));
}

#[test]
fn a_negotiation_that_fails_sends_that_peer_away_with_the_reason() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let refusal = Refusal { reason: "no ice-ufrag".into() };
    let effects = house.media(Event::NegotiationFailed { room: ROOM, participant: ann.key, target: Target::Publisher, refusal });
    assert!(told(&effects, ann).iter().any(|m| matches!(m, Message::RequestResponse(r) if r.message == "no ice-ufrag")));
    assert_eq!(leave_of(&effects, ann), Some((DisconnectReason::MediaFailure, Action::Reconnect)));
    assert_eq!(leave_of(&effects, ben), None);

    for (offer, word) in [
        (livekit::SessionDescription { r#type: "answer".into(), sdp: "v=0".into(), ..Default::default() }, "type"),
        (livekit::SessionDescription { r#type: "offer".into(), ..Default::default() }, "no SDP"),
        (livekit::SessionDescription { r#type: "offer".into(), sdp: "x".repeat(600_000), ..Default::default() }, "600000"),
    ] {
        let cid = house.join("cid");
        let effects = house.ask(cid, Asked::Offer(offer));
        assert!(told(&effects, cid).iter().any(|m| matches!(m, Message::RequestResponse(r) if r.message.contains(word))));
        assert!(leave_of(&effects, cid).is_some());
    }
}

#[test]
fn candidates_are_checked_and_counted() {
    let mut config = RoomsConfig::default();
    config.limits.candidates_per_participant = 3;
    let mut house = house_with(config);
    let ann = house.join("ann");
    let trickle = |candidate: &str| {
        let candidate_init = serde_json::json!({"candidate": candidate, "sdpMid": "0"}).to_string();
        Asked::Trickle(livekit::TrickleRequest { candidate_init, ..Default::default() })
    };
    let line = "candidate:1 1 udp 2130706431 127.0.0.1 5000 typ host";
    for ignored in ["", "candidate:1 1 udp 1 4a7c.local 5000 typ host"] {
        assert!(house.ask(ann, trickle(ignored)).is_empty());
    }
    for wrong in [Asked::Trickle(livekit::TrickleRequest::default()), trickle(&"x".repeat(2000))] {
        assert!(matches!(&told(&house.ask(ann, wrong), ann)[0], Message::RequestResponse(_)));
    }
    for _ in 0..3 {
        assert!(matches!(commands(&house.ask(ann, trickle(line)))[0], Command::Candidate { .. }));
    }
    assert!(house.ask(ann, trickle(line)).is_empty());
}

#[test]
fn hidden_participants_are_not_seen() {
    let mut house = house();
    let ann = house.join("ann");
    house.state.drain();
    let ghost = house.join_with(join_of("ghost", VideoGrant { hidden: true, ..Default::default() }));
    let effects = house.state.drain();
    assert!(updates(&effects, ann).is_empty());
    assert_eq!(updates(&effects, ghost)[0].identity, "ghost");
    assert_eq!(house.state.info().num_participants, 1);
    let ben = house.join("ben");
    let Message::Join(join) = &told(&house.state.drain(), ben)[0] else { panic!("join") };
    assert_eq!(join.other_participants.len(), 1);
    let speakers = vec![Speaker { participant: ghost.key, level: 0.9, active: true }];
    assert!(house.media(Event::Speakers { room: ROOM, speakers }).is_empty());
    assert!(updates(&house.ask(ghost, Asked::Leave(Default::default())), ann).is_empty());
}

#[test]
fn speakers_and_quality_are_told_to_all_once() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let speakers = vec![Speaker { participant: ann.key, level: 0.5, active: true }];
    let effects = house.media(Event::Speakers { room: ROOM, speakers });
    for who in [ann, ben] {
        assert!(matches!(&told(&effects, who)[0], Message::SpeakersChanged(s) if s.speakers[0].active));
    }
    let quality = |quality| Event::Quality { room: ROOM, qualities: vec![Quality { participant: ann.key, quality, score: 4.0 }] };
    let effects = house.media(quality(livekit::ConnectionQuality::Good));
    assert!(matches!(&told(&effects, ben)[0], Message::ConnectionQuality(_)));
    assert!(house.media(quality(livekit::ConnectionQuality::Good)).is_empty(), "unchanged");
    assert_eq!(house.media(quality(livekit::ConnectionQuality::Lost)).len(), 2);
}

#[test]
fn the_first_subscription_is_told_to_the_publisher() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let (track, sid) = house.publish(ann, "c1");
    let event = || Event::Subscribed { room: ROOM, subscriber: ben.key, track };
    assert!(matches!(&told(&house.media(event()), ann)[0], Message::TrackSubscribed(t) if t.track_sid == sid));
    assert!(house.media(event()).is_empty());
    let paused = house.media(Event::StreamPaused { room: ROOM, subscriber: ben.key, track, paused: true });
    assert!(matches!(&told(&paused, ben)[0], Message::StreamStateUpdate(u)
        if u.stream_states[0].state() == livekit::StreamState::Paused));
}

#[test]
fn an_ended_track_is_gone_for_everyone() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let (track, sid) = house.publish(ann, "c1");
    let effects = house.media(Event::TrackEnded { room: ROOM, track });
    assert!(updates(&effects, ben)[0].tracks.is_empty());
    assert!(effects.iter().any(|e| matches!(e, Effect::Event(What::TrackUnpublished { info, .. }) if info.sid == sid)));
    assert!(house.media(Event::TrackEnded { room: ROOM, track }).is_empty());
}

#[test]
fn permissions_taken_away_end_what_they_allowed() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    let (ann_track, _) = house.publish(ann, "c1");
    let (ben_track, ben_sid) = house.publish(ben, "c2");
    house.state.drain();
    let mute_all = livekit::ParticipantPermission::default();
    let change = Change { permission: Some(mute_all), ..Change::default() };
    house.state.update_participant(house.now, "ben", change).unwrap();
    let effects = house.state.drain();
    assert!(told(&effects, ben).iter().any(|m| matches!(m, Message::TrackUnpublished(t) if t.track_sid == ben_sid)));
    assert!(commands(&effects).iter().any(|c| matches!(c, Command::RemoveTrack { track, .. } if *track == ben_track)));
    assert_eq!(unsubscribes(&effects), [(ben.key, ann_track)]);
    let listen = livekit::ParticipantPermission { can_subscribe: true, ..Default::default() };
    let change = Change { permission: Some(listen), ..Change::default() };
    house.state.update_participant(house.now, "ben", change).unwrap();
    assert_eq!(subscribes(&house.state.drain()), [(ben.key, ann_track)]);
}

#[test]
fn data_reaches_those_who_are_meant_and_a_nonce_once() {
    let mut house = house();
    let ann = house.join("ann");
    house.join("ben");
    house.state.drain();
    let request = |to: &[&str], nonce: &[u8]| livekit::SendDataRequest {
        data: b"hi".to_vec(),
        destination_identities: to.iter().map(|s| (*s).to_owned()).collect(),
        nonce: nonce.to_vec(),
        ..Default::default()
    };
    let mut sent = |request| {
        house.state.send_data(request).unwrap();
        let effects = house.state.drain();
        commands(&effects)
            .into_iter()
            .map(|c| match c {
                Command::SendData { to, reliable, .. } => (to.clone(), *reliable),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(sent(request(&[], b"1")), [(vec![], true)]);
    assert!(sent(request(&[], b"1")).is_empty(), "the same call again");
    assert_eq!(sent(request(&["ann", "nobody"], b"2")), [(vec![ann.key], true)]);
    assert!(sent(request(&["nobody"], b"3")).is_empty(), "nobody is not everybody");
    let packet = livekit::DataPacket { participant_identity: "ann".into(), ..Default::default() };
    house.state.send_packet(&packet, false, &To::All);
    assert!(matches!(commands(&house.state.drain())[0], Command::SendData { reliable: false, .. }));
}

#[test]
fn rooms_end_when_nobody_comes_or_all_have_left() {
    let mut never = house();
    assert!(!never.pass(299).iter().any(|e| matches!(e, Effect::Finished)));
    assert!(never.pass(1).iter().any(|e| matches!(e, Effect::Finished)));
    assert!(matches!(never.state.join(never.now, join_of("late", VideoGrant::default())), Err(RoomsError::Closed(_))));

    let mut left = house();
    let ann = left.join("ann");
    let mut agent = join_of("agent", VideoGrant::default());
    agent.claims.kind = "agent".into();
    let agent = left.join_with(agent);
    left.connect(ann);
    left.connect(agent);
    assert!(!left.pass(1000).iter().any(|e| matches!(e, Effect::Finished)));
    left.ask(ann, Asked::Leave(livekit::LeaveRequest::default()));
    assert!(!left.pass(19).iter().any(|e| matches!(e, Effect::Finished)));
    let effects = left.pass(1);
    assert_eq!(leave_of(&effects, agent), Some((DisconnectReason::RoomClosed, Action::Disconnect)));
    assert!(commands(&effects).iter().any(|c| matches!(c, Command::CloseRoom { .. })));
    assert!(effects.iter().any(|e| matches!(e, Effect::Finished)));
}

#[test]
fn full_rooms_refuse() {
    let mut house = house();
    house.state.recreate(&livekit::CreateRoomRequest { max_participants: 1, ..Default::default() }).unwrap();
    house.join("ann");
    let refused = house.state.join(house.now, join_of("ben", VideoGrant::default())).unwrap_err();
    assert!(matches!(&refused, RoomsError::LimitExceeded(text) if text.contains('1')), "{refused}");
    house.join("ann");
    assert_eq!(house.state.participants().len(), 1, "taking one's own place is no second place");
}

#[test]
fn what_everyone_is_told_of_everyone_is_bounded_together() {
    let limits = crate::rooms::Limits { profiles_bytes_per_room: 1_000, ..Default::default() };
    let mut house = house_with(RoomsConfig { limits, ..RoomsConfig::default() });
    let with_metadata = |identity: &str, bytes| {
        let mut join = join_of(identity, VideoGrant::default());
        join.claims.metadata = "m".repeat(bytes);
        join
    };
    house.join_with(with_metadata("ann", 600));
    let refused = house.state.join(house.now, with_metadata("ben", 600)).unwrap_err();
    assert!(matches!(&refused, RoomsError::LimitExceeded(text) if text.contains("1000")), "{refused}");
    house.join_with(with_metadata("ann", 900));
    house.join("ben");
    let longer = |bytes| Change { metadata: Some("m".repeat(bytes)), ..Change::default() };
    assert!(matches!(house.state.update_participant(house.now, "ben", longer(200)), Err(RoomsError::LimitExceeded(_))));
    house.state.update_participant(house.now, "ann", longer(600)).unwrap();
    house.state.update_participant(house.now, "ben", longer(200)).unwrap();
}

#[test]
fn tokens_are_refreshed_while_connected() {
    let mut house = house();
    let ann = house.join("ann");
    house.connect(ann);
    assert!(!house.pass(299).iter().any(|e| matches!(e, Effect::Refresh { .. })));
    assert!(house.pass(1).iter().any(|e| matches!(e, Effect::Refresh { to, claims, .. }
        if *to == ann.key && claims.identity == "ann")));
}

#[test]
fn scenarios_of_clients_own_tests() {
    use livekit::simulate_scenario::Scenario;
    let simulate = |scenario| Asked::Simulate(livekit::SimulateScenario { scenario: Some(scenario) });
    let mut house = house();
    let ann = house.join("ann");
    let effects = house.ask(ann, simulate(Scenario::SpeakerUpdate(3)));
    assert!(matches!(&told(&effects, ann)[0], Message::SpeakersChanged(s) if s.speakers[0].active));
    let effects = house.pass(3);
    assert!(told(&effects, ann).iter().any(|m| matches!(m, Message::SpeakersChanged(s) if !s.speakers[0].active)));
    let effects = house.ask(ann, simulate(Scenario::LeaveRequestFullReconnect(true)));
    assert_eq!(leave_of(&effects, ann), Some((DisconnectReason::StateMismatch, Action::Reconnect)));
    let ben = house.join("ben");
    let effects = house.ask(ben, simulate(Scenario::NodeFailure(true)));
    assert_eq!(leave_of(&effects, ben), None);
    assert!(effects.iter().any(|e| matches!(e, Effect::Close { why: Close::Dropped, .. })));
    let cid = house.join("cid");
    let effects = house.ask(cid, simulate(Scenario::DisconnectSignalOnResume(true)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Close { why: Close::Dropped, .. })));
    assert!(house.state.participant("cid").is_ok(), "only its signal is gone");
}

#[test]
fn what_is_not_there_yet_is_answered() {
    let mut house = house();
    let ann = house.join("ann");
    for asked in [
        Asked::PublishDataTrackRequest(Default::default()),
        Asked::UnpublishDataTrackRequest(Default::default()),
        Asked::StoreDataBlobRequest(Default::default()),
        Asked::GetDataBlobRequest(Default::default()),
        Asked::AddTrack(livekit::AddTrackRequest { sid: "TR_x".into(), ..microphone("c") }),
    ] {
        assert!(matches!(&told(&house.ask(ann, asked), ann)[0], Message::RequestResponse(r) if r.reason != 0));
    }
}

#[test]
fn a_follower_that_lost_events_is_told_again_who_is_there() {
    let mut house = house();
    let ann = house.join("ann");
    house.join("ben");
    let (started, _) = house.publish(ann, "mic");
    house.add_track(ann, "not started");
    house.state.drain();
    house.state.restate();
    let effects = house.state.drain();
    let [Effect::Event(What::Present { participants, tracks })] = &effects[..] else { panic!("one event: {effects:?}") };
    assert_eq!(participants.iter().map(|(who, _)| &*who.identity).collect::<Vec<_>>(), ["ann", "ben"]);
    assert_eq!(tracks.iter().map(|(who, track, _)| (&*who.identity, *track)).collect::<Vec<_>>(), [("ann", started)]);
}

#[test]
fn a_room_whose_shard_has_ended_sends_everyone_to_start_over_and_asks_media_nothing_more() {
    let mut house = house();
    let (ann, ben) = (house.join("ann"), house.join("ben"));
    house.publish(ann, "mic");
    let effects = house.media(Event::RoomLost { room: ROOM });
    for who in [ann, ben] {
        assert!(told(&effects, who).iter().any(|message| matches!(message, Message::Leave(leave)
            if leave.action() == Action::Reconnect && leave.reason() == DisconnectReason::MediaFailure)));
    }
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Media(_))), "there is nobody to take it");
    assert!(matches!(effects.last(), Some(Effect::Finished)));
}
