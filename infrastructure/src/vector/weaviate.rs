//! Weaviate by its REST and GraphQL APIs (docs.weaviate.io, 1.33 and later, for the operator `ContainsNone`).
//!
//! One collection of Weaviate's for each of ours; its name holds the tenant and can be read back. Objects are called by UUIDs: ours by the
//! UUIDv5 of the record's id; the id, the metadata and the document stand in one property, whose name tells the metric, so that a question
//! to a collection that another server made anew with another metric is an error and not a wrong distance. Filters: see [`condition`].

mod condition;
mod name;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use self::name::{address_of, class_of, object_id};
use super::http::{Http, Remote};
use super::{Address, Collection, Engine, Filter, Match, Metadata, Metric, Page, Query, Record, Selection, Spec, Value, VectorError};
use crate::tenant::Tenant;

const NAME: &str = "weaviate";
/// Collections whose shape is remembered.
const REMEMBERED: usize = 10_000;

/// The engine.
#[derive(Debug)]
pub struct Weaviate {
    http: Http,
    known: Mutex<HashMap<Address, Known>>,
}

/// What is known of a collection.
#[derive(Debug, Clone)]
struct Known {
    spec: Spec,
    /// The properties that hold numbers.
    numbers: BTreeSet<String>,
}

/// What a collection's description says.
#[derive(Serialize, Deserialize)]
struct Described {
    dimension: u32,
    metric: Metric,
}

/// A record beside its vector, as the property holds it.
#[derive(Serialize, Deserialize)]
struct Body {
    id: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<String>,
}

#[derive(Deserialize)]
struct Class {
    class: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    properties: Vec<Property>,
}

#[derive(Deserialize)]
struct Property {
    name: String,
}

/// The property with the record.
fn body_of(metric: Metric) -> String {
    format!("al_record_{metric}")
}

impl Weaviate {
    /// Speaks to a server.
    pub fn new(remote: Remote) -> Result<Self, VectorError> {
        Ok(Self { http: Http::new(NAME, remote, "authorization")?, known: Mutex::default() })
    }

    fn all_known(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, body: Json) -> Result<T, VectorError> {
        serde_json::from_value(body).map_err(|why| self.http.engine_failed(format!("its answer is not as documented: {why}")))
    }

    fn known_of(&self, class: &Class) -> Result<Known, VectorError> {
        let Ok(Described { dimension, metric }) = serde_json::from_str(&class.description) else {
            return Err(self.http.engine_failed(format!("its collection {:?} was not made by AuraLink: rename it", class.class)));
        };
        let numbers = class.properties.iter().map(|property| property.name.clone()).filter(|name| name.starts_with("al_n_")).collect();
        Ok(Known { spec: Spec { dimension, metric }, numbers })
    }

    /// A collection as it is now.
    async fn ask(&self, address: &Address) -> Result<Known, VectorError> {
        let answer = self.http.send(Method::GET, &["v1", "schema", &class_of(address)], &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            self.all_known().remove(address);
            return Err(VectorError::NotFound(address.name().to_owned()));
        }
        let class: Class = self.read(self.http.success(answer)?)?;
        let known = self.known_of(&class)?;
        let mut all = self.all_known();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(address.clone(), known.clone());
        Ok(known)
    }

    /// A question in GraphQL that `text` makes of what is known. When the remembered shape leads to an error, the shape is asked for again.
    async fn question(
        &self,
        address: &Address,
        fresh: bool,
        text: impl Fn(&Known) -> String + Send + Sync,
    ) -> Result<(Known, Json), VectorError> {
        let remembered = if fresh { None } else { self.all_known().get(address).cloned() };
        if let Some(known) = remembered
            && let Ok(data) = self.data(&text(&known)).await?
        {
            return Ok((known, data));
        }
        let known = self.ask(address).await?;
        match self.data(&text(&known)).await? {
            Ok(data) => Ok((known, data)),
            Err(said) => Err(self.http.engine_failed(said)),
        }
    }

    /// The data that GraphQL answers, or what it says against the question.
    async fn data(&self, text: &str) -> Result<Result<Json, String>, VectorError> {
        let answer = self.http.send(Method::POST, &["v1", "graphql"], &[], Some(&json!({"query": text}))).await?;
        let mut body = self.http.success(answer)?;
        match body["errors"][0]["message"].as_str() {
            Some(said) => Ok(Err(said.chars().take(400).collect())),
            None => Ok(Ok(body["data"].take())),
        }
    }

    /// Whether a filter compares a field that is not known to hold numbers: another server may have written some.
    fn is_news(&self, address: &Address, filter: &Filter) -> bool {
        let mut fields = BTreeSet::new();
        condition::compared(filter, &mut fields);
        let all = self.all_known();
        fields.iter().any(|key| all.get(address).is_none_or(|known| !known.numbers.contains(&condition::number_of(key))))
    }

    /// Makes the properties for fields that hold a number for the first time.
    async fn make_numbers(&self, address: &Address, known: &Known, records: &[Record]) -> Result<(), VectorError> {
        let fields = records.iter().flat_map(|record| &record.metadata).filter(|(_, value)| matches!(value, Value::Number(_)));
        let wanted: BTreeSet<String> = fields.map(|(key, _)| condition::number_of(key)).collect();
        for name in wanted.difference(&known.numbers) {
            let body = json!({"name": name, "dataType": ["number"], "indexFilterable": true, "indexRangeFilters": true});
            let answer = self.http.send(Method::POST, &["v1", "schema", &class_of(address), "properties"], &[], Some(&body)).await?;
            // Another writer may have made it in between.
            if !answer.status.is_success() && !self.ask(address).await?.numbers.contains(name) {
                self.http.success(answer)?;
            }
        }
        Ok(())
    }

    async fn count(&self, address: &Address, class: &str) -> Result<u64, VectorError> {
        match self.data(&format!("{{Aggregate{{{class}{{meta{{count}}}}}}}}")).await? {
            Ok(data) => data["Aggregate"][class][0]["meta"]["count"]
                .as_u64()
                .ok_or_else(|| self.http.engine_failed("its count is no number".into())),
            Err(said) => match self.ask(address).await {
                Ok(_) => Err(self.http.engine_failed(said)),
                Err(why) => Err(why),
            },
        }
    }

    fn record(&self, body: &Json, vector: Json) -> Result<Record, VectorError> {
        let text = body.as_str().ok_or_else(|| self.http.engine_failed("an object has no record in it".into()))?;
        let Body { id, metadata, document } =
            serde_json::from_str(text).map_err(|why| self.http.engine_failed(format!("an object's record cannot be read: {why}")))?;
        let vector = if vector.is_null() { Vec::new() } else { self.read(vector)? };
        Ok(Record { id, vector, metadata, document })
    }
}

#[async_trait]
impl Engine for Weaviate {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, address: &Address, spec: &Spec) -> Result<(), VectorError> {
        let distance = match spec.metric {
            Metric::Cosine => "cosine",
            Metric::Euclidean => "l2-squared",
            Metric::Dot => "dot",
        };
        let described = Described { dimension: spec.dimension, metric: spec.metric };
        let body = json!({
            "class": class_of(address),
            "description": json!(described).to_string(),
            "vectorizer": "none",
            "vectorIndexType": "hnsw",
            // Newer servers quantize by default: distances would be estimates.
            "vectorIndexConfig": {"distance": distance, "skipDefaultQuantization": true},
            "properties": [
                {"name": body_of(spec.metric), "dataType": ["text"], "indexFilterable": false, "indexSearchable": false},
                {"name": condition::MARKS, "dataType": ["text[]"], "tokenization": "field", "indexFilterable": true, "indexSearchable": false},
            ],
        });
        let answer = self.http.send(Method::POST, &["v1", "schema"], &[], Some(&body)).await?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY && answer.body.to_string().contains("already exists") {
            return Err(VectorError::Exists(address.name().to_owned()));
        }
        self.http.success(answer).map(drop)
    }

    async fn destroy(&self, address: &Address) -> Result<(), VectorError> {
        // Weaviate deletes what is not there without a word.
        self.ask(address).await?;
        let answer = self.http.send(Method::DELETE, &["v1", "schema", &class_of(address)], &[], None).await?;
        self.all_known().remove(address);
        self.http.success(answer).map(drop)
    }

    async fn list(&self, tenant: &Tenant) -> Result<Vec<Collection>, VectorError> {
        let mut body = self.http.success(self.http.send(Method::GET, &["v1", "schema"], &[], None).await?)?;
        let classes: Vec<Class> = self.read(body["classes"].take())?;
        let mut collections = Vec::new();
        for class in classes {
            let Some(address) = address_of(tenant, &class.class) else { continue };
            let spec = self.known_of(&class)?.spec;
            match self.count(&address, &class.class).await {
                Ok(count) => collections.push(Collection { address, spec, count }),
                // It was deleted in between.
                Err(VectorError::NotFound(_)) => {}
                Err(why) => return Err(why),
            }
        }
        collections.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(collections)
    }

    async fn describe(&self, address: &Address) -> Result<Collection, VectorError> {
        let spec = self.ask(address).await?.spec;
        Ok(Collection { address: address.clone(), spec, count: self.count(address, &class_of(address)).await? })
    }

    async fn upsert(&self, address: &Address, records: Vec<Record>) -> Result<(), VectorError> {
        // Not from memory: Weaviate makes a collection that is not there out of the first object it gets.
        let known = self.ask(address).await?;
        if let Some(record) = records.iter().find(|record| record.vector.len() != known.spec.dimension as usize) {
            // Weaviate learns the dimension from the first vector only.
            let (has, takes) = (record.vector.len(), known.spec.dimension);
            return Err(VectorError::Invalid(format!("a vector has {has} numbers: the collection has dimension {takes}")));
        }
        self.make_numbers(address, &known, &records).await?;
        let (class, body) = (class_of(address), body_of(known.spec.metric));
        let object = |record: Record| {
            let mut properties = json!({condition::MARKS: condition::marks(&record.metadata)});
            for (key, value) in &record.metadata {
                if let Value::Number(number) = value {
                    properties[condition::number_of(key)] = json!(number);
                }
            }
            let id = object_id(&record.id);
            let text = json!(Body { id: record.id, metadata: record.metadata, document: record.document }).to_string();
            properties[body.as_str()] = Json::String(text);
            json!({"class": class, "id": id, "vector": record.vector, "properties": properties})
        };
        let batch = json!({"objects": records.into_iter().map(object).collect::<Vec<_>>()});
        let answer = self.http.success(self.http.send(Method::POST, &["v1", "batch", "objects"], &[], Some(&batch)).await?)?;
        // Each object has a result of its own.
        let refused = answer.as_array().into_iter().flatten().find_map(|object| object["result"]["errors"]["error"][0]["message"].as_str());
        match refused {
            Some(said) => {
                let said: String = said.chars().take(400).collect();
                Err(self.http.engine_failed(format!("it refuses a record, others of the batch may be written: {said}")))
            }
            None => Ok(()),
        }
    }

    async fn delete(&self, address: &Address, selection: &Selection) -> Result<(), VectorError> {
        let numbers = self.ask(address).await?.numbers;
        let condition = match selection {
            Selection::Ids(ids) if ids.is_empty() => return Ok(()),
            Selection::Ids(ids) => {
                let ids: Vec<String> = ids.iter().map(|id| object_id(id).to_string()).collect();
                json!({"path": ["id"], "operator": "ContainsAny", "valueTextArray": ids})
            }
            Selection::Filter(filter) => condition::condition(filter, &numbers),
        };
        let body = json!({"match": {"class": class_of(address), "where": condition}, "output": "minimal", "dryRun": false});
        loop {
            let answer = self.http.success(self.http.send(Method::DELETE, &["v1", "batch", "objects"], &[], Some(&body)).await?)?;
            let results = &answer["results"];
            let number = |name: &str| results[name].as_u64().unwrap_or_default();
            if number("failed") > 0 {
                return Err(self.http.engine_failed(format!("it could not delete {} records: repeat it", number("failed"))));
            }
            // One call deletes no more than the server's QUERY_MAXIMUM_RESULTS.
            if number("successful") == 0 || number("matches") < number("limit") {
                return Ok(());
            }
        }
    }

    async fn get(&self, address: &Address, ids: &[String]) -> Result<Vec<Record>, VectorError> {
        if ids.is_empty() {
            return self.ask(address).await.map(|_| Vec::new());
        }
        let class = class_of(address);
        let objects: Vec<String> = ids.iter().map(|id| object_id(id).to_string()).collect();
        let text = |known: &Known| {
            format!(
                "{{Get{{{class}(limit: {}, where: {{path: [\"id\"], operator: ContainsAny, valueText: {}}}){{{} _additional{{vector}}}}}}}}",
                objects.len(),
                json!(objects),
                body_of(known.spec.metric),
            )
        };
        let (known, mut data) = self.question(address, false, text).await?;
        let objects: Vec<Json> = self.read(data["Get"][&class].take())?;
        let body = body_of(known.spec.metric);
        let record = |mut object: Json| {
            let vector = object["_additional"]["vector"].take();
            self.record(&object[&body], vector)
        };
        Ok(super::in_order(ids, objects.into_iter().map(record).collect::<Result<_, _>>()?))
    }

    async fn query(&self, address: &Address, query: &Query) -> Result<Vec<Match>, VectorError> {
        let class = class_of(address);
        let near = format!("limit: {}, nearVector: {{vector: {}}}", query.k, numbers(&query.vector));
        let more = if query.with_vectors { "distance vector" } else { "distance" };
        let text = |known: &Known| {
            let only = query.filter.as_ref().map(|filter| condition::condition(filter, &known.numbers));
            let only = only.map_or_else(String::new, |condition| format!(", where: {}", condition::graphql(&condition)));
            format!("{{Get{{{class}({near}{only}){{{} _additional{{{more}}}}}}}}}", body_of(known.spec.metric))
        };
        let fresh = query.filter.as_ref().is_some_and(|filter| self.is_news(address, filter));
        let (known, mut data) = self.question(address, fresh, text).await?;
        let metric = known.spec.metric;
        let objects: Vec<Json> = self.read(data["Get"][&class].take())?;
        let body = body_of(metric);
        let found = objects.into_iter().map(|mut object| {
            let raw: f32 = self.read(object["_additional"]["distance"].take())?;
            let distance = match metric {
                Metric::Cosine => raw.clamp(0.0, 2.0),
                Metric::Euclidean => raw.max(0.0).sqrt(),
                Metric::Dot => raw,
            };
            let vector = object["_additional"]["vector"].take();
            Ok(Match { record: self.record(&object[&body], vector)?, score: metric.score(distance), distance })
        });
        found.collect()
    }

    async fn page(&self, address: &Address, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        let after = from.map_or(Ok(uuid::Uuid::nil()), str::parse).map_err(|_| super::no_page())?;
        let body = body_of(self.ask(address).await?.spec.metric);
        let (class, limit_text, after) = (class_of(address), limit.to_string(), after.to_string());
        let query = [("class", class.as_str()), ("limit", limit_text.as_str()), ("after", after.as_str()), ("include", "vector")];
        let mut answer = self.http.success(self.http.send(Method::GET, &["v1", "objects"], &query, None).await?)?;
        let objects: Vec<Json> = self.read(answer["objects"].take())?;
        let next = objects.last().filter(|_| objects.len() == limit).and_then(|last| last["id"].as_str()).map(str::to_owned);
        let record = |mut object: Json| {
            let vector = object["vector"].take();
            self.record(&object["properties"][&body], vector)
        };
        Ok(Page { records: objects.into_iter().map(record).collect::<Result<_, _>>()?, next })
    }
}

/// A vector in GraphQL, each number as short as it can be told.
fn numbers(vector: &[f32]) -> String {
    serde_json::to_string(vector).unwrap_or_default()
}
