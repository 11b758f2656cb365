//! One open collection: its file, its memory, and the thread that indexes. A write is in the file, then in memory, then acknowledged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Mutex;

use super::memory::{Entry, Memory};
use super::store::Store;
use super::{NAME, indexer};
use crate::vector::{Match, Query, Record, Selection, Spec, VectorError};

/// The collection.
#[derive(Debug)]
pub struct Open {
    /// As it was made.
    pub spec: Spec,
    /// Its file.
    pub store: Store,
    /// Held by a writer from beginning to end, so that memory has the order of the file, and by who reads the file into memory.
    turn: Mutex<()>,
    /// Nothing until first needed, and after a write whose end is not known.
    memory: RwLock<Option<Arc<Shared>>>,
}

/// What searches, writers and the indexer share.
#[derive(Debug)]
pub struct Shared {
    memory: RwLock<Memory>,
    indexing: AtomicBool,
    /// The collection is gone, or this memory is no longer its own: indexing ends.
    over: AtomicBool,
}

impl Shared {
    /// To look.
    pub fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change.
    pub fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether indexing should end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether nobody indexes; then the caller does.
    pub fn claim_indexing(&self) -> bool {
        !self.indexing.swap(true, Ordering::AcqRel)
    }

    /// The caller indexes no more.
    pub fn end_indexing(&self) {
        self.indexing.store(false, Ordering::Release);
    }
}

impl Open {
    /// Opens a collection's folder. Its records are read when they are first needed.
    pub async fn open(folder: &Path) -> Result<Self, VectorError> {
        let (store, spec) = Store::open(folder).await?;
        Ok(Self { spec, store, turn: Mutex::default(), memory: RwLock::default() })
    }

    fn loaded(&self) -> Option<Arc<Shared>> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, shared: Option<Arc<Shared>>) {
        let old = std::mem::replace(&mut *self.memory.write().unwrap_or_else(PoisonError::into_inner), shared);
        if let Some(old) = old {
            old.over.store(true, Ordering::Relaxed);
        }
    }

    /// The memory; for who has the turn.
    async fn load(&self) -> Result<Arc<Shared>, VectorError> {
        if let Some(shared) = self.loaded() {
            return Ok(shared);
        }
        let memory = RwLock::new(self.store.load(&self.spec).await?);
        let shared = Arc::new(Shared { memory, indexing: AtomicBool::new(false), over: AtomicBool::new(false) });
        self.set(Some(Arc::clone(&shared)));
        indexer::wake(&shared);
        Ok(shared)
    }

    /// The memory; for who only looks, and does not wait for writers.
    async fn shared(&self) -> Result<Arc<Shared>, VectorError> {
        match self.loaded() {
            Some(shared) => Ok(shared),
            None => {
                let _turn = self.turn.lock().await;
                self.load().await
            }
        }
    }

    /// Closes it: a write that goes on ends, nothing begins.
    pub async fn close(&self) {
        let _turn = self.turn.lock().await;
        self.set(None);
        self.store.close().await;
    }

    /// Slots that are not in the graph yet.
    pub async fn tail(&self) -> Result<usize, VectorError> {
        let shared = self.shared().await?;
        let tail = shared.read().tail();
        Ok(tail)
    }

    /// Writes records.
    pub async fn upsert(&self, records: Vec<Record>) -> Result<(), VectorError> {
        let wrong = records.iter().find(|record| record.vector.len() != self.spec.dimension as usize);
        if let Some(record) = wrong {
            let (has, takes) = (record.vector.len(), self.spec.dimension);
            return Err(VectorError::Invalid(format!(
                "the record {:?} has {has} numbers: the collection has dimension {takes}",
                record.id
            )));
        }
        let _turn = self.turn.lock().await;
        let shared = self.load().await?;
        if let Err(why) = self.store.upsert(&records).await {
            self.set(None);
            return Err(why);
        }
        let mut kept = true;
        {
            let mut inside = shared.write();
            for record in records {
                let entry = Entry { id: record.id.into(), metadata: Arc::new(record.metadata), has_document: record.document.is_some() };
                kept &= inside.put(entry, &record.vector);
            }
        }
        if !kept {
            // All slot numbers were used up by rewriting: reading the file again gives each record one.
            self.set(None);
            return Ok(());
        }
        indexer::wake(&shared);
        Ok(())
    }

    /// Deletes records.
    pub async fn delete(&self, selection: Selection) -> Result<(), VectorError> {
        let _turn = self.turn.lock().await;
        let shared = self.load().await?;
        let ids: Vec<Arc<str>> = match selection {
            Selection::Ids(ids) => ids.into_iter().map(Into::into).collect(),
            Selection::Filter(filter) => shared.read().fitting(&filter),
        };
        if let Err(why) = self.store.delete(&ids).await {
            self.set(None);
            return Err(why);
        }
        let mut inside = shared.write();
        ids.iter().for_each(|id| inside.remove(id));
        drop(inside);
        indexer::wake(&shared);
        Ok(())
    }

    /// The nearest records.
    pub async fn query(&self, query: &Query) -> Result<Vec<Match>, VectorError> {
        let shared = self.shared().await?;
        let asked = query.clone();
        let found = tokio::task::spawn_blocking(move || shared.read().search(&asked.vector, asked.k, asked.filter.as_ref()));
        let found = found.await.map_err(|why| VectorError::Engine { engine: NAME, reason: format!("a search failed: {why}") })?;
        let wanted: Vec<&str> =
            found.iter().filter(|found| query.with_vectors || found.entry.has_document).map(|found| &*found.entry.id).collect();
        let mut kept: std::collections::HashMap<String, Record> = match wanted.is_empty() {
            true => Default::default(),
            false => self.store.get(&wanted).await?.into_iter().map(|record| (record.id.clone(), record)).collect(),
        };
        let metric = self.spec.metric;
        Ok(found
            .into_iter()
            .map(|found| {
                let kept = kept.remove(&*found.entry.id).unwrap_or_default();
                let vector = if query.with_vectors { kept.vector } else { Vec::new() };
                let record =
                    Record { id: found.entry.id.to_string(), vector, metadata: (*found.entry.metadata).clone(), document: kept.document };
                Match { record, score: metric.score(found.distance), distance: found.distance }
            })
            .collect())
    }
}
