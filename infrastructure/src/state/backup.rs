//! Everything of a state as one SQLite file, and back, between the engines too.
//!
//! Rule: a file appears under its name when it is whole and on disk; a state is replaced in one step, or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, SqliteConnection};

use super::lock::FolderLock;
use super::{StateConfig, StateError, migrations, postgres, sqlite};
use crate::secret::Secret;

/// Raises every fence, so that a worker that runs a job as of before the restore cannot finish it.
const FENCE_STEP: i64 = 1 << 32;

/// A table and its columns: `true` for a number.
type Table = (&'static str, &'static [(&'static str, bool)]);

const TABLES: [Table; 3] = [
    ("documents", &[("collection", false), ("key", false), ("value", false), ("version", true)]),
    (
        "jobs",
        &[
            ("id", false),
            ("tenant", false),
            ("kind", false),
            ("state", false),
            ("payload", false),
            ("priority", true),
            ("attempt", true),
            ("max_attempts", true),
            ("fence", true),
            ("due", true),
            ("lease", true),
            ("worker", false),
            ("cancelling", true),
            ("progress_done", true),
            ("progress_total", true),
            ("message", false),
            ("result", false),
            ("error", false),
            ("idempotency_key", false),
            ("created", true),
            ("started", true),
            ("finished", true),
        ],
    ),
    (
        "schedules",
        &[
            ("tenant", false),
            ("name", false),
            ("cron", false),
            ("kind", false),
            ("payload", false),
            ("priority", true),
            ("max_attempts", true),
            ("due", true),
        ],
    ),
];

fn failed(what: &'static str) -> impl Fn(sqlx::Error) -> StateError {
    move |error| StateError::of(what, &error)
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> StateError {
    move |error| StateError::Engine(format!("{what}: {error}"))
}

/// `name` with `suffix` after it.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// See [`super::State::backup`].
pub async fn backup(config: &StateConfig, file: &Path) -> Result<(), StateError> {
    if file.symlink_metadata().is_ok() {
        return Err(StateError::Invalid(format!("{} is there already: a backup is written to a new file", file.display())));
    }
    let part = beside(file, ".part");
    remove_database(&part);
    let written = match config {
        StateConfig::Sqlite { folder } => of_sqlite(folder, &part).await,
        StateConfig::Postgres { url, .. } => of_postgres(url, &part).await,
    };
    let named = written.and_then(|()| {
        sync(&part)?;
        // Not over a file that appeared in between.
        std::fs::hard_link(&part, file).map_err(io(format!("the backup cannot be given its name {}", file.display())))?;
        sync_folder_of(file)
    });
    remove_database(&part);
    named
}

async fn of_sqlite(folder: &Path, part: &Path) -> Result<(), StateError> {
    let source = sqlite::file_of(folder);
    if !source.exists() {
        return Err(StateError::Invalid(format!("there is no state in {}: nothing to back up", folder.display())));
    }
    let target = part.to_str().ok_or_else(|| StateError::Invalid(format!("{} is not UTF-8", part.display())))?;
    let mut connection = sqlite::options(&source).connect().await.map_err(failed("the state cannot be opened"))?;
    let done = sqlx::query("VACUUM INTO ?").bind(target).execute(&mut connection).await.map_err(failed("the backup was not written"));
    let _ = connection.close().await;
    done.map(|_| ())
}

async fn of_postgres(url: &Secret, part: &Path) -> Result<(), StateError> {
    let mut source = postgres::options(url)?.connect().await.map_err(failed("PostgreSQL cannot be reached"))?;
    let mut target = fresh(part).await?;
    let mut reading =
        source.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed("the state cannot be read"))?;
    let version: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut *reading)
        .await
        .map_err(failed("there is no state in this database, or it cannot be read"))?;
    if version != migrations::newest() {
        let newest = migrations::newest();
        return Err(StateError::Schema(format!(
            "the state's schema has version {version}, this AuraLink writes {newest}: run `auralink migrate` first"
        )));
    }
    let mut writing = target.begin().await.map_err(failed("the backup was not written"))?;
    for (table, columns) in TABLES {
        let (select, insert) = (select(table, columns), insert(table, columns, |n, _| format!("?{n}")));
        let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(&mut *reading);
        while let Some(row) = rows.try_next().await.map_err(failed("the state was not read"))? {
            let mut query = sqlx::query(AssertSqlSafe(insert.clone()));
            for (at, (_, number)) in columns.iter().enumerate() {
                query = match number {
                    true => query.bind(number_of_pg(&row, at)?),
                    false => query.bind(row.try_get::<Option<String>, _>(at).map_err(failed("the state was not read"))?),
                };
            }
            query.execute(&mut *writing).await.map_err(failed("the backup was not written"))?;
        }
    }
    writing.commit().await.map_err(failed("the backup was not written"))?;
    // One file: the log is folded into it.
    sqlx::raw_sql("PRAGMA journal_mode = DELETE").execute(&mut target).await.map_err(failed("the backup was not written"))?;
    target.close().await.map_err(failed("the backup was not written"))
}

fn number_of_pg(row: &PgRow, at: usize) -> Result<Option<i64>, StateError> {
    row.try_get(at).map_err(failed("the state was not read"))
}

fn select(table: &str, columns: &[(&str, bool)]) -> String {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    format!("SELECT {} FROM {table}", names.join(", "))
}

fn insert(table: &str, columns: &[(&str, bool)], place: impl Fn(usize, bool) -> String) -> String {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let places: Vec<_> = columns.iter().zip(1..).map(|((_, number), n)| place(n, *number)).collect();
    format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), places.join(", "))
}

/// A new SQLite file with this program's schema.
async fn fresh(file: &Path) -> Result<SqliteConnection, StateError> {
    let mut connection =
        sqlite::options(file).create_if_missing(true).connect().await.map_err(failed("the backup's file cannot be made"))?;
    migrations::sqlite().run_direct(None, &mut connection, false).await.map_err(|error| migrations::error(&error))?;
    Ok(connection)
}

/// See [`super::State::restore`].
pub async fn restore(config: &StateConfig, file: &Path, replace: bool) -> Result<(), StateError> {
    check(file).await?;
    match config {
        StateConfig::Sqlite { folder } => into_sqlite(file, folder, replace).await,
        StateConfig::Postgres { url, .. } => into_postgres(file, url, replace).await,
    }
}

/// Whether it is a whole backup, of this version or an older one.
async fn check(file: &Path) -> Result<(), StateError> {
    let not = |why: String| StateError::Invalid(format!("{} is not a backup of AuraLink's state: {why}", file.display()));
    if !file.is_file() {
        return Err(not("there is no such file".into()));
    }
    let options = SqliteConnectOptions::new().filename(file).read_only(true).immutable(true);
    let mut connection = options.connect().await.map_err(|error| not(error.to_string()))?;
    let sound: String =
        sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection).await.map_err(|error| not(error.to_string()))?;
    if sound != "ok" {
        return Err(not(format!("it is damaged ({sound})")));
    }
    let version = sqlite::version(&mut connection).await.map_err(|error| not(error.to_string()))?;
    let _ = connection.close().await;
    match version {
        0 => Err(not("it has no schema of AuraLink's".into())),
        version if version > migrations::newest() => Err(StateError::Schema(format!(
            "{} was made by a newer AuraLink (schema {version}, this one knows {})",
            file.display(),
            migrations::newest()
        ))),
        _ => Ok(()),
    }
}

/// A copy with the newest schema whose running jobs wait again.
async fn prepared(file: &Path, copy: &Path) -> Result<(), StateError> {
    remove_database(copy);
    std::fs::copy(file, copy).map_err(io(format!("{} cannot be copied to {}", file.display(), copy.display())))?;
    let mut connection = fresh(copy).await?;
    sqlx::query(
        "UPDATE jobs SET fence = fence + ?, state = CASE state WHEN 'running' THEN 'queued' ELSE state END, lease = 0, worker = ''",
    )
    .bind(FENCE_STEP)
    .execute(&mut connection)
    .await
    .map_err(failed("the backup cannot be prepared"))?;
    sqlx::raw_sql("PRAGMA journal_mode = DELETE").execute(&mut connection).await.map_err(failed("the backup cannot be prepared"))?;
    connection.close().await.map_err(failed("the backup cannot be prepared"))?;
    sync(copy)
}

fn holds(count: i64) -> StateError {
    StateError::Invalid(format!("the state holds {count} documents, jobs and schedules already: --replace puts the backup in their place"))
}

const COUNT: &str = "SELECT (SELECT COUNT(*) FROM documents) + (SELECT COUNT(*) FROM jobs) + (SELECT COUNT(*) FROM schedules)";

async fn into_sqlite(file: &Path, folder: &Path, replace: bool) -> Result<(), StateError> {
    sqlite::make_folder(folder)?;
    let _lock = FolderLock::take(folder)?;
    let target = sqlite::file_of(folder);
    let copy = beside(&target, ".restoring");
    prepared(file, &copy).await?;
    if target.exists() {
        let mut old = fresh(&target).await?;
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut old).await.map_err(failed("the old state cannot be read"))?;
        if count > 0 && !replace {
            remove_database(&copy);
            return Err(holds(count));
        }
        // Its log must not be taken for the new one's.
        sqlx::raw_sql("PRAGMA journal_mode = DELETE").execute(&mut old).await.map_err(failed("the old state cannot be closed"))?;
        old.close().await.map_err(failed("the old state cannot be closed"))?;
        if count > 0 {
            let kept = beside(&target, &format!(".before-restore-{}", chrono::Utc::now().timestamp_millis()));
            std::fs::hard_link(&target, &kept).map_err(io(format!("the old state cannot be kept as {}", kept.display())))?;
        }
    }
    std::fs::rename(&copy, &target).map_err(io(format!("the backup cannot be put at {}", target.display())))?;
    sync_folder_of(&target)
}

async fn into_postgres(file: &Path, url: &Secret, replace: bool) -> Result<(), StateError> {
    postgres::migrate(url).await?;
    let folder = std::env::temp_dir().join(format!("auralink-restore-{}", uuid::Uuid::new_v4()));
    sqlite::make_folder(&folder)?;
    let copy = sqlite::file_of(&folder);
    let done = async {
        prepared(file, &copy).await?;
        let mut source = sqlite::options(&copy).connect().await.map_err(failed("the backup cannot be read"))?;
        let mut target = postgres::options(url)?.connect().await.map_err(failed("PostgreSQL cannot be reached"))?;
        copy_into(&mut source, &mut target, replace).await
    }
    .await;
    remove_database(&copy);
    let _ = std::fs::remove_dir(&folder);
    done
}

async fn copy_into(source: &mut SqliteConnection, target: &mut PgConnection, replace: bool) -> Result<(), StateError> {
    let not_written = || failed("the state was not restored");
    let mut writing = target.begin().await.map_err(not_written())?;
    // Servers that run wait, and then see the other state.
    sqlx::raw_sql("LOCK TABLE documents, jobs, schedules IN ACCESS EXCLUSIVE MODE").execute(&mut *writing).await.map_err(not_written())?;
    let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *writing).await.map_err(not_written())?;
    if count > 0 && !replace {
        return Err(holds(count));
    }
    for (table, columns) in TABLES {
        sqlx::raw_sql(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *writing).await.map_err(not_written())?;
        let (select, insert) = (select(table, columns), insert(table, columns, |n, _| format!("${n}")));
        let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(&mut *source);
        while let Some(row) = rows.try_next().await.map_err(failed("the backup was not read"))? {
            let mut query = sqlx::query(AssertSqlSafe(insert.clone()));
            for (at, (_, number)) in columns.iter().enumerate() {
                query = match number {
                    true => query.bind(number_of_sqlite(&row, at)?),
                    false => query.bind(row.try_get::<Option<String>, _>(at).map_err(failed("the backup was not read"))?),
                };
            }
            query.execute(&mut *writing).await.map_err(not_written())?;
        }
    }
    writing.commit().await.map_err(not_written())
}

fn number_of_sqlite(row: &SqliteRow, at: usize) -> Result<Option<i64>, StateError> {
    row.try_get(at).map_err(failed("the backup was not read"))
}

fn sync(file: &Path) -> Result<(), StateError> {
    File::open(file).and_then(|open| open.sync_all()).map_err(io(format!("{} cannot be brought to disk", file.display())))
}

fn sync_folder_of(file: &Path) -> Result<(), StateError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    sync(folder)
}

/// A database's files, if they are there.
fn remove_database(file: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(beside(file, suffix));
    }
}
