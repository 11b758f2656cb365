//! The one who writes to SQLite: changes that wait together are committed together, since a commit costs a wait for the disk.
//!
//! Rule: nobody is answered before the commit that holds their change is on disk; one change that fails takes no other with it.

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::StateError;

/// Changes that may wait; who comes later waits to wait.
const WAITING: usize = 4_096;

/// Changes in one commit. More: fewer waits for the disk; fewer: the first of them is answered sooner.
const TOGETHER: usize = 512;

/// A change: it may be tried again, alone, when another of the same commit failed.
trait Change: Send {
    fn attempt<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> BoxFuture<'a, Result<(), sqlx::Error>>;
    fn answer(self: Box<Self>, outcome: Result<(), StateError>);
}

struct Waiting<F, T> {
    change: F,
    made: Option<T>,
    reply: oneshot::Sender<Result<T, StateError>>,
}

impl<F, T> Change for Waiting<F, T>
where
    F: for<'c> Fn(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send,
    T: Send,
{
    fn attempt<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            self.made = Some((self.change)(connection).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(), StateError>) {
        let made = self.made;
        let outcome = outcome.and_then(|()| made.ok_or_else(|| StateError::Engine("a change was committed without being made".into())));
        // Who asked may have gone: the change stands all the same.
        let _ = self.reply.send(outcome);
    }
}

/// Hands changes to the writer.
#[derive(Clone)]
pub struct Writer {
    changes: mpsc::Sender<Box<dyn Change>>,
}

impl Writer {
    /// Starts the writer's task. It ends when the last handle is dropped; `held` lives as long as it.
    pub fn start<H: Send + 'static>(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        held: H,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (changes, waiting) = mpsc::channel(WAITING);
        let task = tokio::spawn(async move {
            let _held = held;
            write(connection, options, waiting).await;
        });
        (Self { changes }, task)
    }

    /// Makes a change; on disk when it returns.
    pub async fn run<T, F>(&self, change: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        let closed = || StateError::Engine("the state is closed".into());
        let (reply, answer) = oneshot::channel();
        self.changes.send(Box::new(Waiting { change, made: None, reply })).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

async fn write(connection: SqliteConnection, options: SqliteConnectOptions, mut waiting: mpsc::Receiver<Box<dyn Change>>) {
    let mut connection = Some(connection);
    let mut together = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut together, TOGETHER).await > 0 {
        metrics::histogram!("auralink_state_changes_per_commit").record(together.len() as f64);
        let mut open = match connection.take() {
            Some(open) => open,
            None => match options.connect().await {
                Ok(open) => open,
                Err(error) => {
                    let error = StateError::of("the state cannot be opened", &error);
                    together.drain(..).for_each(|change| change.answer(Err(error.clone())));
                    continue;
                }
            },
        };
        let sound = match commit(&mut open, &mut together).await {
            Ok(()) => {
                together.drain(..).for_each(|change| change.answer(Ok(())));
                true
            }
            Err(_) => one_by_one(&mut open, &mut together).await,
        };
        // A connection that could not even roll back is not used again.
        if sound {
            connection = Some(open);
        } else {
            let _ = open.close_hard().await;
        }
    }
    if let Some(open) = connection {
        let _ = open.close().await;
    }
}

/// All in one transaction, or none.
async fn commit(connection: &mut SqliteConnection, changes: &mut [Box<dyn Change>]) -> Result<(), sqlx::Error> {
    let made = transaction(connection, changes).await;
    if made.is_err() {
        // SQLite has rolled back by itself after some errors: then there is nothing to roll back.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
    }
    made
}

async fn transaction(connection: &mut SqliteConnection, changes: &mut [Box<dyn Change>]) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for change in changes {
        change.attempt(connection).await?;
    }
    sqlx::query("COMMIT").execute(connection).await.map(|_| ())
}

/// After a failure: each alone, so that only the one that fails is told so. Whether the connection can be used on.
async fn one_by_one(connection: &mut SqliteConnection, changes: &mut Vec<Box<dyn Change>>) -> bool {
    let mut sound = true;
    for change in changes.drain(..) {
        let mut alone = [change];
        let made = commit(connection, &mut alone).await;
        let [change] = alone;
        if let Err(error) = &made {
            metrics::counter!("auralink_state_changes_failed_total").increment(1);
            sound = sqlx::raw_sql("SELECT 1").execute(&mut *connection).await.is_ok();
            tracing::warn!(%error, "a change of the state failed");
        }
        change.answer(made.map_err(|error| StateError::of("the state was not changed", &error)));
    }
    sound
}
