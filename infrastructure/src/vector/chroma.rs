//! Chroma by its HTTP API v2 (trychroma.com, version 1). One collection of Chroma's for each of ours, `al.TENANT.NAME`, with Chroma's own
//! tenant and database as configured.
//!
//! What Chroma does otherwise, and what is done about it: an upsert keeps fields of metadata that are not named, so the fields a record had
//! are read first and named as null; a record without a document is sent an empty one and told apart by a field of ours; a filter cannot
//! negate or ask whether a field exists, so each field has a companion `al.t.FIELD` that holds its type.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::filter::Test;
pub use super::http::Remote;
use super::http::{Answer, Http};
use super::{Address, Collection, Engine, Filter, Match, Metadata, Metric, Page, Query, Record, Selection, Spec, Value, VectorError};
use crate::tenant::Tenant;

const NAME: &str = "chroma";
/// Whether a record has a document; each record has this field.
const HAS_DOCUMENT: &str = "al.document";
/// Before a field's name: the field that holds its type.
const TYPE_OF: &str = "al.t.";
/// Collections whose id is remembered.
const REMEMBERED: usize = 10_000;
/// Collections asked for at once.
const LISTED: usize = 1_000;

/// The engine.
#[derive(Debug)]
pub struct Chroma {
    http: Http,
    tenant: String,
    database: String,
    ids: Mutex<HashMap<Address, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    id: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Made {
    id: String,
    name: String,
    #[serde(default)]
    metadata: Option<Map<String, Json>>,
}

#[derive(Deserialize)]
struct Got {
    ids: Vec<String>,
    #[serde(default)]
    embeddings: Option<Vec<Option<Vec<f32>>>>,
    #[serde(default)]
    metadatas: Option<Vec<Option<Map<String, Json>>>>,
    #[serde(default)]
    documents: Option<Vec<Option<String>>>,
}

#[derive(Deserialize)]
struct Queried {
    ids: Vec<Vec<String>>,
    distances: Vec<Vec<f32>>,
    #[serde(default)]
    embeddings: Option<Vec<Vec<Option<Vec<f32>>>>>,
    metadatas: Vec<Vec<Option<Map<String, Json>>>>,
    documents: Vec<Vec<Option<String>>>,
}

impl Chroma {
    /// Speaks to a server. `tenant` and `database` are Chroma's own.
    pub fn new(remote: Remote, tenant: &str, database: &str) -> Result<Self, VectorError> {
        let http = Http::new(NAME, remote, "x-chroma-token")?;
        Ok(Self { http, tenant: tenant.to_owned(), database: database.to_owned(), ids: Mutex::default() })
    }

    async fn send(&self, method: Method, path: &[&str], query: &[(&str, &str)], body: Option<&Json>) -> Result<Answer, VectorError> {
        let mut all = vec!["api", "v2", "tenants", &self.tenant, "databases", &self.database, "collections"];
        all.extend(path);
        self.http.send(method, &all, query, body).await
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Known>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn known(&self, address: &Address) -> Result<Known, VectorError> {
        if let Some(known) = self.ids().get(address) {
            return Ok(known.clone());
        }
        let answer = self.send(Method::GET, &[&address.flat()], &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(VectorError::NotFound(address.name().to_owned()));
        }
        let made: Made = self.read(self.http.success(answer)?)?;
        let known = self.known_of(&made)?;
        let mut ids = self.ids();
        if ids.len() >= REMEMBERED {
            ids.clear();
        }
        ids.insert(address.clone(), known.clone());
        Ok(known)
    }

    fn known_of(&self, made: &Made) -> Result<Known, VectorError> {
        let field = |name: &str| made.metadata.as_ref().and_then(|metadata| metadata.get(name));
        let dimension = field("al.dimension").and_then(Json::as_u64).and_then(|dimension| u32::try_from(dimension).ok());
        let metric = field("al.metric").and_then(Json::as_str).and_then(|metric| metric.parse().ok());
        match (dimension, metric) {
            (Some(dimension), Some(metric)) => Ok(Known { id: made.id.clone(), spec: Spec { dimension, metric } }),
            _ => Err(self.http.engine_failed(format!("its collection {:?} was not made by AuraLink: rename it", made.name))),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, body: Json) -> Result<T, VectorError> {
        serde_json::from_value(body).map_err(|why| self.http.engine_failed(format!("its answer is not as documented: {why}")))
    }

    /// Posts to a collection by its id; asks for the id again once, when another server made the collection anew.
    async fn post(&self, address: &Address, what: &str, body: &Json) -> Result<Json, VectorError> {
        for again in [true, false] {
            let known = self.known(address).await?;
            let answer = self.send(Method::POST, &[&known.id, what], &[], Some(body)).await?;
            if answer.status == StatusCode::NOT_FOUND {
                self.ids().remove(address);
                if again {
                    continue;
                }
                return Err(VectorError::NotFound(address.name().to_owned()));
            }
            return self.http.success(answer);
        }
        unreachable!("the second round returns")
    }

    async fn count(&self, known: &Known) -> Result<u64, VectorError> {
        let answer = self.send(Method::GET, &[&known.id, "count"], &[], None).await?;
        self.read(self.http.success(answer)?)
    }

    fn records(&self, got: Got) -> Vec<Record> {
        let mut embeddings = got.embeddings.unwrap_or_default().into_iter();
        let mut metadatas = got.metadatas.unwrap_or_default().into_iter();
        let mut documents = got.documents.unwrap_or_default().into_iter();
        let mut next = |id| record(id, embeddings.next().flatten(), metadatas.next().flatten(), documents.next().flatten());
        got.ids.into_iter().map(&mut next).collect()
    }
}

fn record(id: String, vector: Option<Vec<f32>>, fields: Option<Map<String, Json>>, document: Option<String>) -> Record {
    let fields = fields.unwrap_or_default();
    let has_document = fields.get(HAS_DOCUMENT) == Some(&Json::Bool(true));
    let own = fields.into_iter().filter(|(key, _)| !key.starts_with("al."));
    let metadata: Metadata = own.filter_map(|(key, value)| Some((key, serde_json::from_value(value).ok()?))).collect();
    Record { id, vector: vector.unwrap_or_default(), metadata, document: document.filter(|_| has_document) }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "b",
        Value::Number(_) => "n",
        Value::Text(_) => "s",
    }
}

/// A record's fields as Chroma keeps them; those in `old` that it has no more are null.
fn fields(record: &Record, old: Option<&Map<String, Json>>) -> Json {
    let mut fields: Map<String, Json> = old.into_iter().flat_map(|old| old.keys()).map(|key| (key.clone(), Json::Null)).collect();
    for (key, value) in &record.metadata {
        fields.insert(key.clone(), json!(value));
        fields.insert(format!("{TYPE_OF}{key}"), json!(type_of(value)));
    }
    fields.insert(HAS_DOCUMENT.to_owned(), json!(record.document.is_some()));
    Json::Object(fields)
}

/// A filter as Chroma has them, or its opposite. Fields that are not there pass `$ne` and `$nin`.
fn condition(filter: &Filter, opposite: bool) -> Json {
    match filter {
        Filter::Not(part) => condition(part, !opposite),
        Filter::All(parts) => {
            join(if opposite { "$or" } else { "$and" }, parts.iter().map(|part| condition(part, opposite)).collect(), !opposite)
        }
        Filter::Any(parts) => {
            join(if opposite { "$and" } else { "$or" }, parts.iter().map(|part| condition(part, opposite)).collect(), opposite)
        }
        Filter::Field { key, test } => field(key, test, opposite),
    }
}

fn field(key: &str, test: &Test, opposite: bool) -> Json {
    let within = if opposite { "$nin" } else { "$in" };
    match test {
        Test::Exists => json!({format!("{TYPE_OF}{key}"): {within: ["b", "n", "s"]}}),
        Test::In(values) => {
            // Chroma's lists hold values of one type.
            let of = |kind| values.iter().filter(|value| type_of(value) == kind).collect::<Vec<_>>();
            let lists = ["b", "n", "s"].map(of).into_iter().filter(|values| !values.is_empty());
            join(if opposite { "$and" } else { "$or" }, lists.map(|values| json!({key: {within: values}})).collect(), opposite)
        }
        Test::Compare(comparison, number) if opposite => {
            json!({"$or": [{format!("{TYPE_OF}{key}"): {"$ne": "n"}}, {key: {comparison.opposite().operator(): number}}]})
        }
        Test::Compare(comparison, number) => json!({key: {comparison.operator(): number}}),
    }
}

/// Chroma joins two conditions and more; none at all is what `empty` says.
fn join(operator: &str, mut parts: Vec<Json>, empty: bool) -> Json {
    match parts.len() {
        0 => json!({HAS_DOCUMENT: {if empty { "$in" } else { "$nin" }: [true, false]}}),
        1 => parts.remove(0),
        _ => json!({operator: parts}),
    }
}

#[async_trait]
impl Engine for Chroma {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, address: &Address, spec: &Spec) -> Result<(), VectorError> {
        let space = match spec.metric {
            Metric::Cosine => "cosine",
            Metric::Euclidean => "l2",
            Metric::Dot => "ip",
        };
        let body = json!({
            "name": address.flat(),
            "metadata": {"al.dimension": spec.dimension, "al.metric": spec.metric},
            "configuration": {"hnsw": {"space": space}},
            "get_or_create": false,
        });
        let answer = self.send(Method::POST, &[], &[], Some(&body)).await?;
        if answer.status == StatusCode::CONFLICT {
            return Err(VectorError::Exists(address.name().to_owned()));
        }
        self.http.success(answer).map(drop)
    }

    async fn destroy(&self, address: &Address) -> Result<(), VectorError> {
        self.ids().remove(address);
        let answer = self.send(Method::DELETE, &[&address.flat()], &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(VectorError::NotFound(address.name().to_owned()));
        }
        self.http.success(answer).map(drop)
    }

    async fn list(&self, tenant: &Tenant) -> Result<Vec<Collection>, VectorError> {
        let mut collections = Vec::new();
        for offset in (0..).step_by(LISTED) {
            let query = [("limit", LISTED.to_string()), ("offset", offset.to_string())];
            let query = [(query[0].0, query[0].1.as_str()), (query[1].0, query[1].1.as_str())];
            let answer = self.send(Method::GET, &[], &query, None).await?;
            let listed: Vec<Made> = self.read(self.http.success(answer)?)?;
            let last = listed.len() < LISTED;
            for made in listed {
                let Some(address) = Address::of_flat(tenant, &made.name) else { continue };
                let known = self.known_of(&made)?;
                collections.push(Collection { address, count: self.count(&known).await?, spec: known.spec });
            }
            if last {
                break;
            }
        }
        collections.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(collections)
    }

    async fn describe(&self, address: &Address) -> Result<Collection, VectorError> {
        self.ids().remove(address);
        let known = self.known(address).await?;
        Ok(Collection { address: address.clone(), count: self.count(&known).await?, spec: known.spec })
    }

    async fn upsert(&self, address: &Address, records: Vec<Record>) -> Result<(), VectorError> {
        let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let had: Got = self.read(self.post(address, "get", &json!({"ids": ids, "include": ["metadatas"]})).await?)?;
        let old: HashMap<String, Map<String, Json>> =
            had.ids.into_iter().zip(had.metadatas.unwrap_or_default()).filter_map(|(id, fields)| Some((id, fields?))).collect();
        let body = json!({
            "ids": ids,
            "embeddings": records.iter().map(|record| &record.vector).collect::<Vec<_>>(),
            "metadatas": records.iter().map(|record| fields(record, old.get(&record.id))).collect::<Vec<_>>(),
            "documents": records.iter().map(|record| record.document.as_deref().unwrap_or_default()).collect::<Vec<_>>(),
        });
        self.post(address, "upsert", &body).await.map(drop)
    }

    async fn delete(&self, address: &Address, selection: &Selection) -> Result<(), VectorError> {
        let body = match selection {
            Selection::Ids(ids) if ids.is_empty() => return self.known(address).await.map(drop),
            Selection::Ids(ids) => json!({"ids": ids}),
            Selection::Filter(filter) => json!({"where": condition(filter, false)}),
        };
        self.post(address, "delete", &body).await.map(drop)
    }

    async fn get(&self, address: &Address, ids: &[String]) -> Result<Vec<Record>, VectorError> {
        if ids.is_empty() {
            return self.known(address).await.map(|_| Vec::new());
        }
        let body = json!({"ids": ids, "include": ["embeddings", "metadatas", "documents"]});
        let got = self.read(self.post(address, "get", &body).await?)?;
        Ok(super::in_order(ids, self.records(got)))
    }

    async fn query(&self, address: &Address, query: &Query) -> Result<Vec<Match>, VectorError> {
        let metric = self.known(address).await?.spec.metric;
        let mut include = vec!["distances", "metadatas", "documents"];
        if query.with_vectors {
            include.push("embeddings");
        }
        let mut body = json!({"query_embeddings": [query.vector], "n_results": query.k, "include": include});
        if let Some(filter) = &query.filter {
            body["where"] = condition(filter, false);
        }
        let mut found: Queried = self.read(self.post(address, "query", &body).await?)?;
        let mut vectors = found.embeddings.and_then(|mut lists| lists.pop()).unwrap_or_default().into_iter();
        let rows = found.ids.pop().unwrap_or_default().into_iter().zip(found.distances.pop().unwrap_or_default());
        let beside = found.metadatas.pop().unwrap_or_default().into_iter().zip(found.documents.pop().unwrap_or_default());
        let matches = rows.zip(beside).map(|((id, raw), (metadata, document))| {
            let distance = match metric {
                Metric::Cosine => raw.clamp(0.0, 2.0),
                Metric::Euclidean => raw.max(0.0).sqrt(),
                Metric::Dot => raw - 1.0,
            };
            Match { record: record(id, vectors.next().flatten(), metadata, document), score: metric.score(distance), distance }
        });
        Ok(matches.collect())
    }

    async fn page(&self, address: &Address, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        let offset: usize = from.map_or(Ok(0), str::parse).map_err(|_| super::no_page())?;
        let body = json!({"limit": limit, "offset": offset, "include": ["embeddings", "metadatas", "documents"]});
        let got: Got = self.read(self.post(address, "get", &body).await?)?;
        let records = self.records(got);
        let next = (records.len() == limit).then(|| (offset + limit).to_string());
        Ok(Page { records, next })
    }
}
