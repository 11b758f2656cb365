//! A server in a process of its own, so that it can be killed: this very binary, which runs `child::server` alone and is told by its environment
//! what to do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use auralink_infrastructure::queue::{JobContext, Queue, QueueConfig, QueueEngine};
use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::state::{Documents, Expect, State, StateConfig};
use serde_json::{Value, json};

use crate::place::{Place, handler, job, redis_engine, work};

/// What a child reads from its environment.
const TOLD: &str = "AURALINK_TEST_CHILD";

pub struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Server {
    /// `what`: see [`serve`].
    pub fn start(place: &Place, what: &str) -> Self {
        Self::start_under(place, what, &[])
    }

    /// By another program that starts it.
    pub fn start_under(place: &Place, what: &str, wrapper: &[&str]) -> Self {
        let state = match &place.state {
            StateConfig::Sqlite { folder } => json!({ "folder": folder }),
            StateConfig::Postgres { url, .. } => json!({ "url": url.reveal() }),
        };
        let queue = match &place.engine {
            QueueEngine::State => Value::Null,
            QueueEngine::Redis { url, prefix, .. } => json!({ "url": url.reveal(), "prefix": prefix }),
        };
        let told = json!({ "what": what, "state": state, "queue": queue, "log": log(place) });
        let this = std::env::current_exe().unwrap();
        let mut words: Vec<&str> = wrapper.to_vec();
        words.extend([this.to_str().unwrap(), "--exact", "child::server", "--nocapture", "--test-threads=1"]);
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .env(TOLD, told.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", words[0]));
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line that begins with `word`, without it; none when the child has ended.
    pub fn line(&mut self, word: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness's own words can stand before the first one.
            if let Some((_, rest)) = line.trim_end().split_once(&format!("@{word} ")) {
                return Some(rest.to_owned());
            }
        }
    }

    /// Kill -9, and what it had still said.
    pub fn kill(mut self, word: &str) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.line(word)).collect()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> std::process::ExitStatus {
        while self.line("nothing").is_some() {}
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where children note each attempt that they begin.
pub fn log(place: &Place) -> PathBuf {
    place.folder.path().join("attempts")
}

/// How often each number was begun.
pub fn attempts(place: &Place) -> Vec<u64> {
    let text = std::fs::read_to_string(log(place)).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Notes the number and does nothing more.
pub fn noting(log: &Path) -> crate::place::Handlers {
    let log = log.to_owned();
    handler("note", move |job: JobContext| {
        let log = log.clone();
        async move {
            let number: u64 = job.payload()?;
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
            // One write, so that lines of several jobs do not mix.
            file.write_all(format!("{number}\n").as_bytes()).unwrap();
            // So that some are always in between.
            tokio::time::sleep(Duration::from_millis(number % 7)).await;
            Ok(json!(number))
        }
    })
}

fn say(word: &str, text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{word} {text}").and_then(|()| out.flush()).unwrap();
}

/// The child's part. Without being told anything it is nobody's child, and has nothing to do.
#[test]
fn server() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let told: Value = serde_json::from_str(&told).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(&told));
}

async fn serve(told: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let config = match told["state"]["folder"].as_str() {
        Some(folder) => StateConfig::Sqlite { folder: folder.into() },
        None => StateConfig::Postgres { url: Secret::new(text(&told["state"]["url"])), connections: 4 },
    };
    let engine = match told["queue"]["url"].as_str() {
        Some(url) => redis_engine(url, told["queue"]["prefix"].as_str().unwrap()),
        None => QueueEngine::State,
    };
    let state = State::open(&config).await.unwrap();
    let queue = Queue::open(QueueConfig { engine, ..QueueConfig::default() }, &state).await.unwrap();
    match told["what"].as_str().unwrap() {
        // Accepts and runs numbers until it is killed.
        "numbers" => {
            let _worker = work(&queue, noting(Path::new(told["log"].as_str().unwrap())));
            for number in 0_u64.. {
                let id = queue.enqueue(job("note", json!(number))).await.unwrap();
                say("accepted", &format!("{number} {id}"));
            }
        }
        // Runs what kills it.
        "deadly" => {
            let _worker = work(
                &queue,
                handler("deadly", |job: JobContext| async move {
                    say("attempt", &job.job().attempt.to_string());
                    std::process::abort()
                }),
            );
            std::future::pending().await
        }
        // Has the folder.
        "open" => {
            say("open", "now");
            std::future::pending().await
        }
        // Accepts until there is no more room, and says how many it did.
        "fill" => fill(&state, &queue, Path::new(told["state"]["folder"].as_str().unwrap())).await,
        other => panic!("{other}?"),
    }
}

/// What somebody deletes to make room.
const BALLAST: usize = 1024 * 1024;

async fn fill(state: &State, queue: &Queue, folder: &Path) {
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![0; BALLAST]).unwrap();
    let large = || job("large", json!("x".repeat(50_000)));
    let mut ids = Vec::new();
    let error = loop {
        match queue.enqueue(large()).await {
            Ok(id) => ids.push(id),
            Err(error) => break error,
        }
    };
    say("full", &format!("{} {error}", ids.len()));
    // It is told each time, nothing accepted is gone, and it can still be read.
    assert!(queue.enqueue(large()).await.is_err());
    for id in &ids {
        queue.get(&crate::place::tenant(), id).await.unwrap();
    }
    std::fs::remove_file(ballast).unwrap();
    ids.push(queue.enqueue(large()).await.unwrap());
    state.put("after", "all", &json!(1), Expect::Absent).await.unwrap();
    let there = queue.stats(&crate::place::tenant()).await.unwrap().queued;
    assert_eq!(there, ids.len() as u64, "what was refused is not there");
    say("went-on", &there.to_string());
}
