//! Programs: held back by who does not read, ended when nobody listens, bounded in number, logged and told.

use auralink_infrastructure::vm::service::{Captured, Followed, Started};
use auralink_infrastructure::vm::{ExecInput, ExecOutput, VmError};
use bytes::Bytes;

use crate::scripted::{World, open, open_with, program, request, settings, tenant};

#[tokio::test]
async fn output_that_nobody_reads_holds_the_program_back_and_an_absent_reader_ends_it() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let Started { exec, number } = service.exec(&t, id.as_str(), program("endless")).await.unwrap();
    let mut last = usize::MAX;
    while last != world.sent() {
        last = world.sent();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(last <= 32, "{last} messages of 64 KiB are on their way");
    drop(exec.output);
    world.abandoned.notified().await;
    assert_eq!(world.ended(), 1);
    let mut following = service.follow(&t, Some(id.as_str())).unwrap();
    loop {
        let Some(Followed::Event(event)) = following.next().await else { panic!("the events ended") };
        if event.kind.as_str() == "exec_ended" {
            assert_eq!((event.exec, event.exit), (Some(number), None));
            break;
        }
    }
    let logs = service.logs(&t, id.as_str(), Some(number)).await.unwrap();
    let kept: usize = logs[0].chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    assert!(kept <= 64 << 10 && logs[0].dropped > 0);
}

#[tokio::test]
async fn a_gigabyte_passes_in_bounded_memory() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let mut started = service.exec(&t, id.as_str(), program("endless")).await.unwrap();
    let mut passed = 0;
    while passed < 1 << 30 {
        let Some(Ok(ExecOutput::Stdout(bytes))) = started.exec.output.recv().await else { panic!("it ended") };
        passed += bytes.len();
    }
    assert!(world.sent() * 65_536 - passed < 4 << 20, "what is on its way is bounded");
}

#[tokio::test]
async fn captured_output_is_cut_and_said_to_be() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let input = Bytes::from_static(b"hello");
    let whole = service.exec_captured(&t, id.as_str(), program("cat"), input.clone(), 100).await.unwrap();
    let Captured { stdout, truncated, exit, .. } = whole;
    assert_eq!((&stdout[..], truncated, exit.code), (&b"hello"[..], false, 0));
    let cut = service.exec_captured(&t, id.as_str(), program("cat"), input, 3).await.unwrap();
    assert_eq!((&cut.stdout[..], cut.truncated), (&b"hel"[..], true));
    let lost = service.exec_captured(&t, id.as_str(), program("dies"), Bytes::new(), 3).await;
    assert!(matches!(lost, Err(VmError::Ended(_))), "{lost:?}");
    let logs = service.logs(&t, id.as_str(), None).await.unwrap();
    assert_eq!(logs.len(), 3);
    assert_eq!(logs[0].chunks[0].bytes, "hello");
    assert!(matches!(service.logs(&t, id.as_str(), Some(77)).await, Err(VmError::NotFound(_))));
}

#[tokio::test]
async fn so_many_programs_and_no_more() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.execs_per_sandbox = 2;
    config.forwards_per_sandbox = 1;
    let service = open_with(config, &world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let mut one = service.exec(&t, id.as_str(), program("sleep")).await.unwrap();
    let _two = service.exec(&t, id.as_str(), program("sleep")).await.unwrap();
    assert!(matches!(service.exec(&t, id.as_str(), program("sleep")).await, Err(VmError::Exhausted(_))));
    drop(one.exec.input);
    while !matches!(one.exec.output.recv().await, Some(Ok(ExecOutput::Exited(_)))) {}
    service.exec(&t, id.as_str(), program("true")).await.unwrap();
    let connection = service.dial(&t, id.as_str(), 80).await.unwrap();
    assert!(matches!(service.dial(&t, id.as_str(), 80).await, Err(VmError::Exhausted(_))));
    drop(connection);
    assert!(service.dial(&t, id.as_str(), 80).await.is_ok());
}

#[tokio::test]
async fn input_reaches_the_program() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let id = service.create(&tenant("t"), request()).await.unwrap().id;
    let mut started = service.exec(&tenant("t"), id.as_str(), program("cat")).await.unwrap();
    started.exec.input.send(ExecInput::Stdin(Bytes::from_static(b"ping"))).await.unwrap();
    assert_eq!(started.exec.output.recv().await.unwrap().unwrap(), ExecOutput::Stdout(Bytes::from_static(b"ping")));
}
