//! Services that hold back, fail, refuse, or are full of files.

use std::sync::atomic::Ordering;

use auralink_infrastructure::storage::{Content, StorageError, StoreConfig};

use crate::service::{Fault, secret_file};
use crate::stores::{self, Opened, content, names, noise, parts, path};

async fn services() -> [Opened; 2] {
    [stores::gdrive().await, stores::dropbox().await]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for() {
    for opened in services().await {
        let (store, service) = (opened.a(), opened.service.as_ref().unwrap());
        store.write(&path("file"), Content::bytes("here")).await.unwrap();
        service.fail("", [Fault::Status(429, Some(1)), Fault::Status(503, None), Fault::Status(500, None)]);
        assert_eq!(content(&store, "file").await.unwrap(), b"here", "{}", opened.store.kind());
        assert_eq!(service.faults_left(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_is_said() {
    for opened in services().await {
        let (store, service) = (opened.a(), opened.service.as_ref().unwrap());
        store.write(&path("file"), Content::bytes("here")).await.unwrap();
        // A service that asks for an hour is not waited for.
        service.fail("", [Fault::Status(429, Some(3_600))]);
        let error = store.stat(&path("file")).await.unwrap_err();
        assert!(matches!(error, StorageError::Busy { seconds: 3_600, .. }), "{error:?}");
        let before = service.requests.load(Ordering::Relaxed);
        service.fail("", vec![Fault::Status(500, None); 5]);
        let error = store.stat(&path("file")).await.unwrap_err();
        assert!(matches!(error, StorageError::Unavailable { .. }) && error.to_string().contains("500"), "{error}");
        assert_eq!(service.requests.load(Ordering::Relaxed) - before, 5, "a limited number of tries");
        // And then it goes on.
        assert_eq!(content(&store, "file").await.unwrap(), b"here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_failed_part() {
    for opened in services().await {
        let (store, service) = (opened.a(), opened.service.as_ref().unwrap());
        let bytes = noise(20 * 1024 * 1024, 11);
        // Each was taken by the service, whose answer was lost; the part is sent again.
        service.fail("/session/", [Fault::Status(503, None)]);
        service.fail("append_v2", [Fault::Cut(0), Fault::Status(500, None)]);
        store.write(&path("large"), parts(bytes.clone())).await.unwrap();
        assert!(content(&store, "large").await.unwrap() == bytes, "{}", opened.store.kind());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_entries_come_in_pages() {
    for opened in services().await {
        let store = opened.a();
        let service = opened.service.as_ref().unwrap();
        let seeded = reqwest::Client::new().post(format!("{}/seed", service.url)).bearer_auth(&service.tokens()[0]).send().await.unwrap();
        assert!(seeded.status().is_success());
        let (mut found, pages) = names(&store, "many", 1_000).await;
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 10_000, "{}", opened.store.kind());
        assert!(pages >= 10);
        let bad = store.browse(&path("many"), Some("0:no-such-mark"), 10).await.unwrap_err();
        assert!(matches!(bad, StorageError::PageMark), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_said_without_secrets() {
    let opened = stores::gdrive().await;
    let StoreConfig::Gdrive(mut config) = opened.config.clone() else { panic!("it is Drive") };
    // A port on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.api_url = format!("http://127.0.0.1:{port}");
    let store = opened.again(&StoreConfig::Gdrive(config)).of(&Default::default());
    let error = store.stat(&path("x")).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }) && error.to_string().contains("no connection"), "{error}");
    for token in opened.service.as_ref().unwrap().tokens() {
        assert!(!format!("{error} {error:?}").contains(&token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_refuses_a_wrong_key_and_says_so() {
    let opened = stores::s3().await;
    let StoreConfig::S3(right) = opened.config.clone() else { panic!("it is S3") };
    let wrong_secret = secret_file(&opened.data, "wrong", "not-the-secret");
    let mut config = right.clone();
    config.secret_access_key = wrong_secret;
    let store = opened.again(&StoreConfig::S3(config)).of(&Default::default());
    for error in [
        store.browse(&path(""), None, 10).await.unwrap_err(),
        store.write(&path("x"), Content::bytes("x")).await.unwrap_err(),
        store.stat(&path("x")).await.unwrap_err(),
    ] {
        assert!(matches!(error, StorageError::Denied { .. }), "{error:?}");
        let said = format!("{error} {error:?}");
        assert!(said.contains("secret_access_key") && !said.contains("not-the-secret"), "{said}");
    }
    let mut config = right.clone();
    config.bucket = "no-such-bucket".into();
    let error = opened.again(&StoreConfig::S3(config)).of(&Default::default()).browse(&path("a"), None, 10).await.unwrap_err();
    assert!(error.to_string().contains("no-such-bucket") || error.to_string().contains("NoSuchBucket"), "{error}");
    let mut config = right;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.endpoint = Some(format!("http://127.0.0.1:{port}"));
    let error = opened.again(&StoreConfig::S3(config)).of(&Default::default()).stat(&path("a")).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
}
