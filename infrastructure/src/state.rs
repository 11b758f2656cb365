//! Small documents that outlive the process: `(collection, key) -> JSON value, version`. SQLite in the data folder by default,
//! PostgreSQL by configuration; the queue's tables stand in the same schema.
//!
//! Place: under everything that must survive a restart. Rule: what a call has answered is on disk.

mod backup;
mod lock;
mod migrations;
mod postgres;
mod sqlite;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::secret::Secret;

pub use migrations::Migrated;
pub(crate) use postgres::PostgresState;
pub(crate) use sqlite::SqliteState;

/// Longest name of a collection or key, bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// Largest document, bytes of JSON. Larger things are files.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// Most documents that one call lists.
pub const MAX_LISTED: u32 = 10_000;

/// A document as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its name within the collection.
    pub key: String,
    /// What it says.
    pub value: Value,
    /// 1 at its making, one more with every change.
    pub version: u64,
}

/// What must be true of a document for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// There is none.
    Absent,
    /// It has this version.
    Version(u64),
}

/// The documents of one engine.
#[async_trait]
pub trait Documents: Send + Sync {
    /// Reads one.
    async fn get(&self, collection: &str, key: &str) -> Result<Option<Document>, StateError>;

    /// Writes one; on disk when it returns. Answers its new version.
    async fn put(&self, collection: &str, key: &str, value: &Value, expect: Expect) -> Result<u64, StateError>;

    /// Deletes one; whether it was there.
    async fn delete(&self, collection: &str, key: &str, expect: Expect) -> Result<bool, StateError>;

    /// At most `limit` documents whose keys begin with `prefix` and come after `after`, in the order of their keys (bytes).
    async fn list(&self, collection: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, StateError>;
}

/// Why state could not be read or changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// The document is not as expected: somebody changed it in between.
    #[error("{collection}/{key} was changed by another in between: read it again")]
    Conflict {
        /// Where.
        collection: String,
        /// Which.
        key: String,
    },
    /// What was asked for is outside the limits.
    #[error("{0}")]
    Invalid(String),
    /// Another server, or a restore, has the folder.
    #[error("{0}")]
    Locked(String),
    /// The schema is not this program's.
    #[error("{0}")]
    Schema(String),
    /// The disk is full, or the engine's own limit is reached: nothing was changed.
    #[error("{0}")]
    Full(String),
    /// The engine failed, refused, or is gone.
    #[error("{0}")]
    Engine(String),
}

impl StateError {
    /// An engine's error, told as what it means for who asked. URLs, which may hold passwords, are never part of sqlx's texts.
    pub(crate) fn of(what: &str, error: &sqlx::Error) -> Self {
        let full = match error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // SQLITE_FULL; disk_full, out_of_memory and such of PostgreSQL.
                Some("13") => true,
                Some(code) => code.starts_with("53"),
                None => false,
            },
            _ => false,
        };
        if full {
            return Self::Full(format!("{what}: the disk of the state is full ({error}): make room; nothing was changed"));
        }
        Self::Engine(format!("{what}: {error}"))
    }
}

/// Where state is kept.
#[derive(Debug, Clone)]
pub enum StateConfig {
    /// `auralink.db` in this folder, which is made when it is missing. One process at a time.
    Sqlite {
        /// The folder.
        folder: PathBuf,
    },
    /// A PostgreSQL database, for any number of servers.
    Postgres {
        /// `postgres://user:password@host:port/database`.
        url: Secret,
        /// Connections at once, at least 2.
        connections: u32,
    },
}

/// An open state. Clones are the same one.
#[derive(Clone)]
pub struct State {
    pub(crate) engine: Engine,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({})", self.engine_name())
    }
}

/// The engine of a [`State`].
#[derive(Clone)]
pub(crate) enum Engine {
    Sqlite(Arc<SqliteState>),
    Postgres(Arc<PostgresState>),
}

impl State {
    /// Opens the state and brings its schema up to date. A SQLite folder that another process has is refused with [`StateError::Locked`];
    /// a schema that is newer than this program, or was changed, with [`StateError::Schema`].
    pub async fn open(config: &StateConfig) -> Result<Self, StateError> {
        let engine = match config {
            StateConfig::Sqlite { folder } => Engine::Sqlite(Arc::new(SqliteState::open(folder).await?)),
            StateConfig::Postgres { url, connections } => Engine::Postgres(Arc::new(PostgresState::open(url, *connections).await?)),
        };
        Ok(Self { engine })
    }

    /// Brings the schema up to date without serving, and tells what was done.
    pub async fn migrate(config: &StateConfig) -> Result<Migrated, StateError> {
        match config {
            StateConfig::Sqlite { folder } => sqlite::migrate(folder).await,
            StateConfig::Postgres { url, .. } => postgres::migrate(url).await,
        }
    }

    /// Writes everything, as of one moment, into a new SQLite file. It may be taken beside a running server. `file` must not exist.
    pub async fn backup(config: &StateConfig, file: &Path) -> Result<(), StateError> {
        backup::backup(config, file).await
    }

    /// Puts a backup back, whichever engine it was made of. No server may run on a SQLite folder; a state that holds something is replaced only
    /// when `replace` says so (SQLite keeps the old file beside the new one). Jobs that were running then are queued again.
    pub async fn restore(config: &StateConfig, file: &Path, replace: bool) -> Result<(), StateError> {
        backup::restore(config, file, replace).await
    }

    /// `sqlite` or `postgres`.
    pub fn engine_name(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite(_) => "sqlite",
            Engine::Postgres(_) => "postgres",
        }
    }

    /// Writes what waits, and closes. Further calls fail.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.close().await,
            Engine::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// Names are plain texts of bounded length.
fn check_name(what: &str, name: &str) -> Result<(), StateError> {
    let fits = (1..=MAX_KEY_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    let shown = || name.chars().take(64).collect::<String>();
    if fits {
        Ok(())
    } else {
        Err(StateError::Invalid(format!("the {what} {:?} is not 1 to {MAX_KEY_BYTES} bytes without control characters", shown())))
    }
}

/// A value's text, if it is not too large.
fn checked_text(collection: &str, key: &str, value: &Value) -> Result<String, StateError> {
    let text = value.to_string();
    if text.len() > MAX_VALUE_BYTES {
        return Err(StateError::Invalid(format!(
            "{collection}/{key} has {} bytes: at most {MAX_VALUE_BYTES} are kept in a document",
            text.len()
        )));
    }
    Ok(text)
}

/// A row as a document.
fn document(key: String, text: &str, version: i64) -> Result<Document, StateError> {
    let value = serde_json::from_str(text).map_err(|error| StateError::Engine(format!("the document {key:?} is not JSON: {error}")))?;
    Ok(Document { key, value, version: u64::try_from(version).unwrap_or(0) })
}

/// The first text after all that begin with `prefix`, in the order of bytes; none when there is no end.
fn prefix_end(prefix: &str) -> Option<String> {
    // UTF-8 keeps the order of code points, so the last one that has a successor is raised.
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[async_trait]
impl Documents for State {
    async fn get(&self, collection: &str, key: &str) -> Result<Option<Document>, StateError> {
        check_name("collection", collection)?;
        check_name("key", key)?;
        let row = match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.get(collection, key).await?,
            Engine::Postgres(postgres) => postgres.get(collection, key).await?,
        };
        row.map(|(text, version)| document(key.to_owned(), &text, version)).transpose()
    }

    async fn put(&self, collection: &str, key: &str, value: &Value, expect: Expect) -> Result<u64, StateError> {
        check_name("collection", collection)?;
        check_name("key", key)?;
        let text = checked_text(collection, key, value)?;
        let version = match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.put(collection, key, text, expect).await?,
            Engine::Postgres(postgres) => postgres.put(collection, key, text, expect).await?,
        };
        version.ok_or_else(|| StateError::Conflict { collection: collection.to_owned(), key: key.to_owned() })
    }

    async fn delete(&self, collection: &str, key: &str, expect: Expect) -> Result<bool, StateError> {
        check_name("collection", collection)?;
        check_name("key", key)?;
        let deleted = match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.delete(collection, key, expect).await?,
            Engine::Postgres(postgres) => postgres.delete(collection, key, expect).await?,
        };
        deleted.ok_or_else(|| StateError::Conflict { collection: collection.to_owned(), key: key.to_owned() })
    }

    async fn list(&self, collection: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, StateError> {
        check_name("collection", collection)?;
        let after = after.unwrap_or("");
        let end = prefix_end(prefix);
        let rows = match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.list(collection, prefix, end, after, limit.min(MAX_LISTED)).await?,
            Engine::Postgres(postgres) => postgres.list(collection, prefix, end, after, limit.min(MAX_LISTED)).await?,
        };
        rows.into_iter().map(|(key, text, version)| document(key, &text, version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_comes_after_all_that_begin_with_it() {
        assert_eq!(prefix_end("a/"), Some("a0".into()));
        assert_eq!(prefix_end(""), None);
        assert_eq!(prefix_end("\u{10FFFF}"), None);
        assert_eq!(prefix_end("a\u{10FFFF}"), Some("b".into()));
        assert_eq!(prefix_end("\u{D7FF}"), Some("\u{E000}".into()));
    }
}
