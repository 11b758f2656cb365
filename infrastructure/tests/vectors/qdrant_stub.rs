//! Qdrant's documented REST API (api.qdrant.tech, 1.15), as far as the adapter speaks it: strict about what it is asked, in memory. It stands
//! in for a server that is not to be had here; what Qdrant really does beside its documentation it cannot show.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Default)]
struct Collection {
    config: Value,
    points: BTreeMap<uuid::Uuid, (Vec<f32>, Value)>,
}

type Stub = Arc<Mutex<BTreeMap<String, Collection>>>;
type Answer = (StatusCode, Json<Value>);

/// Starts one; its URL.
pub async fn start() -> String {
    let router = Router::new()
        .route("/collections", get(list))
        .route("/collections/{name}", put(create).get(describe).delete(destroy))
        .route("/collections/{name}/points", put(upsert).post(retrieve))
        .route("/collections/{name}/points/delete", post(delete))
        .route("/collections/{name}/points/count", post(count))
        .route("/collections/{name}/points/query", post(query))
        .route("/collections/{name}/points/scroll", post(scroll))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
        .with_state(Stub::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn ok(result: Value) -> Answer {
    (StatusCode::OK, Json(json!({"result": result, "status": "ok", "time": 0.001})))
}

fn wrong(status: StatusCode, error: &str) -> Answer {
    (status, Json(json!({"status": {"error": error}, "time": 0.001})))
}

fn missing(name: &str) -> Answer {
    wrong(StatusCode::NOT_FOUND, &format!("Not found: Collection `{name}` doesn't exist!"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    vectors: Params,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    size: u32,
    distance: Distance,
}

#[derive(Deserialize, Debug)]
enum Distance {
    Cosine,
    Euclid,
    Dot,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    wait: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upsert {
    points: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    id: uuid::Uuid,
    vector: Vec<f32>,
    payload: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retrieve {
    ids: Vec<uuid::Uuid>,
    with_payload: bool,
    with_vector: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    points: Option<Vec<uuid::Uuid>>,
    filter: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    exact: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    query: Vec<f32>,
    limit: usize,
    filter: Option<Value>,
    with_payload: bool,
    with_vector: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scroll {
    limit: usize,
    offset: Option<uuid::Uuid>,
    with_payload: bool,
    with_vector: bool,
}

async fn list(State(stub): State<Stub>) -> Answer {
    ok(json!({"collections": stub.lock().unwrap().keys().map(|name| json!({"name": name})).collect::<Vec<_>>()}))
}

async fn create(State(stub): State<Stub>, Path(name): Path<String>, Json(body): Json<Create>) -> Answer {
    let mut stub = stub.lock().unwrap();
    if stub.contains_key(&name) {
        return wrong(StatusCode::CONFLICT, &format!("Wrong input: Collection `{name}` already exists!"));
    }
    let config = json!({"size": body.vectors.size, "distance": format!("{:?}", body.vectors.distance)});
    stub.insert(name, Collection { config, ..Collection::default() });
    ok(json!(true))
}

async fn describe(State(stub): State<Stub>, Path(name): Path<String>) -> Answer {
    match stub.lock().unwrap().get(&name) {
        Some(collection) => {
            ok(json!({"status": "green", "points_count": collection.points.len(), "config": {"params": {"vectors": collection.config}}}))
        }
        None => missing(&name),
    }
}

async fn destroy(State(stub): State<Stub>, Path(name): Path<String>) -> Answer {
    ok(json!(stub.lock().unwrap().remove(&name).is_some()))
}

async fn upsert(State(stub): State<Stub>, Path(name): Path<String>, Query(wait): Query<Wait>, Json(body): Json<Upsert>) -> Answer {
    assert!(wait.wait, "an upsert that does not wait is acknowledged before it is written");
    let mut stub = stub.lock().unwrap();
    let Some(collection) = stub.get_mut(&name) else { return missing(&name) };
    let size = collection.config["size"].as_u64().unwrap() as usize;
    if let Some(point) = body.points.iter().find(|point| point.vector.len() != size) {
        return wrong(
            StatusCode::BAD_REQUEST,
            &format!("Wrong input: Vector dimension error: expected dim: {size}, got {}", point.vector.len()),
        );
    }
    for point in body.points {
        let mut vector = point.vector;
        if collection.config["distance"] == "Cosine" {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|x| *x /= length);
        }
        collection.points.insert(point.id, (vector, point.payload));
    }
    ok(json!({"operation_id": 1, "status": "completed"}))
}

fn shown(id: &uuid::Uuid, vector: &[f32], payload: &Value, (with_payload, with_vector): (bool, bool)) -> Value {
    let mut point = json!({"id": id});
    if with_payload {
        point["payload"] = payload.clone();
    }
    if with_vector {
        point["vector"] = json!(vector);
    }
    point
}

async fn retrieve(State(stub): State<Stub>, Path(name): Path<String>, Json(body): Json<Retrieve>) -> Answer {
    let stub = stub.lock().unwrap();
    let Some(collection) = stub.get(&name) else { return missing(&name) };
    let found = body.ids.iter().filter_map(|id| collection.points.get_key_value(id));
    ok(found.map(|(id, (vector, payload))| shown(id, vector, payload, (body.with_payload, body.with_vector))).collect())
}

async fn delete(State(stub): State<Stub>, Path(name): Path<String>, Query(wait): Query<Wait>, Json(body): Json<Delete>) -> Answer {
    assert!(wait.wait && body.points.is_some() != body.filter.is_some());
    let mut stub = stub.lock().unwrap();
    let Some(collection) = stub.get_mut(&name) else { return missing(&name) };
    collection.points.retain(|id, (_, payload)| match (&body.points, &body.filter) {
        (Some(ids), _) => !ids.contains(id),
        (_, Some(filter)) => !fits(filter, payload),
        _ => true,
    });
    ok(json!({"operation_id": 2, "status": "completed"}))
}

async fn count(State(stub): State<Stub>, Path(name): Path<String>, Json(body): Json<Count>) -> Answer {
    assert!(body.exact);
    match stub.lock().unwrap().get(&name) {
        Some(collection) => ok(json!({"count": collection.points.len()})),
        None => missing(&name),
    }
}

async fn query(State(stub): State<Stub>, Path(name): Path<String>, Json(body): Json<Search>) -> Answer {
    let stub = stub.lock().unwrap();
    let Some(collection) = stub.get(&name) else { return missing(&name) };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let euclid = collection.config["distance"] == "Euclid";
    let score = |vector: &[f32]| match collection.config["distance"].as_str() {
        Some("Cosine") => dot(vector, &body.query) / dot(&body.query, &body.query).sqrt(),
        Some("Euclid") => vector.iter().zip(&body.query).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt(),
        _ => dot(vector, &body.query),
    };
    let points = collection.points.iter().filter(|(_, (_, payload))| body.filter.as_ref().is_none_or(|filter| fits(filter, payload)));
    let mut found: Vec<(f32, Value)> = points
        .map(|(id, (vector, payload))| {
            let mut point = shown(id, vector, payload, (body.with_payload, body.with_vector));
            let score = score(vector);
            point["score"] = json!(score);
            point["version"] = json!(1);
            (if euclid { score } else { -score }, point)
        })
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    ok(json!({"points": found.into_iter().take(body.limit).map(|(_, point)| point).collect::<Vec<_>>()}))
}

async fn scroll(State(stub): State<Stub>, Path(name): Path<String>, Json(body): Json<Scroll>) -> Answer {
    let stub = stub.lock().unwrap();
    let Some(collection) = stub.get(&name) else { return missing(&name) };
    let mut rest = collection.points.range(body.offset.unwrap_or_default()..);
    let with = (body.with_payload, body.with_vector);
    let points: Vec<Value> = rest.by_ref().take(body.limit).map(|(id, (vector, payload))| shown(id, vector, payload, with)).collect();
    ok(json!({"points": points, "next_page_offset": rest.next().map(|(id, _)| id)}))
}

/// Qdrant's filter: `must`, `should` and `must_not` of conditions; a condition is a filter again, `is_empty`, `match` or `range`.
fn fits(filter: &Value, payload: &Value) -> bool {
    let filter = filter.as_object().expect("a condition is an object");
    if let Some(key) = filter.get("is_empty") {
        assert_eq!(filter.len(), 1);
        return field(key["key"].as_str().unwrap(), payload).is_none();
    }
    if let Some(key) = filter.get("key") {
        assert_eq!(filter.len(), 2);
        let value = field(key.as_str().unwrap(), payload);
        if let Some(wanted) = filter.get("match") {
            assert!(wanted["value"].is_string() || wanted["value"].is_boolean() || wanted["value"].is_i64(), "no match for {wanted}");
            return value == Some(&wanted["value"]);
        }
        let Some(number) = value.and_then(Value::as_f64) else { return false };
        return filter["range"].as_object().unwrap().iter().all(|(bound, limit)| {
            let limit = limit.as_f64().unwrap();
            match bound.as_str() {
                "gt" => number > limit,
                "gte" => number >= limit,
                "lt" => number < limit,
                "lte" => number <= limit,
                other => panic!("no range has {other}"),
            }
        });
    }
    let list = |name: &str| filter.get(name).map(|list| list.as_array().expect("a list of conditions"));
    assert!(filter.keys().all(|key| ["must", "should", "must_not"].contains(&key.as_str())), "{filter:?}");
    list("must").is_none_or(|list| list.iter().all(|condition| fits(condition, payload)))
        && list("must_not").is_none_or(|list| !list.iter().any(|condition| fits(condition, payload)))
        && list("should").is_none_or(|list| list.is_empty() || list.iter().any(|condition| fits(condition, payload)))
}

/// `metadata."a name"`.
fn field<'a>(path: &str, payload: &'a Value) -> Option<&'a Value> {
    let key = path.strip_prefix("metadata.\"").and_then(|rest| rest.strip_suffix('"')).expect("a quoted key below metadata");
    payload["metadata"].get(key)
}
