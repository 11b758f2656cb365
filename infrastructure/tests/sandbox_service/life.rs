//! What a caller sees: conditions, names, labels, pages, events, other tenants' things.

use std::collections::BTreeMap;
use std::time::Duration;

use auralink_infrastructure::vm::service::{Followed, Request, Status};
use auralink_infrastructure::vm::{Limits, SandboxId, VmError};

use crate::scripted::{World, open, program, request, tenant};

#[tokio::test]
async fn from_its_making_to_its_end_by_id_and_by_name() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let made = service.create(&t, Request { name: "box".into(), start: false, ..request() }).await.unwrap();
    assert_eq!((made.status, made.source.as_str()), (Status::Stopped, "host"));
    let error = service.exec(&t, "box", program("true")).await.unwrap_err();
    assert_eq!(error.to_string(), "the sandbox is stopped: start it first");
    assert!(matches!(service.pause(&t, "box").await, Err(VmError::Condition { .. })));
    assert!(service.start(&t, "box").await.unwrap().started_ms.is_some());
    assert_eq!(service.start(&t, made.id.as_str()).await.unwrap().status, Status::Running, "starting twice is well");
    assert_eq!(service.pause(&t, "box").await.unwrap().status, Status::Paused);
    assert!(matches!(service.exec(&t, "box", program("true")).await, Err(VmError::Condition { is: "paused", .. })));
    assert_eq!(service.resume(&t, "box").await.unwrap().status, Status::Running);
    assert_eq!(service.stop(&t, "box", Duration::ZERO).await.unwrap().status, Status::Stopped);
    let kinds: Vec<&str> = service.events(&t, "box").unwrap().iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["created", "started", "paused", "resumed", "stopped"]);
    service.delete(&t, "box").await.unwrap();
    assert!(matches!(service.delete(&t, "box").await, Err(VmError::NotFound(_))));
}

#[tokio::test]
async fn events_are_kept_over_a_restart_and_followed_without_a_gap() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (t, id) = (tenant("t"), {
        let service = open(&world, folder.path()).await.unwrap();
        service.create(&tenant("t"), request()).await.unwrap().id
    });
    let service = loop {
        match open(&world, folder.path()).await {
            Ok(service) => break service,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let mut following = service.follow(&t, Some(id.as_str())).unwrap();
    service.stop(&t, id.as_str(), Duration::ZERO).await.unwrap();
    let (mut kinds, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let Some(Followed::Event(event)) = following.next().await else { panic!("the events ended") };
        kinds.push(event.kind.as_str());
        numbers.push(event.number);
    }
    assert_eq!(kinds, ["created", "started", "recovered", "stopped"]);
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test]
async fn another_tenants_sandbox_is_as_absent_as_one_that_never_was() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let (own, other) = (tenant("own"), tenant("other"));
    let id = service.create(&own, Request { name: "mine".into(), ..request() }).await.unwrap().id;
    let snapshot = service.snapshot(&own, "mine", BTreeMap::new()).await.unwrap();
    let never = SandboxId::random().unwrap();
    let words = |error: VmError, id: &str| {
        assert!(matches!(error, VmError::NotFound(_)), "{error}");
        error.to_string().replace(id, "ID")
    };
    for (theirs, nobodys) in [(id.as_str(), never.as_str()), ("mine", "mone")] {
        macro_rules! same {
            ($($call:expr),*) => {$({
                #[allow(clippy::redundant_closure_call)]
                let (one, two) = ($call(theirs).await.err().unwrap(), $call(nobodys).await.err().unwrap());
                assert_eq!(words(one, theirs), words(two, nobodys));
            })*};
        }
        same!(
            async |id| service.get(&other, id),
            async |id| service.start(&other, id).await,
            async |id| service.stop(&other, id, Duration::ZERO).await,
            async |id| service.pause(&other, id).await,
            async |id| service.delete(&other, id).await,
            async |id| service.exec(&other, id, program("true")).await,
            async |id| service.read_file(&other, id, "/etc/passwd").await,
            async |id| service.list_folder(&other, id, "/", 10).await,
            async |id| service.dial(&other, id, 80).await,
            async |id| service.usage(&other, id).await,
            async |id| service.logs(&other, id, None).await,
            async |id| service.events(&other, id),
            async |id| service.follow(&other, Some(id)),
            async |id| service.snapshot(&other, id, BTreeMap::new()).await
        );
    }
    assert!(service.list(&other, &BTreeMap::new(), None, 10).is_empty() && service.snapshots(&other).is_empty());
    assert!(matches!(service.delete_snapshot(&other, &snapshot.id).await, Err(VmError::NotFound(_))));
    assert!(service.create(&other, Request { name: "mine".into(), ..request() }).await.is_ok(), "names are each tenant's own");
}

#[tokio::test]
async fn lists_are_filtered_by_labels_and_come_in_pages() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let label = |value: &str| BTreeMap::from([("team".to_owned(), value.to_owned())]);
    for index in 0..5 {
        let labels = label(if index % 2 == 0 { "a" } else { "b" });
        service.create(&tenant("t"), Request { labels, ..request() }).await.unwrap();
    }
    let (mut after, mut seen) = (None::<String>, Vec::new());
    loop {
        let page = service.list(&tenant("t"), &label("a"), after.as_deref(), 2);
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some(last.id.to_string());
        seen.extend(page.into_iter().map(|record| record.id));
    }
    assert!(seen.len() == 3 && seen.is_sorted());
}

#[tokio::test]
async fn a_lifetime_ends_also_when_the_server_was_away() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let t = tenant("t");
    let short = || Request { limits: Limits { lifetime_s: 1, ..Limits::default() }, ..request() };
    let service = open(&world, folder.path()).await.unwrap();
    let mut following = service.follow(&t, None).unwrap();
    service.create(&t, short()).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&"reaped") {
        let Some(Followed::Event(event)) = following.next().await else { panic!("the events ended") };
        kinds.push(event.kind.as_str());
    }
    assert_eq!(kinds, ["created", "started", "timed_out", "reaped"]);
    let id = service.create(&t, short()).await.unwrap().id;
    drop((service, following));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let service = loop {
        match open(&world, folder.path()).await {
            Ok(service) => break service,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    while service.get(&t, id.as_str()).is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.conditions().is_empty());
}
