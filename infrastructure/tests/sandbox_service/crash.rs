//! The server ends at each step of each change in turn: what is found afterwards is whole, and nothing is left over.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::vm::service::{Begin, Request, Sandboxes, Status};
use auralink_infrastructure::vm::{Condition, SandboxId};

use crate::scripted::{Fate, World, open, request, tenant};

type Change = for<'a> fn(&'a Sandboxes, &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Names of ours in a folder of the service.
fn names(folder: &Path, part: &str) -> BTreeSet<String> {
    std::fs::read_dir(folder.join(part)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Engine, homes, logs, records and the service know the same sandboxes in the same conditions.
pub fn assert_whole(service: &Sandboxes, world: &World, folder: &Path, at: &str) {
    let listed = service.list(&tenant("t"), &BTreeMap::new(), None, 1_000);
    let ids: BTreeSet<String> = listed.iter().map(|record| record.id.to_string()).collect();
    let known: BTreeSet<String> = world.conditions().keys().map(SandboxId::to_string).collect();
    let recorded: BTreeSet<String> = world.keys("sandboxes").iter().map(|key| key.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(ids, known, "{at}: the engine's");
    assert_eq!(ids, recorded, "{at}: the records");
    assert_eq!(ids, names(folder, "homes"), "{at}: the homes");
    assert_eq!(ids, names(folder, "logs"), "{at}: the logs");
    for record in &listed {
        let is = match world.conditions()[&record.id] {
            Condition::Running => Status::Running,
            Condition::Paused => Status::Paused,
            _ => Status::Stopped,
        };
        assert_eq!(record.status, is, "{at}");
    }
    let snapshots: BTreeSet<String> = service.snapshots(&tenant("t")).into_iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(snapshots, names(folder, "snapshots"), "{at}: the snapshots");
    assert_eq!(snapshots.len(), world.keys("sandbox_snapshots").len(), "{at}: the snapshots' records");
}

/// Crashes at step 1, 2, 3 ... of `change`, applied to a running sandbox, until it comes to its end.
fn crash_everywhere(change: Change, least_steps: usize) {
    for step in 1.. {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let ended = runtime.block_on(async {
            let service = open(&world, folder.path()).await.unwrap();
            let id = service.create(&tenant("t"), request()).await.unwrap().id;
            world.fate(Fate::Crash(step));
            tokio::select! {
                () = change(&service, id.as_str()) => true,
                () = world.crashed.notified() => false,
            }
        });
        // All tasks of the server end where they are.
        drop(runtime);
        world.fate(Fate::Well);
        let at = format!("crash at step {step}");
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let service = open(&world, folder.path()).await.unwrap();
            assert_whole(&service, &world, folder.path(), &at);
            for record in service.list(&tenant("t"), &BTreeMap::new(), None, 10) {
                // Whatever it is, it can be used and deleted.
                if record.status == Status::Stopped {
                    service.start(&tenant("t"), record.id.as_str()).await.unwrap();
                }
                service.delete(&tenant("t"), record.id.as_str()).await.unwrap();
            }
            assert_whole(&service, &world, folder.path(), &at);
            assert!(world.conditions().is_empty() && names(folder.path(), "homes").is_empty(), "{at}");
        });
        if ended {
            assert!(step > least_steps, "only {step} steps were seen: the test looks at nothing");
            return;
        }
    }
}

#[test]
fn while_one_is_made() {
    crash_everywhere(|service, _| Box::pin(async { drop(service.create(&tenant("t"), request()).await.unwrap()) }), 9);
}

#[test]
fn while_one_is_deleted() {
    crash_everywhere(|service, id| Box::pin(async { service.delete(&tenant("t"), id).await.unwrap() }), 5);
}

#[test]
fn while_one_is_stopped_and_started() {
    crash_everywhere(
        |service, id| {
            Box::pin(async {
                service.stop(&tenant("t"), id, Duration::ZERO).await.unwrap();
                drop(service.start(&tenant("t"), id).await.unwrap());
            })
        },
        11,
    );
}

/// What a start that was cut short lacks (its network, its limits) nobody can tell, so it is not taken for one that runs.
#[test]
fn one_that_was_being_started_is_stopped() {
    let mut stopped = 0;
    for step in 1..=12 {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let acknowledged = runtime.block_on(async {
            let service = open(&world, folder.path()).await.unwrap();
            let t = tenant("t");
            let id = service.create(&t, request()).await.unwrap().id;
            service.stop(&t, id.as_str(), Duration::ZERO).await.unwrap();
            world.fate(Fate::Crash(step));
            tokio::select! {
                started = service.start(&t, id.as_str()) => started.is_ok(),
                () = world.crashed.notified() => false,
            }
        });
        drop(runtime);
        world.fate(Fate::Well);
        let ran = world.conditions().into_values().any(|condition| condition == Condition::Running);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let service = open(&world, folder.path()).await.unwrap();
            assert_whole(&service, &world, folder.path(), &format!("crash at step {step}"));
            let status = service.list(&tenant("t"), &BTreeMap::new(), None, 1)[0].status;
            stopped += usize::from(ran && status == Status::Stopped);
            assert!(!acknowledged || status == Status::Running, "step {step}: what was acknowledged is so");
        });
    }
    assert!(stopped > 0, "no crash fell between the engine's start and its record");
}

#[test]
fn while_one_is_paused_and_resumed() {
    crash_everywhere(
        |service, id| {
            Box::pin(async {
                service.pause(&tenant("t"), id).await.unwrap();
                drop(service.resume(&tenant("t"), id).await.unwrap());
            })
        },
        7,
    );
}

#[test]
fn while_a_snapshot_is_taken_and_used_and_deleted() {
    crash_everywhere(
        |service, id| {
            Box::pin(async {
                let snapshot = service.snapshot(&tenant("t"), id, BTreeMap::new()).await.unwrap();
                let copy = service.create(&tenant("t"), Request::new(Begin::Snapshot(snapshot.id.clone()))).await.unwrap();
                assert!(service.delete_snapshot(&tenant("t"), &snapshot.id).await.is_err(), "a sandbox stands on it");
                service.delete(&tenant("t"), copy.id.as_str()).await.unwrap();
                service.delete_snapshot(&tenant("t"), &snapshot.id).await.unwrap();
            })
        },
        20,
    );
}

#[test]
fn what_nobody_has_a_record_of_goes_and_what_is_not_ours_stays() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        drop(open(&world, folder.path()).await.unwrap());
        let (stray, home) = (SandboxId::random().unwrap(), SandboxId::random().unwrap());
        world.put(stray.clone(), Condition::Running);
        for path in [format!("homes/{home}/root"), format!("logs/{home}"), "homes/somebody".into(), "snapshots/snap-x".into()] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let service = reopened(&world, folder.path()).await;
        assert!(world.conditions().is_empty(), "the stray runs no more");
        assert_eq!(names(folder.path(), "homes"), BTreeSet::from(["somebody".to_owned()]));
        assert!(names(folder.path(), "logs").is_empty() && names(folder.path(), "snapshots").is_empty());
        drop(service);
    });
}

/// The house of the earlier service may hold the folder for a moment longer.
async fn reopened(world: &Arc<World>, folder: &Path) -> Sandboxes {
    for _ in 0..200 {
        if let Ok(service) = open(world, folder).await {
            return service;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    open(world, folder).await.unwrap()
}

#[tokio::test]
async fn a_sandbox_that_its_engine_lost_is_reaped_and_one_that_ended_is_stopped() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(service.create(&tenant("t"), request()).await.unwrap().id);
    }
    drop(service);
    world.lose(&ids[0]);
    world.put(ids[1].clone(), Condition::Stopped);
    let service = reopened(&world, folder.path()).await;
    assert!(service.get(&tenant("t"), ids[0].as_str()).is_err());
    let ended = service.get(&tenant("t"), ids[1].as_str()).unwrap();
    assert_eq!(ended.status, Status::Stopped);
    assert!(ended.why.contains("while the server was away"), "{}", ended.why);
    assert_eq!(service.get(&tenant("t"), ids[2].as_str()).unwrap().status, Status::Running);
    assert_whole(&service, &world, folder.path(), "reopened");
}

#[tokio::test]
async fn two_servers_do_not_work_in_one_folder() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _first = open(&world, folder.path()).await.unwrap();
    let Err(error) = open(&world, folder.path()).await else { panic!("the second opened") };
    assert!(error.to_string().contains("another server"), "{error}");
}

#[tokio::test]
async fn folders_that_others_could_read_become_the_servers_own() {
    use std::os::unix::fs::PermissionsExt;
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let parts = ["homes", "logs", "snapshots"].map(|part| folder.path().join(part));
    for part in &parts {
        std::fs::create_dir(part).unwrap();
        std::fs::set_permissions(part, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let _service = open(&world, folder.path()).await.unwrap();
    for part in &parts {
        assert_eq!(part.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", part.display());
    }
}
