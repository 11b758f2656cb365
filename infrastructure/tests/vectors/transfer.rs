//! Import and export as JSON lines.

use std::sync::Arc;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::transfer::Progress;
use auralink_infrastructure::vector::{Limits, Metric, Spec, VectorError, Vectors};
use tokio::io::{AsyncRead, BufReader, ReadBuf};

async fn vectors() -> (crate::engines::Held, Vectors, Tenant) {
    let held = crate::engines::embedded().await;
    let vectors = Vectors::new(Arc::clone(&held.engine), Limits::default());
    let tenant = Tenant::default();
    for name in ["c", "copy"] {
        vectors.create(&tenant, name, Spec { dimension: 2, metric: Metric::Euclidean }).await.unwrap();
    }
    (held, vectors, tenant)
}

fn line(i: usize) -> String {
    format!("{{\"id\": \"r{i}\", \"vector\": [{i}, 0.5], \"metadata\": {{\"i\": {i}}}, \"document\": \"text {i}\"}}\n")
}

#[tokio::test]
async fn what_is_exported_can_be_imported_again() {
    let (_held, vectors, tenant) = vectors().await;
    let lines: String = (0..1_234).map(line).collect();
    let mut told = Vec::new();
    let done = vectors.import(&tenant, "c", &mut lines.as_bytes(), 0, &mut |p: &Progress| (told.push(p.imported), true).1).await.unwrap();
    assert_eq!((done.imported, done.rejected, done.next_line), (1_234, 0, 1_234));
    assert_eq!(told, [500, 1_000, 1_234]);
    let mut out = Vec::new();
    assert_eq!(vectors.export(&tenant, "c", &mut out).await.unwrap(), 1_234);
    vectors.import(&tenant, "copy", &mut out.as_slice(), 0, &mut |_| true).await.unwrap();
    let mut again = Vec::new();
    vectors.export(&tenant, "copy", &mut again).await.unwrap();
    assert!(out == again && out.iter().filter(|byte| **byte == b'\n').count() == 1_234);
}

#[tokio::test]
async fn bad_lines_are_told_by_number_and_the_rest_goes_on() {
    let (_held, vectors, tenant) = vectors().await;
    let long = format!("{{\"id\": \"long\", \"document\": \"{}\"}}\n", "x".repeat(3 << 20));
    let lines = [
        line(0),
        "not json\n".into(),
        "\n".into(),
        "{\"id\": \"x\", \"vector\": [1]}\n".into(),
        "{\"id\": \"x\", \"vector\": [1, 2], \"colour\": 1}\n".into(),
        long,
        "{\"id\": \"x\", \"vector\": [1e39, 2]}\n".into(),
        line(7).trim_end().into(),
    ]
    .concat();
    let done = vectors.import(&tenant, "c", &mut lines.as_bytes(), 0, &mut |_| true).await.unwrap();
    assert_eq!((done.imported, done.rejected, done.next_line), (2, 5, 8));
    let errors: Vec<(u64, &str)> = done.errors.iter().map(|error| (error.line, error.reason.as_str())).collect();
    for ((line, reason), (number, says)) in
        errors.iter().zip([(2, "no record"), (4, "has 1 numbers"), (5, "unknown field `colour`"), (6, "longer than"), (7, "")])
    {
        assert!(*line == number && reason.contains(says), "{line}: {reason}");
    }
}

/// Lines that end in an error after so many bytes, as a network does.
struct Cut<'a>(&'a [u8]);

impl AsyncRead for Cut<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        let many = self.0.len().min(out.remaining());
        out.put_slice(&self.0[..many]);
        self.0 = &self.0[many..];
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_network_cut_leaves_whole_batches_and_the_line_to_resume_from() {
    let (_held, vectors, tenant) = vectors().await;
    let lines: String = (0..1_300).map(|i| if i == 200 { "bad\n".into() } else { line(i) }).collect();
    let half = lines.len() * 9 / 10;
    let stopped = vectors.import(&tenant, "c", &mut BufReader::new(Cut(&lines.as_bytes()[..half])), 0, &mut |_| true).await.unwrap_err();
    assert!(matches!(stopped.why, VectorError::Invalid(ref what) if what.contains("cannot be read on")));
    // 500 good ones and the bad one, then 500 more.
    assert_eq!((stopped.progress.imported, stopped.progress.rejected, stopped.progress.next_line), (1_000, 1, 1_001));
    assert_eq!(vectors.describe(&tenant, "c").await.unwrap().count, 1_000);
    let done = vectors.import(&tenant, "c", &mut lines.as_bytes(), stopped.progress.next_line, &mut |_| true).await.unwrap();
    assert_eq!((done.imported, done.rejected, done.next_line), (299, 0, 1_300));
    assert_eq!(vectors.describe(&tenant, "c").await.unwrap().count, 1_299);
}
