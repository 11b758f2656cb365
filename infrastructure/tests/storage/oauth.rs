//! A person's access: given, kept, renewed before it ends, and missed when it was taken away.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use auralink_infrastructure::storage::{Content, StorageError, StoreConfig};

use crate::service::{Fault, secret_file};
use crate::stores::{self, agree, content, path};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_kept_for_their_owner_alone_and_live_on() {
    for opened in [stores::gdrive().await, stores::dropbox().await] {
        let file = opened.data.path().join("storage/tokens/files.json");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        opened.a().write(&path("x"), Content::bytes("x")).await.unwrap();
        // Another process begins with the file.
        assert_eq!(content(&opened.again(&opened.config).of(&"team-a".parse().unwrap()), "x").await.unwrap(), b"x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_access_the_command_is_named() {
    let opened = stores::dropbox().await;
    std::fs::remove_file(opened.data.path().join("storage/tokens/files.json")).unwrap();
    let error = opened.again(&opened.config).of(&Default::default()).stat(&path("x")).await.unwrap_err();
    assert!(matches!(error, StorageError::Connect { .. }));
    assert!(error.to_string().contains("auralink files connect files"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_is_renewed_once_for_all() {
    for opened in [stores::gdrive().await, stores::dropbox().await] {
        let (store, service) = (opened.a(), opened.service.clone().unwrap());
        store.write(&path("x"), Content::bytes("x")).await.unwrap();
        // The service forgot the token before its time: eight ask at once, one renews.
        service.end_access();
        let before = service.renewals.load(Ordering::Relaxed);
        let at = path("x");
        let asked = futures_util::future::join_all((0..8).map(|_| store.stat(&at))).await;
        assert!(asked.into_iter().all(|entry| entry.unwrap().size == 1));
        assert_eq!(service.renewals.load(Ordering::Relaxed) - before, 1, "{}", opened.store.kind());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends() {
    let opened = stores::gdrive().await;
    let service = opened.service.clone().unwrap();
    // Tokens that live for half a minute are within the minute that is kept clear.
    service.token_life.store(30, Ordering::Relaxed);
    agree(&opened.store).await.unwrap();
    let before = service.renewals.load(Ordering::Relaxed);
    service.token_life.store(3_600, Ordering::Relaxed);
    assert!(matches!(opened.a().stat(&path("x")).await, Err(StorageError::NotFound { .. })));
    assert_eq!(service.renewals.load(Ordering::Relaxed) - before, 1);
    // The service was never asked with a token that could have ended, and is not asked for another now.
    assert!(matches!(opened.a().stat(&path("x")).await, Err(StorageError::NotFound { .. })));
    assert_eq!(service.renewals.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_process_renewed_is_taken() {
    let opened = stores::dropbox().await;
    let (store, service) = (opened.a(), opened.service.clone().unwrap());
    store.write(&path("x"), Content::bytes("x")).await.unwrap();
    let other = opened.again(&opened.config).of(&"team-a".parse().unwrap());
    assert_eq!(content(&other, "x").await.unwrap(), b"x");
    service.end_access();
    assert_eq!(content(&store, "x").await.unwrap(), b"x");
    assert_eq!(content(&other, "x").await.unwrap(), b"x");
    assert_eq!(service.renewals.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_that_was_taken_away_asks_to_connect_again() {
    for opened in [stores::gdrive().await, stores::dropbox().await] {
        let (store, service) = (opened.a(), opened.service.clone().unwrap());
        store.write(&path("x"), Content::bytes("x")).await.unwrap();
        let tokens = service.tokens();
        service.revoke();
        let error = store.stat(&path("x")).await.unwrap_err();
        assert!(matches!(error, StorageError::Connect { .. }), "{error:?}");
        let said = format!("{error} {error:?}");
        assert!(said.contains("revoked") && said.contains("auralink files connect files"), "{said}");
        assert!(tokens.iter().all(|token| !said.contains(token)), "no token is told: {said}");
        // The person connects again, and it goes on.
        agree(&opened.store).await.unwrap();
        assert_eq!(content(&store, "x").await.unwrap(), b"x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_refuses_is_believed() {
    let opened = stores::gdrive().await;
    let service = opened.service.clone().unwrap();
    service.refuse_person.store(true, Ordering::Relaxed);
    let error = agree(&opened.store).await.unwrap_err();
    assert!(error.to_string().contains("access_denied"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_fails_is_tried_again_and_a_wrong_client_is_said() {
    let opened = stores::dropbox().await;
    let (store, service) = (opened.a(), opened.service.clone().unwrap());
    store.write(&path("x"), Content::bytes("x")).await.unwrap();
    service.end_access();
    service.fail("/token", [Fault::Status(503, None), Fault::Status(500, None)]);
    assert_eq!(content(&store, "x").await.unwrap(), b"x");
    let StoreConfig::Dropbox(mut config) = opened.config.clone() else { panic!("it is Dropbox") };
    config.app_secret = Some(secret_file(&opened.data, "wrong", "not-the-secret"));
    service.end_access();
    let error = opened.again(&StoreConfig::Dropbox(config)).of(&Default::default()).stat(&path("x")).await.unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }) && !error.to_string().contains("not-the-secret"), "{error}");
}
