//! State in a folder: `auralink.db` with a write-ahead log, `synchronous=FULL`, one writer, and readers beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::lock::FolderLock;
use super::migrations::{self, Migrated};
use super::writer::Writer;
use super::{Expect, StateError};

/// Readers at once.
const READERS: u32 = 4;

/// How long one waits for a lock of SQLite's own: a backup's short one, never another server's.
const BUSY: Duration = Duration::from_secs(10);

/// The file's name.
pub const FILE: &str = "auralink.db";

/// An open folder.
pub struct SqliteState {
    writer: std::sync::Mutex<Option<Writer>>,
    readers: SqlitePool,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How the file is opened, by whoever.
pub fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .statement_cache_capacity(100)
}

/// Makes the folder, for its owner alone.
pub fn make_folder(folder: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| StateError::Engine(format!("the state folder {} cannot be made: {error}", folder.display())))
}

/// Opens the file in the folder, which must be locked, and brings it up to date.
async fn up_to_date(folder: &Path) -> Result<(SqliteConnection, SqliteConnectOptions, Migrated), StateError> {
    let file = folder.join(FILE);
    let what = format!("the state {} cannot be opened", file.display());
    let options = options(&file).create_if_missing(true);
    let mut connection = options.connect().await.map_err(|error| StateError::of(&what, &error))?;
    let from = version(&mut connection).await.map_err(|error| StateError::of(&what, &error))?;
    migrations::sqlite().run_direct(None, &mut connection, false).await.map_err(|error| migrations::error(&error))?;
    Ok((connection, options, Migrated { from, to: migrations::newest() }))
}

/// The newest applied migration; 0 for none.
pub async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let table: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'").fetch_one(&mut *connection).await?;
    if table == 0 {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations").fetch_one(connection).await
}

/// `auralink migrate`.
pub async fn migrate(folder: &Path) -> Result<Migrated, StateError> {
    make_folder(folder)?;
    let _lock = FolderLock::take(folder)?;
    let (connection, _, migrated) = up_to_date(folder).await?;
    let _ = connection.close().await;
    Ok(migrated)
}

impl SqliteState {
    /// Takes the folder and opens it.
    pub async fn open(folder: &Path) -> Result<Self, StateError> {
        make_folder(folder)?;
        let lock = FolderLock::take(folder)?;
        let (mut connection, options, _) = up_to_date(folder).await?;
        abandoned(&mut connection).await.map_err(|error| StateError::of("jobs of the last run cannot be taken up", &error))?;
        let options = options.create_if_missing(false);
        // What the file is stands in the file: who only reads sets nothing.
        let reading = SqliteConnectOptions::new().filename(folder.join(FILE)).read_only(true).busy_timeout(BUSY);
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(reading);
        // The lock lives as long as somebody can write.
        let (writer, task) = Writer::start(connection, options, lock);
        Ok(Self { writer: std::sync::Mutex::new(Some(writer)), readers, task: Mutex::new(Some(task)) })
    }

    /// Changes go through here.
    pub fn writer(&self) -> Result<Writer, StateError> {
        let writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        writer.ok_or_else(|| StateError::Engine("the state is closed".into()))
    }

    /// For reading alone.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Writes what waits, closes, gives the folder back.
    pub async fn close(&self) {
        drop(self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        self.readers.close().await;
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }

    /// Text and version.
    pub async fn get(&self, collection: &str, key: &str) -> Result<Option<(String, i64)>, StateError> {
        sqlx::query_as("SELECT value, version FROM documents WHERE collection = ? AND key = ?")
            .bind(collection)
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| StateError::of("the state was not read", &error))
    }

    /// The new version; none when it is not as expected.
    pub async fn put(&self, collection: &str, key: &str, text: String, expect: Expect) -> Result<Option<u64>, StateError> {
        const ANY: &str = "INSERT INTO documents VALUES (?1, ?2, ?3, 1)
            ON CONFLICT DO UPDATE SET value = excluded.value, version = documents.version + 1 RETURNING version";
        const ABSENT: &str = "INSERT INTO documents VALUES (?1, ?2, ?3, 1) ON CONFLICT DO NOTHING RETURNING version";
        const VERSION: &str =
            "UPDATE documents SET value = ?3, version = version + 1 WHERE collection = ?1 AND key = ?2 AND version = ?4 RETURNING version";
        let (sql, expected) = match expect {
            Expect::Any => (ANY, None),
            Expect::Absent => (ABSENT, None),
            Expect::Version(version) => (VERSION, Some(i64::try_from(version).unwrap_or(i64::MAX))),
        };
        let (collection, key) = (collection.to_owned(), key.to_owned());
        let version: Option<i64> = self
            .writer()?
            .run(move |connection| {
                let mut query = sqlx::query_scalar(sql).bind(collection.clone()).bind(key.clone()).bind(text.clone());
                if let Some(version) = expected {
                    query = query.bind(version);
                }
                Box::pin(query.fetch_optional(connection))
            })
            .await?;
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
        let (collection, key) = (collection.to_owned(), key.to_owned());
        self.writer()?
            .run(move |connection| {
                let (collection, key) = (collection.clone(), key.clone());
                Box::pin(async move {
                    let deleted = sqlx::query("DELETE FROM documents WHERE collection = ?1 AND key = ?2 AND (?3 IS NULL OR version = ?3)")
                        .bind(&collection)
                        .bind(&key)
                        .bind(expected)
                        .execute(connection)
                        .await?
                        .rows_affected();
                    Ok(if deleted > 0 { Some(true) } else { expected.is_none().then_some(false) })
                })
            })
            .await
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
             WHERE collection = ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) AND key > ?4 ORDER BY key LIMIT ?5",
        )
        .bind(collection)
        .bind(prefix)
        .bind(end)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(|error| StateError::of("the state was not read", &error))
    }
}

/// The folder is ours, so nobody runs jobs of it: those that a crash left running are taken up at once, as if their leases had ended.
async fn abandoned(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE jobs SET lease = 0 WHERE state = 'running'").execute(connection).await.map(|_| ())
}

/// Where the file of a folder is.
pub fn file_of(folder: &Path) -> PathBuf {
    folder.join(FILE)
}
