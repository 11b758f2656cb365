//! Qdrant by its REST API (1.10 and later, for `points/query`), as documented at api.qdrant.tech. Its server is not to be had where this was
//! written: the conformance test runs against a strict stub of the documented requests and answers, not against Qdrant itself.
//!
//! One collection for each of ours, `al.TENANT.NAME`. Qdrant's points are called by numbers or UUIDs: ours by a UUID made of the id's hash,
//! with the id in the payload. It keeps vectors of cosine collections at length 1: the length they had is in the payload.

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::filter::{Comparison, Test};
use super::http::{Http, Remote};
use super::{
    Address, Collection, Engine, Filter, Match, Metadata, Metric, Page, Query, Record, Selection, Spec, Value, VectorError, metric,
};
use crate::tenant::Tenant;

const NAME: &str = "qdrant";

/// The engine.
#[derive(Debug)]
pub struct Qdrant {
    http: Http,
}

#[derive(Deserialize)]
struct Point {
    payload: Payload,
    #[serde(default)]
    vector: Option<Vec<f32>>,
    #[serde(default)]
    score: f32,
}

#[derive(Deserialize)]
struct Payload {
    id: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    document: Option<String>,
    #[serde(default)]
    length: Option<f64>,
}

impl Qdrant {
    /// Speaks to a server.
    pub fn new(remote: Remote) -> Result<Self, VectorError> {
        Ok(Self { http: Http::new(NAME, remote, "api-key")? })
    }

    /// A request about a collection; the `result` of its answer.
    async fn ask(
        &self,
        address: &Address,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Json>,
    ) -> Result<Json, VectorError> {
        let flat = address.flat();
        let mut all = vec!["collections", flat.as_str()];
        all.extend(path);
        let answer = self.http.send(method, &all, query, body).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(VectorError::NotFound(address.name().to_owned()));
        }
        Ok(self.http.success(answer)?["result"].take())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, body: Json) -> Result<T, VectorError> {
        serde_json::from_value(body).map_err(|why| self.http.engine_failed(format!("its answer is not as documented: {why}")))
    }

    async fn spec(&self, address: &Address) -> Result<Spec, VectorError> {
        let result = self.ask(address, Method::GET, &[], &[], None).await?;
        let vectors = &result["config"]["params"]["vectors"];
        let dimension = vectors["size"].as_u64().and_then(|size| u32::try_from(size).ok());
        let metric = match vectors["distance"].as_str() {
            Some("Cosine") => Some(Metric::Cosine),
            Some("Euclid") => Some(Metric::Euclidean),
            Some("Dot") => Some(Metric::Dot),
            _ => None,
        };
        match (dimension, metric) {
            (Some(dimension), Some(metric)) => Ok(Spec { dimension, metric }),
            _ => Err(self.http.engine_failed(format!("its collection {:?} was not made by AuraLink: rename it", address.flat()))),
        }
    }
}

/// A point's name: of two ids, the hashes differ.
fn point_id(id: &str) -> String {
    let hash = Sha256::digest(id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

fn record(point: Point) -> Record {
    let Payload { id, metadata, document, length } = point.payload;
    let mut vector = point.vector.unwrap_or_default();
    if let Some(length) = length {
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) * length) as f32);
    }
    Record { id, vector, metadata, document }
}

/// A filter as Qdrant has them.
fn condition(filter: &Filter) -> Json {
    match filter {
        Filter::Not(part) => json!({"must_not": [condition(part)]}),
        Filter::All(parts) => json!({"must": parts.iter().map(condition).collect::<Vec<_>>()}),
        // A list of none is no condition to Qdrant; to us nothing fits it.
        Filter::Any(parts) if parts.is_empty() => json!({"must_not": [{"must": []}]}),
        Filter::Any(parts) => json!({"should": parts.iter().map(condition).collect::<Vec<_>>()}),
        Filter::Field { key, test } => field(&format!("metadata.\"{key}\""), test),
    }
}

fn field(key: &str, test: &Test) -> Json {
    match test {
        Test::Exists => json!({"must_not": [{"is_empty": {"key": key}}]}),
        Test::In(values) => {
            let one = |value: &Value| match value {
                // Only integers can be matched: a range of one number is the same for all.
                Value::Number(number) => json!({"key": key, "range": {"gte": number, "lte": number}}),
                value => json!({"key": key, "match": {"value": value}}),
            };
            json!({"should": values.iter().map(one).collect::<Vec<_>>()})
        }
        Test::Compare(comparison, number) => {
            let bound = match comparison {
                Comparison::Greater => "gt",
                Comparison::GreaterOrSame => "gte",
                Comparison::Less => "lt",
                Comparison::LessOrSame => "lte",
            };
            json!({"must": [{"key": key, "range": {bound: number}}]})
        }
    }
}

#[async_trait]
impl Engine for Qdrant {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, address: &Address, spec: &Spec) -> Result<(), VectorError> {
        let distance = match spec.metric {
            Metric::Cosine => "Cosine",
            Metric::Euclidean => "Euclid",
            Metric::Dot => "Dot",
        };
        let body = json!({"vectors": {"size": spec.dimension, "distance": distance}});
        let answer = self.http.send(Method::PUT, &["collections", &address.flat()], &[], Some(&body)).await?;
        // Older servers say 400 where newer ones say 409.
        if answer.status == StatusCode::CONFLICT || answer.body.to_string().contains("already exists") {
            return Err(VectorError::Exists(address.name().to_owned()));
        }
        self.http.success(answer).map(drop)
    }

    async fn destroy(&self, address: &Address) -> Result<(), VectorError> {
        match self.ask(address, Method::DELETE, &[], &[], None).await? {
            Json::Bool(true) => Ok(()),
            _ => Err(VectorError::NotFound(address.name().to_owned())),
        }
    }

    async fn list(&self, tenant: &Tenant) -> Result<Vec<Collection>, VectorError> {
        let body = self.http.success(self.http.send(Method::GET, &["collections"], &[], None).await?)?;
        let names = body["result"]["collections"].as_array().into_iter().flatten().filter_map(|collection| collection["name"].as_str());
        let mut addresses: Vec<Address> = names.filter_map(|name| Address::of_flat(tenant, name)).collect();
        addresses.sort();
        let mut collections = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.describe(&address).await {
                Ok(collection) => collections.push(collection),
                // It was deleted in between.
                Err(VectorError::NotFound(_)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(collections)
    }

    async fn describe(&self, address: &Address) -> Result<Collection, VectorError> {
        let spec = self.spec(address).await?;
        let result = self.ask(address, Method::POST, &["points", "count"], &[], Some(&json!({"exact": true}))).await?;
        let count = result["count"].as_u64().ok_or_else(|| self.http.engine_failed("its count is no number".into()))?;
        Ok(Collection { address: address.clone(), spec, count })
    }

    async fn upsert(&self, address: &Address, records: Vec<Record>) -> Result<(), VectorError> {
        let cosine = self.spec(address).await?.metric == Metric::Cosine;
        let point = |record: &Record| {
            let mut payload = json!({"id": record.id, "metadata": record.metadata});
            if let Some(document) = &record.document {
                payload["document"] = json!(document);
            }
            if cosine {
                payload["length"] = json!(metric::length(&record.vector));
            }
            json!({"id": point_id(&record.id), "vector": record.vector, "payload": payload})
        };
        let body = json!({"points": records.iter().map(point).collect::<Vec<_>>()});
        // With `wait` it answers when the points are written and seen.
        self.ask(address, Method::PUT, &["points"], &[("wait", "true")], Some(&body)).await.map(drop)
    }

    async fn delete(&self, address: &Address, selection: &Selection) -> Result<(), VectorError> {
        let body = match selection {
            Selection::Ids(ids) => json!({"points": ids.iter().map(|id| point_id(id)).collect::<Vec<_>>()}),
            Selection::Filter(filter) => json!({"filter": {"must": [condition(filter)]}}),
        };
        self.ask(address, Method::POST, &["points", "delete"], &[("wait", "true")], Some(&body)).await.map(drop)
    }

    async fn get(&self, address: &Address, ids: &[String]) -> Result<Vec<Record>, VectorError> {
        let points: Vec<String> = ids.iter().map(|id| point_id(id)).collect();
        let body = json!({"ids": points, "with_payload": true, "with_vector": true});
        let points: Vec<Point> = self.read(self.ask(address, Method::POST, &["points"], &[], Some(&body)).await?)?;
        Ok(super::in_order(ids, points.into_iter().map(record).collect()))
    }

    async fn query(&self, address: &Address, query: &Query) -> Result<Vec<Match>, VectorError> {
        let metric = self.spec(address).await?.metric;
        let mut body = json!({"query": query.vector, "limit": query.k, "with_payload": true, "with_vector": query.with_vectors});
        if let Some(filter) = &query.filter {
            body["filter"] = json!({"must": [condition(filter)]});
        }
        let mut result = self.ask(address, Method::POST, &["points", "query"], &[], Some(&body)).await?;
        let points: Vec<Point> = self.read(result["points"].take())?;
        let found = points.into_iter().map(|point| {
            let distance = match metric {
                Metric::Cosine => (1.0 - point.score).clamp(0.0, 2.0),
                Metric::Euclidean => point.score,
                Metric::Dot => -point.score,
            };
            Match { record: record(point), score: metric.score(distance), distance }
        });
        Ok(found.collect())
    }

    async fn page(&self, address: &Address, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        let mut body = json!({"limit": limit, "with_payload": true, "with_vector": true});
        if let Some(from) = from {
            body["offset"] = json!(from.parse::<uuid::Uuid>().map_err(|_| super::no_page())?);
        }
        let mut result = self.ask(address, Method::POST, &["points", "scroll"], &[], Some(&body)).await?;
        let points: Vec<Point> = self.read(result["points"].take())?;
        let next = result["next_page_offset"].as_str().map(str::to_owned);
        Ok(Page { records: points.into_iter().map(record).collect(), next })
    }
}
