//! A state folder is one server's.

use auralink_infrastructure::state::{State, StateConfig, StateError};

use crate::child::Server;
use crate::place::{Kind, Place};

#[tokio::test]
async fn a_second_server_is_refused_and_told_who_has_the_folder() {
    let place = Place::closed(Kind::Sqlite);
    let mut server = Server::start(&place, "open");
    server.line("open").unwrap();
    let error = State::open(&place.state).await.unwrap_err();
    let StateError::Locked(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("in use by another AuraLink (process ") && text.contains("data_dir"), "{text}");
    assert!(matches!(State::migrate(&place.state).await, Err(StateError::Locked(_))));
    // A kill leaves no lock behind.
    server.kill("nothing");
    let state = State::open(&place.state).await.unwrap();
    // Nor can it be opened twice in one process; a clone is the same one.
    let clone = state.clone();
    assert!(matches!(State::open(&place.state).await, Err(StateError::Locked(_))));
    state.close().await;
    drop((state, clone));
    State::open(&place.state).await.unwrap().close().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = State::open(&StateConfig::Sqlite { folder: file.join("state") }).await.unwrap_err().to_string();
    assert!(error.contains("cannot be made") && error.contains("file/state"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn the_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(Kind::Sqlite).await;
    assert_eq!(std::fs::metadata(place.sqlite_folder()).unwrap().permissions().mode() & 0o777, 0o700);
}
