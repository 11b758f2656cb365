//! State in PostgreSQL, for any number of servers.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::migrations::{self, Migrated};
use super::{Expect, StateError};
use crate::secret::Secret;

/// How long a call waits for a connection before it says that the engine is gone.
const ACQUIRE: Duration = Duration::from_secs(10);

/// A pool of connections.
pub struct PostgresState {
    pool: PgPool,
}

/// What the URL says, and that a commit is on disk when it answers, whatever the role's or the database's default is.
pub fn options(url: &Secret) -> Result<PgConnectOptions, StateError> {
    // The parser's own words could hold the password.
    let wrong = |_| StateError::Invalid("the state's PostgreSQL URL is not of the form postgres://user:password@host:port/database".into());
    let options: PgConnectOptions = url.reveal().parse().map_err(wrong)?;
    Ok(options.options([("synchronous_commit", "on")]).application_name("auralink").statement_cache_capacity(200))
}

/// `auralink migrate`.
pub async fn migrate(url: &Secret) -> Result<Migrated, StateError> {
    let mut connection = options(url)?.connect().await.map_err(|error| StateError::of("PostgreSQL cannot be reached", &error))?;
    let table: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| StateError::of("the schema's version was not read", &error))?;
    let from = if table {
        sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| StateError::of("the schema's version was not read", &error))?
    } else {
        0
    };
    migrations::postgres().run_direct(None, &mut connection, false).await.map_err(|error| migrations::error(&error))?;
    let _ = connection.close().await;
    Ok(Migrated { from, to: migrations::newest() })
}

impl PostgresState {
    /// Connects and brings the schema up to date.
    pub async fn open(url: &Secret, connections: u32) -> Result<Self, StateError> {
        migrate(url).await?;
        let pool = PgPoolOptions::new().max_connections(connections.max(2)).acquire_timeout(ACQUIRE).connect_lazy_with(options(url)?);
        Ok(Self { pool })
    }

    /// The connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes them.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Text and version.
    pub async fn get(&self, collection: &str, key: &str) -> Result<Option<(String, i64)>, StateError> {
        sqlx::query_as("SELECT value, version FROM documents WHERE collection = $1 AND key = $2")
            .bind(collection)
            .bind(key)
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| StateError::of("the state was not read", &error))
    }

    /// The new version; none when it is not as expected.
    pub async fn put(&self, collection: &str, key: &str, text: String, expect: Expect) -> Result<Option<u64>, StateError> {
        const ANY: &str = "INSERT INTO documents VALUES ($1, $2, $3, 1)
            ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value, version = documents.version + 1 RETURNING version";
        const ABSENT: &str = "INSERT INTO documents VALUES ($1, $2, $3, 1) ON CONFLICT DO NOTHING RETURNING version";
        const VERSION: &str =
            "UPDATE documents SET value = $3, version = version + 1 WHERE collection = $1 AND key = $2 AND version = $4 RETURNING version";
        let (sql, expected) = match expect {
            Expect::Any => (ANY, None),
            Expect::Absent => (ABSENT, None),
            Expect::Version(version) => (VERSION, Some(i64::try_from(version).unwrap_or(i64::MAX))),
        };
        let mut query = sqlx::query_scalar(sql).bind(collection).bind(key).bind(text);
        if let Some(version) = expected {
            query = query.bind(version);
        }
        let version: Option<i64> =
            query.fetch_optional(&self.pool).await.map_err(|error| StateError::of("the state was not changed", &error))?;
        Ok(version.and_then(|version| u64::try_from(version).ok()))
    }

    /// Whether it was there; none when it is not as expected.
    pub async fn delete(&self, collection: &str, key: &str, expect: Expect) -> Result<Option<bool>, StateError> {
        if expect == Expect::Absent {
            return Ok(self.get(collection, key).await?.is_none().then_some(false));
        }
        let expected = match expect {
            Expect::Version(version) => Some(i64::try_from(version).unwrap_or(i64::MAX)),
            _ => None,
        };
        let deleted = sqlx::query("DELETE FROM documents WHERE collection = $1 AND key = $2 AND ($3::bigint IS NULL OR version = $3)")
            .bind(collection)
            .bind(key)
            .bind(expected)
            .execute(&self.pool)
            .await
            .map_err(|error| StateError::of("the state was not changed", &error))?
            .rows_affected();
        Ok(if deleted > 0 { Some(true) } else { expected.is_none().then_some(false) })
    }

    /// Keys, texts and versions.
    pub async fn list(
        &self,
        collection: &str,
        prefix: &str,
        end: Option<String>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<(String, String, i64)>, StateError> {
        sqlx::query_as(
            "SELECT key, value, version FROM documents
             WHERE collection = $1 AND key >= $2 AND ($3::text IS NULL OR key < $3) AND key > $4 ORDER BY key LIMIT $5",
        )
        .bind(collection)
        .bind(prefix)
        .bind(end)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StateError::of("the state was not read", &error))
    }
}
