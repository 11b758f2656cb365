//! PostgreSQL with the extension pgvector (0.8 and later, for its iterative scans), by sqlx. A table for each collection in the schema
//! `auralink_vectors`, and one that lists them; up to 2,000 dimensions have an HNSW index, larger ones are looked at one by one.
//!
//! What is asked most costs one round trip: the settings of a usual search are the connection's, and where a collection lies is remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, Postgres, QueryBuilder, Row};
use tokio::sync::OnceCell;

use super::filter::Test;
use super::{Address, Collection, Engine, Filter, Match, Metadata, Metric, Page, Query, Record, Selection, Spec, VectorError};
use crate::secret::Secret;
use crate::tenant::Tenant;

const NAME: &str = "pgvector";
/// Connections to the database.
const CONNECTIONS: u32 = 8;
/// pgvector indexes no more dimensions than this.
const MAX_INDEXED: u32 = 2_000;
/// Candidates of a search; pgvector takes up to 1,000.
const EF_SEARCH: usize = 100;
/// Collections whose tables are remembered.
const REMEMBERED: usize = 4_096;
/// A connection that rested longer is tried before it is used: the database may have gone away.
const TRIED_AFTER: Duration = Duration::from_secs(1);

/// One at a time makes the schema, whoever starts first.
const SCHEMA: &str = "
    SELECT pg_advisory_xact_lock(4150219);
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE SCHEMA IF NOT EXISTS auralink_vectors;
    CREATE TABLE IF NOT EXISTS auralink_vectors.collections (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, name text NOT NULL,
        dimension integer NOT NULL, metric text NOT NULL, UNIQUE (tenant, name),
        relation text NOT NULL UNIQUE DEFAULT 'c' || replace(gen_random_uuid()::text, '-', ''));
";

/// The engine.
#[derive(Debug)]
pub struct PgVector {
    pool: PgPool,
    ready: OnceCell<()>,
    /// As last seen. A table's name is random, so it is used for one collection ever, also after a database was restored, and that one's dimension and metric do not change.
    tables: Mutex<HashMap<Address, Table>>,
    timeout: Duration,
}

/// A collection's table.
#[derive(Debug, Clone)]
struct Table {
    name: String,
    spec: Spec,
}

impl Table {
    fn operator(&self) -> &'static str {
        match self.spec.metric {
            Metric::Cosine => "<=>",
            Metric::Euclidean => "<->",
            Metric::Dot => "<#>",
        }
    }
}

impl PgVector {
    /// Speaks to the database of a URL (`postgres://USER:PASSWORD@HOST/DATABASE`), which is a secret. Connects when first used.
    pub fn new(url: &Secret, timeout: Duration) -> Result<Self, VectorError> {
        let wrong =
            |_| VectorError::Unavailable { engine: NAME, reason: "its url is no postgres:// URL: correct what vectors.url names".into() };
        let options: PgConnectOptions = url.reveal().parse().map_err(wrong)?;
        let settings = [("statement_timeout", timeout.as_millis().to_string())];
        let options = options.application_name("auralink-vectors").options(settings);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            // Here and not among the options, which a pooler in between may drop. Rolling back what was never begun is no news.
            .after_connect(|connection, _| {
                let settings =
                    format!("SET client_min_messages = error; SET hnsw.ef_search = {EF_SEARCH}; SET hnsw.iterative_scan = strict_order");
                Box::pin(async move { sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *connection).await.map(drop) })
            })
            .test_before_acquire(false)
            // Who is cut off while a transaction begins leaves it open: the next one's writes would be part of it.
            .after_release(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
                    Ok(true)
                })
            })
            .before_acquire(|connection, rested| {
                Box::pin(async move {
                    if rested.idle_for > TRIED_AFTER {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .acquire_timeout(timeout.min(Duration::from_secs(10)))
            .connect_lazy_with(options);
        Ok(Self { pool, ready: OnceCell::new(), tables: Mutex::default(), timeout })
    }

    /// Runs `work`, bounded in time.
    async fn within<T>(&self, work: impl Future<Output = Result<T, VectorError>> + Send) -> Result<T, VectorError> {
        let all = async {
            self.ready.get_or_try_init(|| self.prepare()).await?;
            work.await
        };
        // The server ends a statement after the time-out; somewhat later we no longer believe that it does.
        let late = VectorError::Late { engine: NAME, after: self.timeout };
        tokio::time::timeout(self.timeout + Duration::from_secs(2), all).await.unwrap_or(Err(late))
    }

    async fn prepare(&self) -> Result<(), VectorError> {
        let mut transaction = self.pool.begin().await.map_err(|why| self.failed(why))?;
        sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await.map_err(|why| self.failed(why))?;
        transaction.commit().await.map_err(|why| self.failed(why))
    }

    /// Does `work` with a collection's table; once more when that is gone, since another server may have deleted the collection and made it anew.
    async fn with_table<T, F>(&self, address: &Address, work: impl Fn(Table) -> F + Send + Sync) -> Result<T, VectorError>
    where
        F: Future<Output = Result<T, VectorError>> + Send,
    {
        let tables = || self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        self.within(async {
            let remembered = tables().get(address).cloned();
            if let Some(table) = remembered {
                match work(table).await {
                    Err(VectorError::NotFound(_)) => _ = tables().remove(address),
                    done => return done,
                }
            }
            let sql = "SELECT relation, dimension, metric FROM auralink_vectors.collections WHERE tenant = $1 AND name = $2";
            let row = sqlx::query(sql).bind(address.tenant().as_str()).bind(address.name()).fetch_optional(&self.pool).await;
            let Some(row) = row.map_err(|why| self.failed(why))? else { return Err(VectorError::NotFound(address.name().to_owned())) };
            let table = self.table_of(&row)?;
            {
                let mut tables = tables();
                if tables.len() >= REMEMBERED {
                    tables.clear();
                }
                tables.insert(address.clone(), table.clone());
            }
            let gone = |why| if let VectorError::NotFound(_) = why { VectorError::NotFound(address.name().to_owned()) } else { why };
            work(table).await.map_err(gone)
        })
        .await
    }

    fn table_of(&self, row: &PgRow) -> Result<Table, VectorError> {
        let metric: Metric = row.get::<&str, _>("metric").parse()?;
        let spec = Spec { dimension: row.get::<i32, _>("dimension").unsigned_abs(), metric };
        Ok(Table { name: format!("auralink_vectors.{}", row.get::<&str, _>("relation")), spec })
    }

    fn failed(&self, why: sqlx::Error) -> VectorError {
        let code = why.as_database_error().and_then(|why| why.code()).unwrap_or_default().into_owned();
        let unavailable = |reason: String| VectorError::Unavailable { engine: NAME, reason };
        match (&why, code.as_str()) {
            (_, "42P01") => VectorError::NotFound("its table".into()),
            (_, "53100") => VectorError::DiskFull { path: "PostgreSQL".into() },
            (_, "57014") => VectorError::Late { engine: NAME, after: self.timeout },
            (_, "28000" | "28P01") => unavailable(format!("it refuses the user or password: {why}")),
            (_, "0A000" | "58P01") if why.to_string().contains("vector") => {
                unavailable(format!("the extension is missing, install pgvector: {why}"))
            }
            (_, "57P01" | "57P02" | "57P03" | "53300") => {
                unavailable(format!("the database is stopping, starting or full of connections: {why}"))
            }
            (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_), _) => {
                unavailable(format!("the database cannot be reached, or went away: start it, or correct what vectors.url names ({why})"))
            }
            _ => VectorError::Engine { engine: NAME, reason: why.to_string() },
        }
    }

    fn record(&self, row: &PgRow) -> Result<Record, VectorError> {
        let metadata: Metadata = serde_json::from_str(row.get("metadata"))
            .map_err(|why| VectorError::Engine { engine: NAME, reason: format!("a record's metadata is not ours: {why}") })?;
        Ok(Record {
            id: row.get("id"),
            vector: row.get::<Option<Vec<f32>>, _>("vector").unwrap_or_default(),
            metadata,
            document: row.get("document"),
        })
    }

    /// The nearest, as rows; `settings`, when there are any, are those of this search alone.
    async fn nearest(&self, table: &Table, query: &Query, settings: Option<String>) -> Result<Vec<PgRow>, VectorError> {
        let mut sql = QueryBuilder::<Postgres>::new("SELECT id, metadata::text, document, ");
        sql.push(if query.with_vectors { "embedding::real[] AS vector" } else { "NULL::real[] AS vector" });
        sql.push(format!(", (embedding {} ", table.operator()))
            .push_bind(&query.vector)
            .push("::real[]::vector)::float8 AS distance FROM ");
        sql.push(&table.name);
        if let Some(filter) = &query.filter {
            sql.push(" WHERE ");
            condition(&mut sql, filter);
        }
        sql.push(format!(" ORDER BY embedding {} ", table.operator()))
            .push_bind(&query.vector)
            .push("::real[]::vector LIMIT ")
            .push_bind(query.k as i64);
        let rows = match settings {
            None => sql.build().fetch_all(&self.pool).await,
            Some(settings) => {
                async {
                    let mut transaction = self.pool.begin_with(AssertSqlSafe(format!("BEGIN; SET LOCAL {settings}"))).await?;
                    let rows = sql.build().fetch_all(&mut *transaction).await?;
                    transaction.commit().await?;
                    Ok(rows)
                }
                .await
            }
        };
        rows.map_err(|why| self.failed(why))
    }
}

/// A filter as SQL that is true or false, never null.
fn condition(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    match filter {
        Filter::Not(part) => {
            sql.push("NOT (");
            condition(sql, part);
            sql.push(")");
        }
        Filter::All(parts) => join(sql, parts, " AND ", "true"),
        Filter::Any(parts) => join(sql, parts, " OR ", "false"),
        Filter::Field { key, test } => match test {
            Test::Exists => {
                sql.push("jsonb_exists(metadata, ").push_bind(key.clone()).push(")");
            }
            Test::In(values) => {
                let values: Vec<String> =
                    values.iter().map(|value| serde_json::to_string(value).expect("texts, finite numbers and booleans are JSON")).collect();
                sql.push("coalesce(metadata -> ").push_bind(key.clone()).push(" = ANY (").push_bind(values).push("::jsonb[]), false)");
            }
            Test::Compare(comparison, number) => {
                let operator = match comparison {
                    super::filter::Comparison::Greater => ">",
                    super::filter::Comparison::GreaterOrSame => ">=",
                    super::filter::Comparison::Less => "<",
                    super::filter::Comparison::LessOrSame => "<=",
                };
                sql.push("CASE jsonb_typeof(metadata -> ").push_bind(key.clone()).push(") WHEN 'number' THEN (metadata ->> ");
                sql.push_bind(key.clone()).push(")::float8 ").push(operator).push(" ").push_bind(*number).push(" ELSE false END");
            }
        },
    }
}

fn join(sql: &mut QueryBuilder<Postgres>, parts: &[Filter], between: &str, empty: &str) {
    sql.push("(");
    if parts.is_empty() {
        sql.push(empty);
    }
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            sql.push(between);
        }
        condition(sql, part);
    }
    sql.push(")");
}

#[async_trait]
impl Engine for PgVector {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, address: &Address, spec: &Spec) -> Result<(), VectorError> {
        self.within(async {
            let mut transaction = self.pool.begin().await.map_err(|why| self.failed(why))?;
            let sql = "INSERT INTO auralink_vectors.collections (tenant, name, dimension, metric) VALUES ($1, $2, $3, $4)
                       ON CONFLICT DO NOTHING RETURNING relation, dimension, metric";
            let insert = sqlx::query(sql).bind(address.tenant().as_str()).bind(address.name()).bind(spec.dimension.cast_signed()).bind(spec.metric.as_str());
            let Some(row) = insert.fetch_optional(&mut *transaction).await.map_err(|why| self.failed(why))? else {
                return Err(VectorError::Exists(address.name().to_owned()));
            };
            let table = self.table_of(&row)?;
            let mut sql = format!(
                "CREATE TABLE {} (id text COLLATE \"C\" PRIMARY KEY, embedding vector({}) NOT NULL, metadata jsonb NOT NULL, document text);",
                table.name, spec.dimension
            );
            if spec.dimension <= MAX_INDEXED {
                let operators = match spec.metric {
                    Metric::Cosine => "vector_cosine_ops",
                    Metric::Euclidean => "vector_l2_ops",
                    Metric::Dot => "vector_ip_ops",
                };
                sql += &format!("CREATE INDEX ON {} USING hnsw (embedding {operators});", table.name);
            }
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(|why| self.failed(why))?;
            transaction.commit().await.map_err(|why| self.failed(why))
        })
        .await
    }

    async fn destroy(&self, address: &Address) -> Result<(), VectorError> {
        self.within(async {
            let mut transaction = self.pool.begin().await.map_err(|why| self.failed(why))?;
            let sql = "DELETE FROM auralink_vectors.collections WHERE tenant = $1 AND name = $2 RETURNING relation, dimension, metric";
            let row = sqlx::query(sql).bind(address.tenant().as_str()).bind(address.name()).fetch_optional(&mut *transaction).await;
            let Some(row) = row.map_err(|why| self.failed(why))? else { return Err(VectorError::NotFound(address.name().to_owned())) };
            let sql = format!("DROP TABLE {}", self.table_of(&row)?.name);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(|why| self.failed(why))?;
            transaction.commit().await.map_err(|why| self.failed(why))
        })
        .await
    }

    async fn list(&self, tenant: &Tenant) -> Result<Vec<Collection>, VectorError> {
        let names = self.within(async {
            let sql = "SELECT name FROM auralink_vectors.collections WHERE tenant = $1 ORDER BY name COLLATE \"C\"";
            let rows = sqlx::query(sql).bind(tenant.as_str()).fetch_all(&self.pool).await.map_err(|why| self.failed(why))?;
            Ok(rows.into_iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>())
        });
        let mut collections = Vec::new();
        for name in names.await? {
            match self.describe(&Address::new(tenant, &name)?).await {
                Ok(collection) => collections.push(collection),
                // It was deleted in between.
                Err(VectorError::NotFound(_)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(collections)
    }

    async fn describe(&self, address: &Address) -> Result<Collection, VectorError> {
        self.with_table(address, |table| async move {
            let sql = format!("SELECT count(*) FROM {}", table.name);
            let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool).await.map_err(|why| self.failed(why))?;
            Ok(Collection { address: address.clone(), spec: table.spec, count: row.get::<i64, _>(0).unsigned_abs() })
        })
        .await
    }

    async fn upsert(&self, address: &Address, mut records: Vec<Record>) -> Result<(), VectorError> {
        // Two writers that take the same rows in the same order wait for each other, and never for good.
        records.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let records = &records;
        self.with_table(address, |table| async move {
            let mut sql = QueryBuilder::<Postgres>::new(format!("INSERT INTO {} (id, embedding, metadata, document) ", table.name));
            sql.push_values(records, |mut row, record| {
                let metadata = serde_json::to_string(&record.metadata).expect("texts, finite numbers and booleans are JSON");
                row.push_bind(&record.id).push_bind(&record.vector).push_unseparated("::real[]::vector");
                row.push_bind(metadata).push_unseparated("::jsonb").push_bind(&record.document);
            });
            sql.push(" ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding, metadata = excluded.metadata, document = excluded.document");
            sql.build().persistent(false).execute(&self.pool).await.map_err(|why| self.failed(why)).map(drop)
        })
        .await
    }

    async fn delete(&self, address: &Address, selection: &Selection) -> Result<(), VectorError> {
        self.with_table(address, |table| async move {
            let mut sql = QueryBuilder::<Postgres>::new(format!("DELETE FROM {} WHERE ", table.name));
            match selection {
                Selection::Ids(ids) => _ = sql.push("id = ANY (").push_bind(ids).push(")"),
                Selection::Filter(filter) => condition(&mut sql, filter),
            }
            sql.build().persistent(false).execute(&self.pool).await.map_err(|why| self.failed(why)).map(drop)
        })
        .await
    }

    async fn get(&self, address: &Address, ids: &[String]) -> Result<Vec<Record>, VectorError> {
        self.with_table(address, |table| async move {
            let sql = format!("SELECT id, embedding::real[] AS vector, metadata::text, document FROM {} WHERE id = ANY ($1)", table.name);
            let rows = sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch_all(&self.pool).await.map_err(|why| self.failed(why))?;
            Ok(super::in_order(ids, rows.iter().map(|row| self.record(row)).collect::<Result<_, _>>()?))
        })
        .await
    }

    async fn query(&self, address: &Address, query: &Query) -> Result<Vec<Match>, VectorError> {
        let ef = EF_SEARCH.max(query.k + query.k / 2).min(1_000);
        self.with_table(address, |table| async move {
            let wider = (ef != EF_SEARCH).then(|| format!("hnsw.ef_search = {ef}"));
            let mut rows = self.nearest(&table, query, wider).await?;
            if rows.len() < query.k {
                // There are no more, or the index gave up: a scan tells.
                rows = self.nearest(&table, query, Some("enable_indexscan = off".into())).await?;
            }
            let metric = table.spec.metric;
            let found = rows.iter().map(|row| {
                let raw = row.get::<f64, _>("distance") as f32;
                let distance = if metric == Metric::Cosine { raw.clamp(0.0, 2.0) } else { raw };
                Ok(Match { record: self.record(row)?, score: metric.score(distance), distance })
            });
            found.collect()
        })
        .await
    }

    async fn page(&self, address: &Address, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        self.with_table(address, |table| async move {
            let sql = format!(
                "SELECT id, embedding::real[] AS vector, metadata::text, document FROM {} WHERE $1::text IS NULL OR id > $1 COLLATE \"C\" ORDER BY id LIMIT $2",
                table.name
            );
            let rows = sqlx::query(AssertSqlSafe(sql)).bind(from).bind(limit as i64).fetch_all(&self.pool).await.map_err(|why| self.failed(why))?;
            let records = rows.iter().map(|row| self.record(row)).collect::<Result<Vec<_>, _>>()?;
            let next = records.last().filter(|_| records.len() == limit).map(|record| record.id.clone());
            Ok(Page { records, next })
        })
        .await
    }
}
