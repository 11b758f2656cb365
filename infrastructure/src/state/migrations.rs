//! The schema's versions: embedded, checksummed, forward only. `_sqlx_migrations` in the database tells which were applied.

use std::borrow::Cow;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use super::StateError;

const SQLITE: [&str; 2] = [include_str!("migrations/sqlite_1_documents.sql"), include_str!("migrations/sqlite_2_queue.sql")];
const POSTGRES: [&str; 2] = [include_str!("migrations/postgres_1_documents.sql"), include_str!("migrations/postgres_2_queue.sql")];
const NAMES: [&str; 2] = ["documents", "queue"];

/// What `migrate` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version before; 0 for none.
    pub from: i64,
    /// And now.
    pub to: i64,
}

/// SQLite's.
pub fn sqlite() -> Migrator {
    migrator(&SQLITE)
}

/// PostgreSQL's.
pub fn postgres() -> Migrator {
    migrator(&POSTGRES)
}

/// The newest version that this program knows.
pub fn newest() -> i64 {
    i64::try_from(NAMES.len()).expect("there are a few")
}

fn migrator(texts: &'static [&'static str]) -> Migrator {
    let migrations =
        texts.iter().zip(NAMES).zip(1..).map(|((sql, name), version)| {
            Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, (*sql).into_sql_str(), false)
        });
    Migrator::with_migrations(migrations.collect())
}

/// What went wrong, in words.
pub fn error(error: &MigrateError) -> StateError {
    match error {
        MigrateError::VersionMissing(version) => StateError::Schema(format!(
            "the state's schema has version {version}, this AuraLink knows {} at most: a newer one made it. Run that, or restore a backup of this version's",
            newest()
        )),
        MigrateError::VersionMismatch(version) => StateError::Schema(format!(
            "the state's schema is not what this AuraLink made: the record of migration {version} was changed. Restore a backup"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            StateError::of("the state's schema cannot be brought up to date", error)
        }
        other => StateError::Schema(format!("the state's schema cannot be brought up to date: {other}")),
    }
}
