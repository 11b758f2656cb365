//! The engines under test, each with what keeps it alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::chroma::{Chroma, Remote};
use auralink_infrastructure::vector::embedded::Embedded;
use auralink_infrastructure::vector::pgvector::PgVector;
use auralink_infrastructure::vector::qdrant::Qdrant;
use auralink_infrastructure::vector::weaviate::Weaviate;
use auralink_infrastructure::vector::{Address, Engine, Metric, Spec};

use crate::{chroma_server, postgres, qdrant_stub, weaviate_server};

/// Longer than any healthy answer on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An engine and its guards.
pub struct Held {
    pub engine: Arc<dyn Engine>,
    _folder: Option<tempfile::TempDir>,
}

/// An engine and a tenant of the test's own: servers are shared between tests.
pub struct Place {
    pub engine: Arc<dyn Engine>,
    pub tenant: Tenant,
}

impl Held {
    pub fn place(&self) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tenant = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
        Place { engine: Arc::clone(&self.engine), tenant }
    }
}

impl Place {
    pub fn address(&self, name: &str) -> Address {
        Address::new(&self.tenant, name).unwrap()
    }

    pub async fn collection(&self, name: &str, dimension: u32, metric: Metric) -> Address {
        let address = self.address(name);
        self.engine.create(&address, &Spec { dimension, metric }).await.unwrap();
        address
    }
}

pub fn remote(url: String) -> Remote {
    Remote { url, token: None, timeout: PATIENCE }
}

pub async fn embedded() -> Held {
    let folder = tempfile::tempdir().unwrap();
    let engine = Arc::new(Embedded::open(folder.path()).unwrap());
    Held { engine, _folder: Some(folder) }
}

pub async fn chroma() -> Held {
    let url = chroma_server::shared().url();
    let engine = Arc::new(Chroma::new(remote(url), "default_tenant", "default_database").unwrap());
    Held { engine, _folder: None }
}

pub async fn pgvector() -> Held {
    let url = tokio::task::spawn_blocking(|| postgres::shared().database()).await.unwrap();
    let engine = Arc::new(PgVector::new(&Secret::new(url), PATIENCE).unwrap());
    Held { engine, _folder: None }
}

pub async fn weaviate() -> Held {
    let url = tokio::task::spawn_blocking(|| weaviate_server::shared().url()).await.unwrap();
    let engine = Arc::new(Weaviate::new(remote(url)).unwrap());
    Held { engine, _folder: None }
}

pub async fn qdrant() -> Held {
    let engine = Arc::new(Qdrant::new(remote(qdrant_stub::start().await)).unwrap());
    Held { engine, _folder: None }
}
