//! Agents that lie, and servers that do: each ends its own connection, nothing panics, nothing grows.

use std::time::Duration;

use auralink_guest::frame::{self, Kind, encode};
use auralink_guest::message::{Entry, Exit, Reply, VERSION};
use auralink_guest::{Decoder, Request};
use auralink_infrastructure::vm::VmError;
use auralink_infrastructure::vm::agent::Agent;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::{Guest, connect, run, shell};

fn control(channel: u32, reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, Kind::Control, channel, &serde_json::to_vec(reply).unwrap());
    bytes
}

fn content(channel: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, kind, channel, payload);
    bytes
}

/// A peer that greets as it should and answers the first request with `answer`.
async fn lying(answer: Vec<u8>) -> Agent {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        next_request(&mut far).await;
        far.write_all(&control(0, &Reply::Hello { version: VERSION, agent: "lie".into(), reseeded: false })).await.unwrap();
        next_request(&mut far).await;
        let _ = far.write_all(&answer).await;
        let mut rest = [0; 4096];
        while far.read(&mut rest).await.is_ok_and(|length| length > 0) {}
    });
    Agent::connect(near, "test").await.unwrap()
}

async fn next_request(stream: &mut DuplexStream) -> Request {
    let mut decoder = Decoder::default();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).await.unwrap();
        decoder.push(&byte);
        if let Some(frame) = decoder.next_frame().unwrap() {
            return serde_json::from_slice(&frame.payload).unwrap();
        }
    }
}

#[tokio::test]
async fn more_than_the_credit_ends_the_connection() {
    let mut answer = control(1, &Reply::Started { pid: 1 });
    for _ in 0..9 {
        answer.extend(content(1, Kind::Stdout, &[0; frame::CHUNK]));
    }
    let agent = lying(answer).await;
    let _exec = agent.exec(shell("x")).await;
    agent.over().await;
    let error = agent.ping().await.unwrap_err();
    assert!(error.to_string().contains("more than its credit"), "{error}");
}

#[tokio::test]
async fn a_flood_of_empty_frames_or_of_replies_ends_the_connection() {
    for part in [content(1, Kind::Stdout, b""), control(1, &Reply::Ready)] {
        let mut answer = control(1, &Reply::Started { pid: 1 });
        for _ in 0..10_000 {
            answer.extend_from_slice(&part);
        }
        let agent = lying(answer).await;
        let _exec = agent.exec(shell("x")).await;
        agent.over().await;
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_are_errors() {
    let exited = Reply::Exited(Exit::default());
    for answer in [
        control(1, &exited),
        control(1, &Reply::Done),
        content(1, Kind::Stdin, b"x"),
        content(77, Kind::Stdout, b"x"),
        content(1, Kind::Control, b"{"),
    ] {
        let agent = lying(answer).await;
        assert!(agent.exec(shell("x")).await.is_err());
        agent.over().await;
    }
}

#[tokio::test]
async fn a_listing_is_bounded_and_its_names_are_names() {
    let entry = |name: &str| Entry { name: name.into(), kind: "file".into(), size: 1, mode: 0o777_777 };
    let json = serde_json::to_vec(&[entry("../../etc/passwd"), entry("good"), entry("")]).unwrap();
    let mut answer = control(1, &Reply::File { size: 1, mode: 0 });
    answer.extend(content(1, Kind::Data, &json));
    answer.extend(control(1, &Reply::Done));
    let entries = lying(answer).await.list_folder("/", 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].mode), ("good", 0o7777));

    let mut answer = control(1, &Reply::File { size: 1, mode: 0 });
    answer.extend(content(1, Kind::Data, &[b' '; 100_000]));
    assert!(matches!(lying(answer).await.list_folder("/", 1).await, Err(VmError::Engine { .. })));
}

#[tokio::test]
async fn an_error_of_a_megabyte_and_of_control_characters_is_cut() {
    let message = format!("\u{1b}[2J{}", "x".repeat(200_000));
    let agent = lying(control(1, &Reply::Error { code: auralink_guest::ErrorCode::Failed, message })).await;
    let error = agent.exec(shell("x")).await.unwrap_err().to_string();
    assert!(error.len() < 1000 && !error.contains('\u{1b}'), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silence_has_an_end() {
    let agent = lying(Vec::new()).await;
    assert!(matches!(agent.ping().await, Err(VmError::Late { after, .. }) if after == Duration::from_secs(10)));
    let (near, _far) = tokio::io::duplex(1 << 20);
    assert!(matches!(Agent::connect(near, "test").await, Err(VmError::Late { .. })));
    // Nor does one that does not even read hold anybody.
    let (near, _far) = tokio::io::duplex(16);
    assert!(matches!(Agent::connect(near, "test").await, Err(VmError::Late { .. })));
}

#[tokio::test]
async fn another_version_is_refused_in_words() {
    let guest = Guest::start();
    let mut stream = connect(&guest.socket()).await;
    let hello = serde_json::json!({"hello": {"version": 99, "entropy": "00", "clock": null}});
    stream.write_all(&content(0, Kind::Control, &serde_json::to_vec(&hello).unwrap())).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("protocol version 99"));
}

#[tokio::test]
async fn the_agent_outlives_rubbish_from_its_server() {
    let guest = Guest::start();
    let hello = serde_json::json!({"hello": {"version": VERSION, "entropy": "00", "clock": null}});
    let hello = content(0, Kind::Control, &serde_json::to_vec(&hello).unwrap());
    let exec = content(1, Kind::Control, br#"{"exec":{"argv":["cat"]}}"#);
    let mut overrun = [hello.clone(), exec].concat();
    for _ in 0..20 {
        overrun.extend(content(1, Kind::Stdin, &[0; 64 << 10]));
    }
    let rubbish = [
        vec![0xff; 4096],
        content(5, Kind::Control, br#"{"exec":{"argv":["true"]}}"#),
        [hello.clone(), content(1, Kind::Control, b"{\"what\":1}")].concat(),
        [hello.clone(), content(9, Kind::Stdout, b"x")].concat(),
        [hello.clone(), content(1, Kind::Credit, b"x")].concat(),
        [hello, content(0, Kind::Control, b"\"ping\"")].concat(),
    ];
    for bytes in rubbish {
        let mut stream = connect(&guest.socket()).await;
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    let mut stream = connect(&guest.socket()).await;
    let _ = stream.write_all(&overrun).await;
    drop(stream);
    assert_eq!(run(&guest.connect().await, "echo alive").await.text(), "alive\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_an_agent_sends_the_client_ends_or_waits(bytes in proptest::collection::vec(any::<u8>(), 0..2000), kinds in proptest::collection::vec((0_u8..6, 0_u32..3, proptest::collection::vec(any::<u8>(), 0..50)), 0..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut answer = control(1, &Reply::Started { pid: 1 });
            for (kind, channel, payload) in &kinds {
                let kind = [Kind::Control, Kind::Stdin, Kind::Stdout, Kind::Stderr, Kind::Data, Kind::Credit][usize::from(*kind)];
                answer.extend(content(*channel, kind, payload));
            }
            answer.extend(&bytes);
            let agent = lying(answer).await;
            if let Ok(mut exec) = agent.exec(shell("x")).await {
                while let Ok(Some(Ok(_))) = tokio::time::timeout(Duration::from_secs(1), exec.output.recv()).await {}
            }
        });
    }
}
