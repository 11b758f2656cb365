//! Engines that are absent, slow, that refuse, and that die half-way: a clear error each, and nothing acknowledged that is not there.

use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::chroma::{Chroma, Remote};
use auralink_infrastructure::vector::pgvector::PgVector;
use auralink_infrastructure::vector::qdrant::Qdrant;
use auralink_infrastructure::vector::transfer::Progress;
use auralink_infrastructure::vector::weaviate::Weaviate;
use auralink_infrastructure::vector::{Address, Engine, Limits, Metric, Spec, VectorError, Vectors};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::chroma_server::ChromaServer;
use crate::engines::remote;
use crate::process::free_port;

fn remotes(url: &str, timeout: Duration) -> Vec<Box<dyn Engine>> {
    let remote = || Remote { url: format!("http://{url}"), token: Some(Secret::new("s3cret-token")), timeout };
    vec![
        Box::new(Chroma::new(remote(), "t", "d").unwrap()),
        Box::new(Qdrant::new(remote()).unwrap()),
        Box::new(Weaviate::new(remote()).unwrap()),
        Box::new(PgVector::new(&Secret::new(format!("postgres://u:s3cret-token@{url}/d")), timeout).unwrap()),
    ]
}

fn address() -> Address {
    Address::new(&Tenant::default(), "c").unwrap()
}

#[tokio::test]
async fn an_absent_engine_is_named_with_what_to_do() {
    for engine in remotes(&format!("127.0.0.1:{}", free_port()), Duration::from_secs(2)) {
        let why = engine.describe(&address()).await.unwrap_err();
        assert!(matches!(why, VectorError::Unavailable { engine: name, .. } if name == engine.name()), "{why}");
        assert!(why.to_string().contains("start it") && !why.to_string().contains("s3cret"), "{why}");
    }
}

/// A server that answers each connection with these bytes and closes it, or never answers.
async fn server(answer: Option<&'static str>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            match answer {
                None => silent.push(stream),
                Some(answer) => {
                    let _ = stream.read(&mut [0; 4_096]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn a_slow_engine_is_given_up() {
    for engine in remotes(&server(None).await, Duration::from_millis(300)) {
        let why = engine.describe(&address()).await.unwrap_err();
        assert!(matches!(why, VectorError::Late { .. } | VectorError::Unavailable { .. }), "{}: {why}", engine.name());
    }
}

#[tokio::test]
async fn an_answer_that_ends_half_way_is_no_answer() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"result\": ";
    for engine in remotes(&server(Some(half)).await, Duration::from_secs(5)) {
        let why = engine.describe(&address()).await.unwrap_err();
        assert!(matches!(why, VectorError::Unavailable { .. } | VectorError::Engine { .. }), "{}: {why}", engine.name());
    }
}

/// An engine that sends us elsewhere is not followed: elsewhere may be a place that the server alone reaches, and would be given the token.
#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let moved: &'static str = Box::leak(
        format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/secret\r\ncontent-length: 0\r\n\r\n",
            elsewhere.local_addr().unwrap()
        )
        .into_boxed_str(),
    );
    for engine in remotes(&server(Some(moved)).await, Duration::from_secs(5)).into_iter().filter(|engine| engine.name() != "pgvector") {
        let why = engine.describe(&address()).await.unwrap_err();
        assert!(matches!(why, VectorError::Unavailable { .. } | VectorError::Engine { .. }), "{}: {why}", engine.name());
    }
    let came = tokio::time::timeout(Duration::from_millis(100), elsewhere.accept()).await;
    assert!(came.is_err(), "somebody followed");
}

#[tokio::test]
async fn a_refused_token_is_told_and_not_shown() {
    let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for engine in remotes(&server(Some(refused)).await, Duration::from_secs(5)).into_iter().take(3) {
        let why = engine.describe(&address()).await.unwrap_err().to_string();
        assert!(why.contains("vectors.token") && !why.contains("s3cret"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chroma_that_dies_under_writes_loses_none_it_acknowledged() {
    const RECORDS: usize = 20_000;
    let mut server = tokio::task::spawn_blocking(ChromaServer::start).await.unwrap();
    let engine = Chroma::new(remote(server.url()), "default_tenant", "default_database").unwrap();
    let (vectors, tenant) = (Vectors::new(Arc::new(engine), Limits::default()), Tenant::default());
    vectors.create(&tenant, "dies", Spec { dimension: 4, metric: Metric::Euclidean }).await.unwrap();
    let line = |i: usize| format!("{{\"id\": \"r{i}\", \"vector\": [{i}, 1, 2, 3], \"metadata\": {{\"i\": {i}}}}}\n");
    let lines: String = (0..RECORDS).map(line).collect();

    // It is killed when the third batch is acknowledged, while the fourth is on its way.
    let (kill, killed) = std::sync::mpsc::sync_channel(1);
    let killer = std::thread::spawn(move || {
        killed.recv().unwrap();
        server.kill();
        server
    });
    let mut tell = |progress: &Progress| {
        if progress.imported == 1_500 {
            kill.send(()).unwrap();
        }
        true
    };
    let stopped = vectors.import(&tenant, "dies", &mut lines.as_bytes(), 0, &mut tell).await.unwrap_err();
    let mut server = killer.join().unwrap();
    assert!(matches!(&stopped.why, VectorError::Unavailable { engine: "chroma", .. }), "{}", stopped.why);
    let progress = stopped.progress;
    assert!((1_500..RECORDS as u64).contains(&progress.imported) && progress.next_line == progress.imported, "{progress:?}");
    // As long as it is away, that is said, with what to do.
    let away = vectors.describe(&tenant, "dies").await.unwrap_err();
    assert!(matches!(&away, VectorError::Unavailable { .. }) && away.to_string().contains("start it"), "{away}");

    let server = tokio::task::spawn_blocking(move || (server.start_again(), server).1).await.unwrap();
    for from in (0..progress.imported).step_by(500) {
        let ids: Vec<String> = (from..progress.imported.min(from + 500)).map(|i| format!("r{i}")).collect();
        let found = vectors.get(&tenant, "dies", &ids).await.unwrap();
        assert_eq!(found.iter().map(|record| &record.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
        assert!(found.iter().zip(from..).all(|(record, i)| record.vector == [i as f32, 1.0, 2.0, 3.0]));
    }
    let done = vectors.import(&tenant, "dies", &mut lines.as_bytes(), progress.next_line, &mut |_| true).await.unwrap();
    assert_eq!((done.imported + progress.imported, done.rejected), (RECORDS as u64, 0));
    assert_eq!(vectors.describe(&tenant, "dies").await.unwrap().count, RECORDS as u64);
    drop(server);
}
