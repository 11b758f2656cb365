//! A collection on disk: one SQLite file with a write-ahead log, `synchronous=FULL`. What a call acknowledged is in it; the rest of the
//! embedded engine can be made of it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::memory::{Entry, Memory};
use crate::vector::{Metadata, Page, Record, Spec, VectorError};

/// The file's name in the collection's folder.
const FILE: &str = "records.db";
/// Rows of one statement: each binds four values, and SQLite takes 32,766.
const ROWS: usize = 500;
/// Connections that read documents and pages, each with a thread; closed when idle.
const READERS: u32 = 4;

const SCHEMA: &str = "
    CREATE TABLE about (version INTEGER NOT NULL, dimension INTEGER NOT NULL, metric TEXT NOT NULL);
    CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, vector BLOB NOT NULL, metadata TEXT NOT NULL, document TEXT);
";

/// The file.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Store {
    /// Makes the file in an empty folder.
    pub async fn create(folder: &Path, spec: &Spec) -> Result<(), VectorError> {
        let store = Self::connect(folder, true);
        let made = async {
            let mut transaction = store.writer.begin().await?;
            sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
            let about = sqlx::query("INSERT INTO about VALUES (1, ?, ?)").bind(spec.dimension).bind(spec.metric.as_str());
            about.execute(&mut *transaction).await?;
            transaction.commit().await
        };
        let made = made.await.map_err(|why| store.failed(why));
        store.close().await;
        made
    }

    /// Opens the file and reads what the collection was made as.
    pub async fn open(folder: &Path) -> Result<(Self, Spec), VectorError> {
        let store = Self::connect(folder, false);
        let row =
            sqlx::query("SELECT version, dimension, metric FROM about").fetch_one(&store.reader).await.map_err(|why| store.failed(why))?;
        let (version, dimension, metric): (i64, u32, String) = (row.get(0), row.get(1), row.get(2));
        if version != 1 {
            return Err(store.broken(format!("it has version {version}, this server reads 1: use a newer server")));
        }
        let metric = metric.parse().map_err(|why: VectorError| store.broken(why.to_string()))?;
        Ok((store, Spec { dimension, metric }))
    }

    fn connect(folder: &Path, create: bool) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(FILE))
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30));
        let writer = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let idle = Some(Duration::from_secs(60));
        let reader = SqlitePoolOptions::new().max_connections(READERS).min_connections(0).idle_timeout(idle).connect_lazy_with(options);
        Self { folder: folder.to_owned(), writer, reader }
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Everything that memory holds.
    pub async fn load(&self, spec: &Spec) -> Result<Memory, VectorError> {
        let mut memory = Memory::new(spec);
        let mut rows = sqlx::query("SELECT id, vector, metadata, document IS NOT NULL FROM records ORDER BY seq").fetch(&self.reader);
        while let Some(row) = rows.try_next().await.map_err(|why| self.failed(why))? {
            let id: Arc<str> = row.get::<String, _>(0).into();
            let vector = numbers(row.get(1));
            if vector.len() != spec.dimension as usize {
                return Err(self.broken(format!("the record {id:?} has {} numbers, not {}", vector.len(), spec.dimension)));
            }
            let metadata = Arc::new(self.metadata(row.get(2))?);
            if !memory.put(Entry { id, metadata, has_document: row.get(3) }, &vector) {
                return Err(self.broken("it has more records than memory has slots".into()));
            }
        }
        Ok(memory)
    }

    /// How many records there are.
    pub async fn count(&self) -> Result<u64, VectorError> {
        let row = sqlx::query("SELECT count(*) FROM records").fetch_one(&self.reader).await.map_err(|why| self.failed(why))?;
        Ok(row.get::<i64, _>(0).unsigned_abs())
    }

    /// Writes records, all or none, durable when it returns.
    pub async fn upsert(&self, records: &[Record]) -> Result<(), VectorError> {
        let mut connection = self.writer.acquire().await.map_err(|why| self.failed(why))?;
        let written = upsert(&mut connection, records).await;
        self.end(connection, written).await
    }

    /// Deletes records, all or none, durable when it returns.
    pub async fn delete(&self, ids: &[Arc<str>]) -> Result<(), VectorError> {
        let mut connection = self.writer.acquire().await.map_err(|why| self.failed(why))?;
        let written = delete(&mut connection, ids).await;
        self.end(connection, written).await
    }

    /// After a failure the connection is closed, which rolls back what SQLite has not rolled back by itself: a full disk ends a transaction behind
    /// its owner's back, and the next one begins on a connection of which everything is known.
    async fn end(&self, connection: PoolConnection<Sqlite>, written: Result<(), sqlx::Error>) -> Result<(), VectorError> {
        let Err(why) = written else { return Ok(()) };
        let _ = connection.close().await;
        Err(self.failed(why))
    }

    /// The records of these ids, in any order.
    pub async fn get(&self, ids: &[&str]) -> Result<Vec<Record>, VectorError> {
        let mut records = Vec::with_capacity(ids.len());
        for ids in ids.chunks(ROWS) {
            let mut sql = QueryBuilder::<Sqlite>::new("SELECT id, vector, metadata, document, seq FROM records WHERE id IN (");
            let mut list = sql.separated(", ");
            ids.iter().for_each(|id| _ = list.push_bind(*id));
            sql.push(")");
            let rows = sql.build().persistent(false).fetch_all(&self.reader).await.map_err(|why| self.failed(why))?;
            for row in rows {
                records.push(self.record(&row)?);
            }
        }
        Ok(records)
    }

    /// A page in the order of first writing.
    pub async fn page(&self, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        let from: i64 = match from.map(str::parse) {
            None => 0,
            Some(Ok(from)) => from,
            Some(Err(_)) => return Err(VectorError::Invalid("that is no beginning of a page: give the `next` of the page before".into())),
        };
        let sql = "SELECT id, vector, metadata, document, seq FROM records WHERE seq > ? ORDER BY seq LIMIT ?";
        let rows = sqlx::query(sql).bind(from).bind(limit as i64).fetch_all(&self.reader).await.map_err(|why| self.failed(why))?;
        let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.get::<i64, _>(4).to_string());
        let records = rows.iter().map(|row| self.record(row)).collect::<Result<_, _>>()?;
        Ok(Page { records, next })
    }

    fn record(&self, row: &sqlx::sqlite::SqliteRow) -> Result<Record, VectorError> {
        Ok(Record { id: row.get(0), vector: numbers(row.get(1)), metadata: self.metadata(row.get(2))?, document: row.get(3) })
    }

    fn metadata(&self, json: &str) -> Result<Metadata, VectorError> {
        serde_json::from_str(json).map_err(|why| self.broken(format!("a record's metadata is no JSON: {why}")))
    }

    fn broken(&self, what: String) -> VectorError {
        let reason = format!("{}: {what}", self.folder.join(FILE).display());
        VectorError::Engine { engine: super::NAME, reason }
    }

    /// SQLite's words; a full disk is told apart.
    fn failed(&self, why: sqlx::Error) -> VectorError {
        // SQLITE_FULL, and what the write-ahead log and its index answer when the disk is full: IOERR_WRITE, IOERR_SHMSIZE, IOERR_FSYNC.
        let full = |code: &str| matches!(code, "13" | "778" | "4874" | "1034");
        if why.as_database_error().and_then(|why| why.code()).is_some_and(|code| full(&code)) {
            return VectorError::DiskFull { path: self.folder.display().to_string() };
        }
        self.broken(why.to_string())
    }
}

async fn upsert(connection: &mut SqliteConnection, records: &[Record]) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for rows in records.chunks(ROWS) {
        let mut sql = QueryBuilder::<Sqlite>::new("INSERT INTO records (id, vector, metadata, document) ");
        sql.push_values(rows, |mut row, record| {
            let metadata = serde_json::to_string(&record.metadata).expect("texts, finite numbers and booleans are JSON");
            row.push_bind(&record.id).push_bind(bytes(&record.vector)).push_bind(metadata).push_bind(&record.document);
        });
        sql.push(" ON CONFLICT (id) DO UPDATE SET vector = excluded.vector, metadata = excluded.metadata, document = excluded.document");
        sql.build().persistent(rows.len() == ROWS).execute(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(&mut *connection).await.map(drop)
}

async fn delete(connection: &mut SqliteConnection, ids: &[Arc<str>]) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for ids in ids.chunks(ROWS) {
        let mut sql = QueryBuilder::<Sqlite>::new("DELETE FROM records WHERE id IN (");
        let mut list = sql.separated(", ");
        ids.iter().for_each(|id| _ = list.push_bind(id.as_ref()));
        sql.push(")");
        sql.build().persistent(false).execute(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(&mut *connection).await.map(drop)
}

fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}
