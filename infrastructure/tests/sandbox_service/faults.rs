//! Engine and state fail at each step in turn: the caller is told, and the next look finds everything whole.

use std::collections::BTreeMap;
use std::time::Duration;

use auralink_infrastructure::vm::VmError;
use auralink_infrastructure::vm::service::Status;

use crate::crash::assert_whole;
use crate::scripted::{Fate, World, open, request, tenant};

#[test]
fn a_failure_at_any_step_is_told_and_leaves_nothing_over() {
    for step in 1.. {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let failed = runtime.block_on(async {
            let service = open(&world, folder.path()).await.unwrap();
            world.fate(Fate::Fail(step));
            let mut failed = false;
            if let Err(error) = service.create(&tenant("t"), request()).await {
                assert!(error.to_string().contains("made to fail"), "{error}");
                failed = true;
            }
            for record in service.list(&tenant("t"), &BTreeMap::new(), None, 10) {
                failed |= service.stop(&tenant("t"), record.id.as_str(), Duration::ZERO).await.is_err();
                failed |= service.delete(&tenant("t"), record.id.as_str()).await.is_err();
            }
            failed
        });
        drop(runtime);
        world.fate(Fate::Well);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let service = open(&world, folder.path()).await.unwrap();
            assert_whole(&service, &world, folder.path(), &format!("failure at step {step}"));
        });
        if !failed && world.conditions().is_empty() && step > 16 {
            return;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_deleted_is_tried_again_until_it_is() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let id = service.create(&tenant("t"), request()).await.unwrap().id;
    let mut events = service.follow(&tenant("t"), None).unwrap();
    world.fate(Fate::Fail(3)); // the engine's delete: after the record's two steps
    let error = service.delete(&tenant("t"), id.as_str()).await.unwrap_err();
    assert!(matches!(error, VmError::Engine { .. }), "{error}");
    assert_eq!(service.get(&tenant("t"), id.as_str()).unwrap().status, Status::Deleting);
    service.delete(&tenant("t"), id.as_str()).await.unwrap();
    assert!(world.conditions().is_empty());
    let mut kinds = Vec::new();
    while !kinds.contains(&"deleted") {
        if let Some(auralink_infrastructure::vm::service::Followed::Event(event)) = events.next().await {
            kinds.push(event.kind.as_str());
        }
    }
    assert_eq!(kinds, ["failed", "deleted"]);
}

#[tokio::test]
async fn a_change_is_finished_although_its_caller_went_away() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let mut events = service.follow(&tenant("t"), None).unwrap();
    {
        let t = tenant("t");
        let mut creating = Box::pin(service.create(&t, request()));
        // Polled once, then dropped.
        assert!(futures_util::poll!(creating.as_mut()).is_pending());
    }
    loop {
        if let Some(auralink_infrastructure::vm::service::Followed::Event(event)) = events.next().await
            && event.kind.as_str() == "started"
        {
            break;
        }
    }
    assert_eq!(service.list(&tenant("t"), &BTreeMap::new(), None, 10)[0].status, Status::Running);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_answers_is_not_waited_for_without_end() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let id = service.create(&tenant("t"), request()).await.unwrap().id;
    world.fate(Fate::Crash(1)); // the engine hangs at its pause
    let error = service.pause(&tenant("t"), id.as_str()).await.unwrap_err();
    assert!(matches!(error, VmError::Late { .. }), "{error}");
}
