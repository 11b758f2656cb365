//! The vectors of all tenants: what may be asked, how much of it, and in whose name. Faces call this and nothing below it.

mod check;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Address, Collection, Engine, Filter, Match, Page, Query, Record, Selection, Spec, VectorError};
use crate::tenant::Tenant;

pub use check::check_key;
pub use check::record as check_record;

/// What one tenant may have and one call may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Collections of a tenant.
    pub collections: usize,
    /// Records of a collection.
    pub records: u64,
    /// Numbers of a vector.
    pub dimension: u32,
    /// Records of one upsert.
    pub batch: usize,
    /// Bytes of one upsert, counted as vectors, ids, metadata and documents.
    pub batch_bytes: usize,
    /// Bytes of a record's metadata as JSON.
    pub metadata_bytes: usize,
    /// Bytes of a record's document.
    pub document_bytes: usize,
    /// Matches of one query, and records of one page.
    pub answers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            collections: 100,
            records: 10_000_000,
            dimension: 4_096,
            batch: 1_000,
            batch_bytes: 32 << 20,
            metadata_bytes: 16 << 10,
            document_bytes: 64 << 10,
            answers: 1_000,
        }
    }
}

/// How old a collection's known count may be before a writer asks the engine again.
const FRESH: Duration = Duration::from_secs(10);
/// Collections whose shape is remembered; beyond it all are forgotten and asked for again.
const REMEMBERED: usize = 10_000;

struct Known {
    spec: Spec,
    count: u64,
    asked: Instant,
}

/// The vectors' service.
pub struct Vectors {
    engine: Arc<dyn Engine>,
    limits: Limits,
    known: Mutex<HashMap<Address, Known>>,
}

impl Vectors {
    /// Stands on an engine.
    pub fn new(engine: Arc<dyn Engine>, limits: Limits) -> Self {
        Self { engine, limits, known: Mutex::default() }
    }

    /// The engine's name.
    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// What is allowed.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Makes a collection.
    pub async fn create(&self, tenant: &Tenant, name: &str, spec: Spec) -> Result<Collection, VectorError> {
        let address = Address::new(tenant, name)?;
        if spec.dimension == 0 || spec.dimension > self.limits.dimension {
            return Err(VectorError::Invalid(format!("dimension {}: 1 to {} are taken", spec.dimension, self.limits.dimension)));
        }
        let have = self.engine.list(tenant).await?;
        if have.iter().any(|collection| collection.address == address) {
            return Err(VectorError::Exists(name.to_owned()));
        }
        if have.len() >= self.limits.collections {
            return Err(refused(format!("the tenant has {} collections, as many as it may: delete one", have.len())));
        }
        self.engine.create(&address, &spec).await?;
        Ok(Collection { address, spec, count: 0 })
    }

    /// Deletes a collection.
    pub async fn destroy(&self, tenant: &Tenant, name: &str) -> Result<(), VectorError> {
        let address = Address::new(tenant, name)?;
        self.known().remove(&address);
        let done = self.engine.destroy(&address).await;
        self.known().remove(&address);
        done
    }

    /// The tenant's collections, in the order of their names.
    pub async fn list(&self, tenant: &Tenant) -> Result<Vec<Collection>, VectorError> {
        self.engine.list(tenant).await
    }

    /// One collection.
    pub async fn describe(&self, tenant: &Tenant, name: &str) -> Result<Collection, VectorError> {
        self.engine.describe(&Address::new(tenant, name)?).await
    }

    /// Writes records, all or none; durable when it returns.
    pub async fn upsert(&self, tenant: &Tenant, name: &str, records: Vec<Record>) -> Result<(), VectorError> {
        let address = Address::new(tenant, name)?;
        let (spec, count) = self.shape(&address).await?;
        check::batch(&records, &spec, &self.limits)?;
        if records.is_empty() {
            return Ok(());
        }
        if count + records.len() as u64 > self.limits.records {
            return Err(refused(format!("{name:?} holds {count} records, and may hold {}: delete some first", self.limits.records)));
        }
        let many = records.len() as u64;
        self.engine.upsert(&address, records).await.inspect_err(|why| self.forget(&address, why))?;
        if let Some(known) = self.known().get_mut(&address) {
            known.count += many;
        }
        metrics::counter!("auralink_vectors_upserted_total").increment(many);
        Ok(())
    }

    /// Deletes records by their ids, or those that a filter fits. A filter that fits everything is refused.
    pub async fn delete(&self, tenant: &Tenant, name: &str, selection: Selection) -> Result<(), VectorError> {
        let address = Address::new(tenant, name)?;
        match &selection {
            Selection::Ids(ids) => check::ids(ids, &self.limits)?,
            Selection::Filter(filter) if filter.is_everything() => {
                return Err(VectorError::Invalid("the filter fits every record: delete the collection, or name what to delete".into()));
            }
            Selection::Filter(_) => {}
        }
        let done = self.engine.delete(&address, &selection).await;
        self.known().remove(&address);
        done
    }

    /// The records of these ids, in the order asked for; ids that are not there are passed over.
    pub async fn get(&self, tenant: &Tenant, name: &str, ids: &[String]) -> Result<Vec<Record>, VectorError> {
        let address = Address::new(tenant, name)?;
        check::ids(ids, &self.limits)?;
        self.engine.get(&address, ids).await
    }

    /// The nearest records, nearest first.
    pub async fn query(&self, tenant: &Tenant, name: &str, mut query: Query) -> Result<Vec<Match>, VectorError> {
        let address = Address::new(tenant, name)?;
        let (spec, _) = self.shape(&address).await?;
        if query.k == 0 || query.k > self.limits.answers {
            return Err(VectorError::Invalid(format!("k is {}: 1 to {} are taken", query.k, self.limits.answers)));
        }
        check::vector(&query.vector, &spec).map_err(|what| VectorError::Invalid(format!("the query's vector {what}")))?;
        query.filter = query.filter.filter(|filter| !Filter::is_everything(filter));
        let start = Instant::now();
        let found = self.engine.query(&address, &query).await.inspect_err(|why| self.forget(&address, why))?;
        metrics::histogram!("auralink_vectors_query_seconds").record(start.elapsed().as_secs_f64());
        Ok(found)
    }

    /// A page of at most `limit` records.
    pub async fn page(&self, tenant: &Tenant, name: &str, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        let address = Address::new(tenant, name)?;
        if limit == 0 || limit > self.limits.answers {
            return Err(VectorError::Invalid(format!("a page of {limit} records: 1 to {} are taken", self.limits.answers)));
        }
        if from.is_some_and(|from| from.len() > 1_024) {
            return Err(VectorError::Invalid("that is no beginning of a page: give the `next` of the page before".into()));
        }
        self.engine.page(&address, from, limit).await
    }

    /// A collection's shape and about how many records it has.
    async fn shape(&self, address: &Address) -> Result<(Spec, u64), VectorError> {
        if let Some(known) = self.known().get(address).filter(|known| known.asked.elapsed() < FRESH) {
            return Ok((known.spec.clone(), known.count));
        }
        let collection = self.engine.describe(address).await.inspect_err(|why| self.forget(address, why))?;
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(address.clone(), Known { spec: collection.spec.clone(), count: collection.count, asked: Instant::now() });
        Ok((collection.spec, collection.count))
    }

    fn forget(&self, address: &Address, why: &VectorError) {
        if matches!(why, VectorError::NotFound(_) | VectorError::Invalid(_) | VectorError::Exists(_)) {
            self.known().remove(address);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Known>> {
        // A map of plain values is whole between any two calls, also after a panic.
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn refused(what: String) -> VectorError {
    metrics::counter!("auralink_vectors_refused_total").increment(1);
    VectorError::Exhausted(what)
}
