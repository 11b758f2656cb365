//! What every engine promises.

use std::collections::BTreeSet;

use auralink_infrastructure::vector::metric::{dot, length, squared};
use auralink_infrastructure::vector::{Filter, Match, Metadata, Metric, Query, Record, Selection, Spec, Value, VectorError};

use crate::engines::Place;

/// Numbers without pattern, the same in every run.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f32 / (1u64 << 31) as f32) - 0.5
    }
}

pub fn record(id: &str, vector: Vec<f32>) -> Record {
    Record { id: id.to_owned(), vector, ..Record::default() }
}

fn with(id: &str, vector: Vec<f32>, metadata: &[(&str, Value)], document: Option<&str>) -> Record {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Record { id: id.to_owned(), vector, metadata, document: document.map(str::to_owned) }
}

fn nearest(vector: Vec<f32>, k: usize) -> Query {
    Query { vector, k, filter: None, with_vectors: false }
}

fn ids(found: &[Match]) -> Vec<&str> {
    found.iter().map(|found| found.record.id.as_str()).collect()
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn same_vector(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0))
}

pub async fn collections_are_made_listed_and_deleted(place: &Place) {
    let engine = &place.engine;
    assert!(engine.list(&place.tenant).await.unwrap().is_empty());
    let b = place.collection("b-2_x", 3, Metric::Euclidean).await;
    let a = place.collection("a", 5, Metric::Cosine).await;
    engine.upsert(&a, vec![record("1", vec![1.0; 5])]).await.unwrap();
    let listed = engine.list(&place.tenant).await.unwrap();
    assert_eq!(listed.iter().map(|collection| (&collection.address, collection.count)).collect::<Vec<_>>(), [(&a, 1), (&b, 0)]);
    assert_eq!(engine.describe(&b).await.unwrap().spec, Spec { dimension: 3, metric: Metric::Euclidean });
    let again = engine.create(&a, &Spec { dimension: 9, metric: Metric::Dot }).await;
    assert!(matches!(again, Err(VectorError::Exists(name)) if name == "a"));
    engine.destroy(&a).await.unwrap();
    assert!(matches!(engine.describe(&a).await, Err(VectorError::NotFound(_))));
    assert_eq!(engine.list(&place.tenant).await.unwrap().len(), 1);
    // The name can be used again, for something else.
    let a = place.collection("a", 2, Metric::Dot).await;
    assert_eq!(engine.describe(&a).await.unwrap().count, 0);
    engine.upsert(&a, vec![record("1", vec![1.0, 2.0])]).await.unwrap();
    assert_eq!(engine.get(&a, &owned(&["1"])).await.unwrap()[0].vector, [1.0, 2.0]);
}

pub async fn tenants_do_not_meet(place: &Place) {
    let other = Place { engine: place.engine.clone(), tenant: format!("{}-x", place.tenant).parse().unwrap() };
    let mine = place.collection("same", 2, Metric::Euclidean).await;
    let theirs = other.collection("same", 2, Metric::Euclidean).await;
    place.engine.upsert(&mine, vec![record("mine", vec![1.0, 0.0])]).await.unwrap();
    place.engine.upsert(&theirs, vec![record("theirs", vec![1.0, 0.0])]).await.unwrap();
    for (address, tenant, id) in [(&mine, &place.tenant, "mine"), (&theirs, &other.tenant, "theirs")] {
        assert_eq!(ids(&place.engine.query(address, &nearest(vec![1.0, 0.0], 5)).await.unwrap()), [id]);
        assert!(place.engine.get(address, &owned(&["mine", "theirs"])).await.unwrap().iter().all(|record| record.id == id));
        assert_eq!(place.engine.list(tenant).await.unwrap().len(), 1);
    }
    place.engine.destroy(&mine).await.unwrap();
    assert_eq!(place.engine.describe(&theirs).await.unwrap().count, 1);
}

pub async fn records_come_back_as_they_were_given(place: &Place) {
    let address = place.collection("records", 4, Metric::Cosine).await;
    let fields = [
        ("text", Value::Text("Grüße, \"世界\" \n 🎧".into())),
        ("whole", Value::Number(-7.0)),
        ("part", Value::Number(0.1)),
        ("yes", Value::Bool(true)),
        ("with space.and dot", Value::Text(String::new())),
    ];
    let given = vec![
        with("plain", vec![0.5, -2.0, 3.25, 1e-3], &fields, Some("a document, ünïcode")),
        with("日本語/id with spaces?&#%", vec![1.0, 0.0, 0.0, 0.0], &[], None),
        with("empty document", vec![0.0, 100.0, 0.0, 0.0], &[("a", Value::Number(1e15))], Some("")),
    ];
    place.engine.upsert(&address, given.clone()).await.unwrap();
    let asked = owned(&["empty document", "no such", "日本語/id with spaces?&#%", "plain"]);
    let got = place.engine.get(&address, &asked).await.unwrap();
    assert_eq!(got.len(), 3);
    for (got, given) in got.iter().rev().zip([0, 1, 2].map(|i| &given[i])) {
        assert_eq!((&got.id, &got.metadata, &got.document), (&given.id, &given.metadata, &given.document));
        assert!(same_vector(&given.vector, &got.vector), "{given:?} {got:?}");
    }
    let query = Query { with_vectors: true, ..nearest(given[0].vector.clone(), 1) };
    let found = place.engine.query(&address, &query).await.unwrap();
    assert_eq!((&found[0].record.metadata, &found[0].record.document), (&given[0].metadata, &given[0].document));
    assert!(same_vector(&given[0].vector, &found[0].record.vector));
    assert!(place.engine.query(&address, &nearest(given[0].vector.clone(), 1)).await.unwrap()[0].record.vector.is_empty());
}

pub async fn an_upsert_replaces_the_whole_record(place: &Place) {
    let address = place.collection("replace", 2, Metric::Euclidean).await;
    let old = with("x", vec![0.0, 0.0], &[("old", Value::Number(1.0)), ("both", Value::Text("a".into()))], Some("old"));
    let new = with("x", vec![5.0, 5.0], &[("both", Value::Number(2.0))], None);
    place.engine.upsert(&address, vec![old, record("y", vec![0.1, 0.0])]).await.unwrap();
    place.engine.upsert(&address, vec![new.clone()]).await.unwrap();
    assert_eq!(place.engine.describe(&address).await.unwrap().count, 2);
    assert_eq!(place.engine.get(&address, &owned(&["x"])).await.unwrap(), [new]);
    assert_eq!(ids(&place.engine.query(&address, &nearest(vec![0.0, 0.0], 2)).await.unwrap()), ["y", "x"]);
    for (filter, fits) in
        [(r#"{"old": 1}"#, 0), (r#"{"old": {"$exists": true}}"#, 0), (r#"{"both": "a"}"#, 0), (r#"{"both": {"$gt": 1}}"#, 1)]
    {
        let query = Query { filter: Some(Filter::parse_text(filter).unwrap()), ..nearest(vec![0.0, 0.0], 5) };
        assert_eq!(place.engine.query(&address, &query).await.unwrap().len(), fits, "{filter}");
    }
}

pub async fn deleting_by_ids_and_by_filter(place: &Place) {
    let address = place.collection("delete", 2, Metric::Euclidean).await;
    let records = (0..20).map(|i| with(&format!("r{i}"), vec![i as f32, 1.0], &[("even", Value::Bool(i % 2 == 0))], None)).collect();
    place.engine.upsert(&address, records).await.unwrap();
    place.engine.delete(&address, &Selection::Ids(owned(&["r0", "r1", "not there"]))).await.unwrap();
    place.engine.delete(&address, &Selection::Ids(Vec::new())).await.unwrap();
    assert_eq!(place.engine.describe(&address).await.unwrap().count, 18);
    place.engine.delete(&address, &Selection::Filter(Filter::parse_text(r#"{"even": true}"#).unwrap())).await.unwrap();
    let found = place.engine.query(&address, &nearest(vec![0.0, 1.0], 50)).await.unwrap();
    assert_eq!(ids(&found), ["r3", "r5", "r7", "r9", "r11", "r13", "r15", "r17", "r19"]);
    place.engine.upsert(&address, vec![record("r0", vec![0.0, 1.0])]).await.unwrap();
    assert_eq!(ids(&place.engine.query(&address, &nearest(vec![0.0, 1.0], 1)).await.unwrap()), ["r0"]);
}

pub async fn scores_are_exact_in_every_metric(place: &Place) {
    let mut next = noise(3);
    let mut vector = || (0..48).map(|_| next() * 4.0).collect::<Vec<f32>>();
    let stored: Vec<Vec<f32>> = (0..60).map(|_| vector()).collect();
    let query = vector();
    for (name, metric) in [("cos", Metric::Cosine), ("l2-", Metric::Euclidean), ("dot", Metric::Dot)] {
        let name = name.trim_end_matches('-');
        let address = place.collection(name, 48, metric).await;
        let records = stored.iter().enumerate().map(|(i, vector)| record(&i.to_string(), vector.clone())).collect();
        place.engine.upsert(&address, records).await.unwrap();
        let mut truth: Vec<(f32, String)> = stored.iter().enumerate().map(|(i, v)| (distance(metric, &query, v), i.to_string())).collect();
        truth.sort_by(|a, b| a.0.total_cmp(&b.0));
        let found = place.engine.query(&address, &nearest(query.clone(), 10)).await.unwrap();
        assert_eq!(ids(&found), truth[..10].iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), "{metric}");
        for (found, (distance, _)) in found.iter().zip(&truth) {
            assert!((found.distance - distance).abs() < 1e-4, "{metric}: {} is not {distance}", found.distance);
            assert!((found.score - metric.score(*distance)).abs() < 1e-4, "{metric}");
        }
    }
}

fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Cosine => (1.0 - f64::from(dot(a, b)) / (length(a) * length(b))) as f32,
        Metric::Euclidean => squared(a, b).sqrt(),
        Metric::Dot => -dot(a, b),
    }
}

pub async fn every_filter_gives_what_looking_at_each_gives(place: &Place) {
    let address = place.collection("filters", 2, Metric::Euclidean).await;
    let mut records = Vec::new();
    for i in 0..40u32 {
        let mut metadata = Metadata::from([("n".to_owned(), Value::Number(f64::from(i % 8)))]);
        match i % 4 {
            0 => _ = metadata.insert("v".into(), Value::Text("1".into())),
            1 => _ = metadata.insert("v".into(), Value::Number(1.0)),
            2 => _ = metadata.insert("v".into(), Value::Bool(true)),
            _ => {}
        }
        if i % 5 == 0 {
            metadata.insert("ключ 1.x".into(), Value::Text(["a", "ö 'x'"][i as usize % 2].into()));
        }
        records.push(Record { metadata, ..record(&format!("{i:02}"), vec![i as f32, 0.0]) });
    }
    place.engine.upsert(&address, records.clone()).await.unwrap();
    for text in [
        r#"{"n": 3}"#,
        r#"{"n": {"$ne": 3}}"#,
        r#"{"n": {"$gt": 3}}"#,
        r#"{"n": {"$gte": 3}}"#,
        r#"{"n": {"$lt": 3.5}}"#,
        r#"{"n": {"$lte": 0}}"#,
        r#"{"n": {"$gt": 2, "$lt": 6}}"#,
        r#"{"n": {"$in": [1, 7, 9]}}"#,
        r#"{"n": {"$nin": [1, 7, 9]}}"#,
        r#"{"v": "1"}"#,
        r#"{"v": 1}"#,
        r#"{"v": true}"#,
        r#"{"v": {"$ne": false}}"#,
        r#"{"v": {"$in": ["1", true]}}"#,
        r#"{"v": {"$nin": ["1", true, 1]}}"#,
        r#"{"v": {"$gte": 1}}"#,
        r#"{"$not": {"v": {"$gte": 1}}}"#,
        r#"{"v": {"$exists": true}}"#,
        r#"{"v": {"$exists": false}, "n": {"$lt": 4}}"#,
        r#"{"ключ 1.x": "ö 'x'"}"#,
        r#"{"ключ 1.x": {"$ne": "a"}}"#,
        r#"{"$or": [{"n": 1}, {"$and": [{"v": true}, {"n": {"$gt": 4}}]}, {"$not": {"$or": [{"n": {"$lt": 7}}, {"v": 1}]}}]}"#,
        r#"{"$not": {"$and": [{"n": {"$gte": 2}}, {"v": {"$exists": true}}]}}"#,
        r#"{"$and": [{"n": {"$gt": 1}}, {}]}"#,
        r#"{"$not": {}}"#,
        r#"{"nowhere": {"$exists": true}}"#,
        r#"{"nowhere": {"$nin": ["x"]}}"#,
    ] {
        let filter = Filter::parse_text(text).unwrap();
        let truth: Vec<&str> = records.iter().filter(|record| filter.fits(&record.metadata)).map(|record| record.id.as_str()).collect();
        let query = Query { filter: Some(filter), ..nearest(vec![0.0, 0.0], 100) };
        let found = place.engine.query(&address, &query).await.unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(ids(&found), truth, "{text}");
        if !truth.is_empty() {
            let found = place.engine.query(&address, &Query { k: 2, ..query }).await.unwrap();
            assert_eq!(ids(&found), truth[..truth.len().min(2)], "{text}");
        }
    }
}

pub async fn pages_have_every_record_once(place: &Place) {
    let address = place.collection("pages", 2, Metric::Euclidean).await;
    assert!(place.engine.page(&address, None, 10).await.unwrap().records.is_empty());
    let records: Vec<Record> =
        (0..45).map(|i| with(&format!("ид{i}"), vec![i as f32, 2.0], &[("i", Value::Number(i.into()))], Some("d"))).collect();
    place.engine.upsert(&address, records.clone()).await.unwrap();
    for limit in [7, 15, 45, 1_000] {
        let (mut from, mut all) = (None, Vec::new());
        loop {
            let page = place.engine.page(&address, from.as_deref(), limit).await.unwrap();
            assert!(page.records.len() <= limit);
            all.extend(page.records);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        all.sort_by_key(|record| record.vector[0] as u32);
        assert_eq!(all, records);
    }
    assert!(matches!(place.engine.page(&address, Some("\u{1}no page"), 5).await, Err(VectorError::Invalid(_)) | Ok(_)));
}

pub async fn a_big_batch_is_written_and_found(place: &Place) {
    let address = place.collection("big", 256, Metric::Cosine).await;
    let mut next = noise(9);
    let records: Vec<Record> = (0..1_000).map(|i| record(&format!("id-{i}"), (0..256).map(|_| next()).collect())).collect();
    place.engine.upsert(&address, records.clone()).await.unwrap();
    assert_eq!(place.engine.describe(&address).await.unwrap().count, 1_000);
    for probe in records.iter().step_by(199) {
        let found = place.engine.query(&address, &nearest(probe.vector.clone(), 3)).await.unwrap();
        assert_eq!((found.len(), &found[0].record.id), (3, &probe.id));
        assert!(found[0].distance < 1e-4);
    }
    assert_eq!(place.engine.query(&address, &nearest(records[0].vector.clone(), 1_000)).await.unwrap().len(), 1_000);
}

pub async fn writers_side_by_side_lose_nothing(place: &Place) {
    let address = place.collection("many", 8, Metric::Euclidean).await;
    let writers = (0..8).map(|writer| {
        let (engine, address) = (place.engine.clone(), address.clone());
        tokio::spawn(async move {
            for batch in 0..5 {
                let mut records: Vec<Record> = (0..20)
                    .map(|i| record(&format!("{writer}-{batch}-{i}"), vec![writer as f32, batch as f32, i as f32, 0.0, 0.0, 0.0, 0.0, 1.0]))
                    .collect();
                // One that all of them write, in an order that differs.
                records.insert(writer, record("shared", vec![writer as f32; 8]));
                engine.upsert(&address, records).await.unwrap();
                let own = engine.get(&address, &[format!("{writer}-{batch}-7")]).await.unwrap();
                assert_eq!(own.len(), 1, "what was acknowledged is seen");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(place.engine.describe(&address).await.unwrap().count, 801);
    let found = place.engine.query(&address, &nearest(vec![0.0; 8], 1_000)).await.unwrap();
    let distinct: BTreeSet<&str> = ids(&found).into_iter().collect();
    assert_eq!((found.len(), distinct.len()), (801, 801));
}

pub async fn what_is_not_there_is_told(place: &Place) {
    let address = place.address("nowhere");
    let engine = &place.engine;
    let not_found = |what: &str, result: Result<(), VectorError>| {
        assert!(matches!(&result, Err(VectorError::NotFound(name)) if name == "nowhere"), "{what}: {result:?}");
    };
    not_found("describe", engine.describe(&address).await.map(drop));
    not_found("destroy", engine.destroy(&address).await);
    not_found("upsert", engine.upsert(&address, vec![record("a", vec![1.0])]).await);
    not_found("delete", engine.delete(&address, &Selection::Ids(owned(&["a"]))).await);
    not_found("get", engine.get(&address, &owned(&["a"])).await.map(drop));
    not_found("query", engine.query(&address, &nearest(vec![1.0], 1)).await.map(drop));
    not_found("page", engine.page(&address, None, 1).await.map(drop));
    // The engine itself refuses a wrong dimension, should another server have made the collection anew.
    let address = place.collection("three", 3, Metric::Cosine).await;
    engine.upsert(&address, vec![record("a", vec![1.0, 2.0, 3.0])]).await.unwrap();
    assert!(engine.upsert(&address, vec![record("b", vec![1.0, 2.0])]).await.is_err());
    assert_eq!(engine.describe(&address).await.unwrap().count, 1);
}
