//! Reading what clients say when they connect, good and bad.

use super::*;
use crate::access::{Claims, VideoGrant};
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write as _;
use std::time::Duration;

fn keys() -> KeySet {
    KeySet::new([("devkey", "a-secret-of-some-thirty-six-letters!")])
}

fn token_of(grant: VideoGrant, identity: &str) -> String {
    let claims = Claims { identity: identity.into(), video: Some(grant), ..Claims::default() };
    keys().mint("devkey", &claims, Duration::from_secs(60)).unwrap()
}

fn join_token() -> String {
    token_of(VideoGrant { room_join: true, room: "r".into(), ..Default::default() }, "ann")
}

fn updating_token() -> String {
    let can_update_own_metadata = Some(true);
    token_of(VideoGrant { room_join: true, room: "r".into(), can_update_own_metadata, ..Default::default() }, "ann")
}

fn connect(version: Version, query: &str) -> Result<Connect, JoinError> {
    parse(version, query, &HeaderMap::new(), &keys(), &Limits::default())
}

fn wrap(request: &livekit::JoinRequest, gzip: bool) -> String {
    let bytes = request.encode_to_vec();
    let (compression, join_request) = if gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Level::best());
        encoder.write_all(&bytes).unwrap();
        (Compression::Gzip, encoder.finish().unwrap())
    } else {
        (Compression::None, bytes)
    };
    let wrapped = livekit::WrappedJoinRequest { compression: compression as i32, join_request };
    base64::engine::general_purpose::STANDARD.encode(wrapped.encode_to_vec())
}

fn escape(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn request() -> livekit::JoinRequest {
    livekit::JoinRequest {
        connection_settings: Some(livekit::ConnectionSettings { auto_subscribe: true, ..Default::default() }),
        publisher_offer: Some(livekit::SessionDescription { r#type: "offer".into(), sdp: "v=0".into(), ..Default::default() }),
        add_track_requests: vec![livekit::AddTrackRequest { cid: "c".into(), ..Default::default() }],
        ..Default::default()
    }
}

fn joined(connect: Result<Connect, JoinError>) -> JoinParams {
    match connect.unwrap() {
        Connect::Join(params) => *params,
        Connect::Resume(_) => panic!("a join"),
    }
}

#[test]
fn v0_parameters() {
    let token = updating_token();
    let attributes = base64::engine::general_purpose::STANDARD.encode(r#"{"k":"v"}"#);
    let params = joined(connect(
        Version::V0,
        &format!("access_token={token}&auto_subscribe=0&sdk=js&protocol=16&version=2.1&attributes={}", escape(&attributes)),
    ));
    assert_eq!((params.room.as_str(), params.claims.identity.as_str()), ("r", "ann"));
    assert!(!params.auto_subscribe && !params.single_connection);
    assert_eq!(params.client.sdk(), livekit::client_info::Sdk::Js);
    assert_eq!(params.claims.attributes["k"], "v");
    assert!(joined(connect(Version::V0, &format!("access_token={token}"))).auto_subscribe);
    match connect(Version::V0, &format!("access_token={token}&reconnect=1&sid=PA_1")).unwrap() {
        Connect::Resume(resume) => assert_eq!((resume.participant_sid.as_str(), resume.identity.as_str()), ("PA_1", "ann")),
        Connect::Join(_) => panic!("a resume"),
    }
}

#[test]
fn join_requests_on_both_paths_plain_and_compressed() {
    let token = join_token();
    for version in [Version::V0, Version::V1] {
        for gzip in [false, true] {
            let query = format!("access_token={token}&join_request={}", escape(&wrap(&request(), gzip)));
            let params = joined(connect(version, &query));
            assert!(params.single_connection && params.auto_subscribe);
            assert_eq!(params.publisher_offer.unwrap().sdp, "v=0");
            assert_eq!(params.add_tracks[0].cid, "c");
        }
    }
    assert!(matches!(connect(Version::V1, &format!("access_token={token}")), Err(JoinError::Required)));
}

#[test]
fn base64_in_every_dress() {
    let mut request = request();
    request.participant_sid = "\u{ff}\u{fe}\u{3ff}".repeat(5);
    let standard = wrap(&request, false);
    let url_safe = standard.replace('+', "-").replace('/', "_");
    for encoded in [standard.clone(), standard.trim_end_matches('=').to_owned(), url_safe.clone(), standard.replace('+', " ")] {
        assert_eq!(decode(&encoded).unwrap(), request, "{encoded}");
    }
}

#[test]
fn tokens_and_grants() {
    let status = |query: &str| connect(Version::V0, query).map(|_| StatusCode::OK).unwrap_or_else(|e| e.status()).as_u16();
    assert_eq!(status(""), 401);
    assert_eq!(status("access_token=abc"), 401);
    assert_eq!(status(&format!("access_token={}", token_of(VideoGrant { room: "r".into(), ..Default::default() }, "ann"))), 401);
    let grant = |room: &str| VideoGrant { room_join: true, room: room.into(), ..Default::default() };
    assert_eq!(status(&format!("access_token={}", token_of(grant(""), "ann"))), 400);
    assert_eq!(status(&format!("access_token={}", token_of(grant("r"), ""))), 400);
    assert_eq!(status(&format!("access_token={}", token_of(grant(&"r".repeat(257)), "ann"))), 400);
    assert_eq!(status(&format!("access_token={}", token_of(grant("r"), &"a".repeat(257)))), 400);
    assert_eq!(status(&format!("access_token={}", token_of(grant("r"), "ann"))), 200);
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {}", join_token()).parse().unwrap());
    assert!(parse(Version::V0, "", &headers, &keys(), &Limits::default()).is_ok());
    headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
    let refused = parse(Version::V0, "", &headers, &keys(), &Limits::default()).unwrap_err();
    assert!(refused.to_string().contains("Bearer"));
}

#[test]
fn metadata_in_a_join_needs_the_grant() {
    let request = livekit::JoinRequest { metadata: "m".into(), ..request() };
    let query = |token: String| format!("access_token={token}&join_request={}", escape(&wrap(&request, true)));
    assert_eq!(connect(Version::V1, &query(join_token())).unwrap_err().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(joined(connect(Version::V1, &query(updating_token()))).claims.metadata, "m");
}

#[test]
fn bad_join_requests_are_refused_with_livekits_words() {
    let refused = |encoded: &str| decode(encoded).unwrap_err().to_string();
    assert_eq!(refused("!!!"), "cannot base64 decode wrapped join request");
    assert_eq!(refused("AAAA"), "cannot unmarshal wrapped join request");
    let wrapped = |compression: i32, join_request: Vec<u8>| {
        let wrapped = livekit::WrappedJoinRequest { compression, join_request };
        base64::engine::general_purpose::STANDARD.encode(wrapped.encode_to_vec())
    };
    assert_eq!(refused(&wrapped(0, vec![0xff; 9])), "cannot unmarshal join request");
    assert_eq!(refused(&wrapped(1, b"not gzip".to_vec())), "cannot decompress join request");
    assert!(refused(&wrapped(7, vec![])).contains("compression"));
}

#[test]
fn a_bomb_is_not_unpacked() {
    let mut encoder = GzEncoder::new(Vec::new(), Level::best());
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let wrapped = livekit::WrappedJoinRequest { compression: Compression::Gzip as i32, join_request: encoder.finish().unwrap() };
    assert!(wrapped.join_request.len() < 100_000, "it is small on the wire");
    let encoded = base64::engine::general_purpose::STANDARD.encode(wrapped.encode_to_vec());
    assert!(matches!(decode(&encoded), Err(JoinError::TooLarge)));
}

proptest! {
    #[test]
    fn any_request_survives_its_way(
        sid in ".{0,64}",
        metadata in ".{0,256}",
        sdp in ".{0,2000}",
        cids in proptest::collection::vec("[a-z0-9]{1,12}", 0..8),
        gzip: bool,
    ) {
        let request = livekit::JoinRequest {
            participant_sid: sid,
            metadata,
            publisher_offer: Some(livekit::SessionDescription { r#type: "offer".into(), sdp, ..Default::default() }),
            add_track_requests: cids.into_iter().map(|cid| livekit::AddTrackRequest { cid, ..Default::default() }).collect(),
            ..Default::default()
        };
        prop_assert_eq!(decode(&wrap(&request, gzip)).unwrap(), request);
    }

    #[test]
    fn no_text_breaks_the_decoder(text in "\\PC{0,300}") {
        let _ = decode(&text);
    }

    #[test]
    fn no_bytes_break_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..600), compression in 0i32..3) {
        let wrapped = livekit::WrappedJoinRequest { compression, join_request: bytes.clone() };
        let _ = decode(&base64::engine::general_purpose::STANDARD.encode(wrapped.encode_to_vec()));
        let _ = decode(&base64::engine::general_purpose::STANDARD.encode(bytes));
    }

    #[test]
    fn no_query_breaks_the_parser(query in "\\PC{0,300}") {
        prop_assert!(connect(Version::V0, &query).is_err());
    }
}
