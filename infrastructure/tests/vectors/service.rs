//! What the service refuses, with the place and the value that is wrong.

use std::sync::Arc;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::{Filter, Limits, Metric, Query, Record, Selection, Spec, Value, VectorError, Vectors};

use crate::promises::record;

async fn vectors(limits: Limits) -> (crate::engines::Held, Vectors, Tenant) {
    let held = crate::engines::embedded().await;
    let vectors = Vectors::new(Arc::clone(&held.engine), limits);
    let tenant = Tenant::default();
    vectors.create(&tenant, "c", Spec { dimension: 3, metric: Metric::Cosine }).await.unwrap();
    (held, vectors, tenant)
}

#[tokio::test]
async fn bad_records_are_refused_whole_with_the_place() {
    let (_held, vectors, tenant) = vectors(Limits::default()).await;
    let good = record("good", vec![1.0, 0.0, 0.0]);
    let text = |key: &str, value: &str| Record { metadata: [(key.to_owned(), Value::Text(value.to_owned()))].into(), ..good.clone() };
    let number = |number| Record { metadata: [("n".to_owned(), Value::Number(number))].into(), ..good.clone() };
    for (bad, says) in [
        (record("x", vec![1.0, 2.0]), "record 1 (id \"x\") has a vector that has 2 numbers: the collection has dimension 3"),
        (record("x", vec![1.0, f32::NAN, 0.0]), "holds NaN at index 1"),
        (record("x", vec![1.0, 0.0, f32::NEG_INFINITY]), "holds -inf at index 2"),
        (record("x", vec![1e30, 0.0, 0.0]), "at index 0: finite numbers up to"),
        (record("x", vec![0.0; 3]), "is zero, which has no direction"),
        (record("good", vec![1.0; 3]), "\"good\" stands twice"),
        (record("", vec![1.0; 3]), "id of 0 bytes"),
        (record(&"x".repeat(257), vec![1.0; 3]), "id of 257 bytes"),
        (record("a\nb", vec![1.0; 3]), "control character"),
        (Record { id: "x".into(), ..text("$gt", "v") }, "do not begin with"),
        (Record { id: "x".into(), ..text("k", &"v".repeat(20_000)) }, "bytes of metadata"),
        (Record { id: "x".into(), ..number(f64::INFINITY) }, "inf in the metadata field"),
        (Record { id: "x".into(), ..number(1e17) }, "integers up to 2^53"),
        (Record { id: "x".into(), document: Some("d".repeat(70_000)), ..good.clone() }, "document of 70000 bytes"),
    ] {
        let why = vectors.upsert(&tenant, "c", vec![good.clone(), bad]).await.unwrap_err();
        assert!(matches!(&why, VectorError::Invalid(what) if what.contains(says)), "{why}");
    }
    assert_eq!(vectors.describe(&tenant, "c").await.unwrap().count, 0, "not half a batch");
    let many = (0..1_001).map(|i| record(&i.to_string(), vec![1.0; 3])).collect();
    assert!(vectors.upsert(&tenant, "c", many).await.unwrap_err().to_string().contains("1001 records"));
}

#[tokio::test]
async fn bad_questions_are_refused() {
    let (_held, vectors, tenant) = vectors(Limits::default()).await;
    let query = |vector: Vec<f32>, k| Query { vector, k, filter: None, with_vectors: false };
    for (query, says) in [
        (query(vec![1.0; 2], 1), "the query's vector has 2 numbers"),
        (query(vec![f32::NAN; 3], 1), "holds NaN at index 0"),
        (query(vec![1.0; 3], 0), "k is 0"),
        (query(vec![1.0; 3], 1_001), "k is 1001"),
    ] {
        assert!(vectors.query(&tenant, "c", query).await.unwrap_err().to_string().contains(says), "{says}");
    }
    let everything = Selection::Filter(Filter::parse_text("{}").unwrap());
    assert!(vectors.delete(&tenant, "c", everything).await.unwrap_err().to_string().contains("every record"));
    assert!(
        vectors.create(&tenant, "c", Spec { dimension: 0, metric: Metric::Dot }).await.unwrap_err().to_string().contains("dimension 0")
    );
    assert!(
        vectors.create(&tenant, "C!", Spec { dimension: 1, metric: Metric::Dot }).await.unwrap_err().to_string().contains("cannot name")
    );
    assert!(matches!(vectors.describe(&"other".parse().unwrap(), "c").await, Err(VectorError::NotFound(_))));
}

#[tokio::test]
async fn a_tenant_has_no_more_than_its_quota() {
    let (_held, vectors, tenant) = vectors(Limits { collections: 2, records: 3, ..Limits::default() }).await;
    let spec = Spec { dimension: 3, metric: Metric::Cosine };
    vectors.create(&tenant, "d", spec.clone()).await.unwrap();
    assert!(matches!(vectors.create(&tenant, "e", spec.clone()).await, Err(VectorError::Exhausted(_))));
    vectors.create(&"other".parse().unwrap(), "e", spec).await.unwrap();
    let two = |from: u32| (from..from + 2).map(|i| record(&i.to_string(), vec![1.0; 3])).collect();
    vectors.upsert(&tenant, "c", two(0)).await.unwrap();
    assert!(matches!(vectors.upsert(&tenant, "c", two(2)).await, Err(VectorError::Exhausted(_))));
    vectors.delete(&tenant, "c", Selection::Ids(vec!["0".into()])).await.unwrap();
    vectors.upsert(&tenant, "c", two(2)).await.unwrap();
}
