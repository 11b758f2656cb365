//! The engines that are servers, each asked by our adapter and, beside it, as plainly as its own interface allows.

use std::time::Duration;

use async_trait::async_trait;
use auralink_infrastructure::vector::Address;
use serde_json::{Value, json};
use sqlx::Row;

use super::Failure;
use super::data::K;

/// A client that does nothing but ask for the nearest and read their ids, metadata and documents.
#[async_trait]
pub trait Plain: Send {
    async fn nearest(&mut self, vector: &[f32]) -> Result<Vec<String>, Failure>;
}

pub struct Sqlx {
    pool: sqlx::PgPool,
    sql: String,
}

impl Sqlx {
    pub async fn new(url: &str) -> Result<Self, Failure> {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(url).await?;
        let table: i64 = sqlx::query("SELECT max(id) FROM auralink_vectors.collections").fetch_one(&pool).await?.get(0);
        sqlx::query("SET hnsw.ef_search = 100").execute(&pool).await?;
        let sql = format!(
            "SELECT id, metadata::text, document FROM auralink_vectors.c{table} ORDER BY embedding <=> $1::real[]::vector LIMIT {K}"
        );
        Ok(Self { pool, sql })
    }
}

#[async_trait]
impl Plain for Sqlx {
    async fn nearest(&mut self, vector: &[f32]) -> Result<Vec<String>, Failure> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(self.sql.as_str())).bind(vector).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| row.get::<String, _>(0)).collect())
    }
}

pub struct ChromaHttp {
    client: reqwest::Client,
    path: String,
}

impl ChromaHttp {
    pub async fn new(url: &str, address: &Address) -> Result<Self, Failure> {
        let base = format!("{url}/api/v2/tenants/default_tenant/databases/default_database/collections");
        let client = reqwest::Client::new();
        let made: Value = client.get(format!("{base}/{}", address.flat())).send().await?.json().await?;
        let path = format!("{base}/{}/query", made["id"].as_str().unwrap_or_default());
        Ok(Self { client, path })
    }
}

#[async_trait]
impl Plain for ChromaHttp {
    async fn nearest(&mut self, vector: &[f32]) -> Result<Vec<String>, Failure> {
        let body = json!({"query_embeddings": [vector], "n_results": K, "include": ["distances", "metadatas", "documents"]});
        let found: Value = self.client.post(&self.path).json(&body).send().await?.json().await?;
        Ok(found["ids"][0].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect())
    }
}

pub struct WeaviateHttp {
    client: reqwest::Client,
    url: String,
    class: String,
}

impl WeaviateHttp {
    pub async fn new(url: &str) -> Result<Self, Failure> {
        let client = reqwest::Client::new();
        let schema: Value = client.get(format!("{url}/v1/schema")).send().await?.json().await?;
        let class = schema["classes"][0]["class"].as_str().ok_or("it has one collection")?.to_owned();
        Ok(Self { client, url: format!("{url}/v1/graphql"), class })
    }
}

#[async_trait]
impl Plain for WeaviateHttp {
    async fn nearest(&mut self, vector: &[f32]) -> Result<Vec<String>, Failure> {
        let (class, vector) = (&self.class, serde_json::to_string(vector)?);
        let query = format!("{{Get{{{class}(limit: {K}, nearVector: {{vector: {vector}}}){{al_record_cosine _additional{{distance}}}}}}}}");
        let found: Value = self.client.post(&self.url).json(&json!({"query": query})).send().await?.json().await?;
        let objects = found["data"]["Get"][class].as_array().ok_or("it answers with objects")?;
        let id = |object: &Value| -> Result<String, Failure> {
            let record: Value = serde_json::from_str(object["al_record_cosine"].as_str().unwrap_or_default())?;
            Ok(record["id"].as_str().unwrap_or_default().to_owned())
        };
        objects.iter().map(id).collect()
    }
}

/// Longest time that one engine may take to be filled.
pub const PATIENCE: Duration = Duration::from_secs(240);
