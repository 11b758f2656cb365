//! `auralink pipeline`: recordings to searchable transcripts on this machine, without a server, on the data folder.
//!
//! Stopped in any way, the same command goes on where it was: what is done is kept, and nothing is done twice.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use auralink_infrastructure::state::{State, StateConfig};
use auralink_infrastructure::storage::{Local, LocalConfig, Store, StoreConfig, StorePath, Stores, TenantStore};
use auralink_infrastructure::tenant::Tenant;
use futures_util::StreamExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::cli::{PipelineArgs, PipelineCommand};
use crate::config::Config;
use crate::embeddings::Embeddings;
use crate::files;
use crate::pipeline::download::{download, shown};
use crate::pipeline::export::Format;
use crate::pipeline::record::{StepKind, StepState};
use crate::pipeline::{Meaning, Parts, Pipeline, PipelineError, Report};
use crate::vectors::VectorStore;

/// The store that a folder on the command line is.
const FOLDER: &str = "folder";

/// Does it.
pub async fn run(command: PipelineCommand) -> anyhow::Result<()> {
    match command {
        PipelineCommand::Run { source, export, formats, args } => {
            let here = Here::open(&args, true).await?;
            here.run(&source, export.as_deref(), &formats).await
        }
        PipelineCommand::Status { json, args } => Here::open(&args, false).await?.status(json).await,
        PipelineCommand::Search { words, limit, args } => Here::open(&args, false).await?.search(&words.join(" "), limit).await,
    }
}

/// The data folder, opened.
struct Here {
    pipeline: Pipeline,
    config: Config,
    data_dir: PathBuf,
    tenant: Tenant,
}

impl Here {
    async fn open(args: &PipelineArgs, hears: bool) -> anyhow::Result<Self> {
        let mut config = match &args.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        config.data_dir = args.data_dir.clone().or(config.data_dir);
        let data_dir = config.data_dir();
        let state = State::open(&StateConfig::Sqlite { folder: data_dir.clone() }).await.context(
            "the data folder cannot be opened. While a server runs on it, use `auralink files import` and the server's own pipeline \
             (POST /api/v1/files/pipelines), or name another folder with --data-dir",
        )?;
        let ai = config.ai.clone();
        let speech = match hears {
            true => tokio::task::spawn_blocking(move || crate::speech::start(&ai)).await?,
            false => Err("it is not needed".to_owned()),
        };
        let vectors = VectorStore::open(&config.vectors, &data_dir, Embeddings::new(&config.embeddings, &config.ai))?;
        let meaning = Meaning::open(vectors).await;
        let parts =
            Parts { documents: Arc::new(state), folder: data_dir.join("pipeline"), recogniser: recogniser(&config), speech, meaning };
        Ok(Self { pipeline: Pipeline::new(parts), config, data_dir, tenant: args.tenant.clone() })
    }

    async fn run(&self, source: &str, export: Option<&Path>, formats: &[Format]) -> anyhow::Result<()> {
        let (store, path) = self.source(source).await?;
        let target = export.map(|folder| self.export_to(folder)).transpose()?;
        let recordings = files::recordings(&store, &path).await?;
        if recordings.is_empty() {
            bail!("{source} holds no recordings: files that end in wav, flac, mp3, ogg, opus, m4a, webm and the like are taken");
        }
        let shown = Shown::new(recordings.len() as u64);
        let stop = stop_on_signals();
        let mut failed = Vec::new();
        let mut under_way = futures_util::stream::iter(&recordings)
            .map(|recording| {
                let (shown, stop, store, path, target) = (&shown, &stop, &store, &path, &target);
                async move {
                    let line = shown.begin(recording);
                    let told = |step: &str, thousandths| line.at(step, thousandths);
                    let report = self.pipeline.file(&self.tenant, store, recording, stop, &told).await?;
                    if let Some(target) = target {
                        let to = files::exported(&StorePath::root(), path, recording)?;
                        files::write_transcript(&self.pipeline, &self.tenant, &report, target, &to, formats).await?;
                    }
                    Ok::<_, PipelineError>((line, report))
                }
            })
            .buffer_unordered(self.config.ai.threads.max(1) + 1);
        let mut unavailable = BTreeMap::new();
        while let Some(done) = under_way.next().await {
            let (line, report) = done?;
            line.end(&report);
            for step in &report.steps {
                match step.state {
                    StepState::Failed if step.is_final || step.kind == StepKind::Transcribe => {
                        failed.push(format!("{}: {}: {}", report.file.name, step.kind.as_str(), step.reason));
                    }
                    StepState::Unavailable => drop(unavailable.insert(step.kind, step.reason.clone())),
                    _ => {}
                }
            }
        }
        drop(under_way);
        shown.end();
        for (step, reason) in unavailable {
            eprintln!("{}: unavailable: {reason}", step.as_str());
        }
        failed.retain(|line| !line.contains("it could not be decoded"));
        failed.iter().for_each(|line| eprintln!("{line}"));
        println!("{} recordings, {} failed", recordings.len(), failed.len());
        Ok(())
    }

    /// A folder or a file of this machine, `STORE:PATH` of a configured store, or a recording's URL.
    async fn source(&self, source: &str) -> anyhow::Result<(TenantStore, StorePath)> {
        if let Some((name, path)) = source.split_once(':').filter(|(name, _)| self.config.storage.stores.contains_key(*name)) {
            let (config, data_dir) = (self.config.storage.clone(), self.data_dir.clone());
            let stores = tokio::task::spawn_blocking(move || Stores::open(&config, &data_dir)).await??;
            return Ok((stores.get(name)?.of(&self.tenant), path.parse()?));
        }
        if source.starts_with("http://") || source.starts_with("https://") {
            let bar = ProgressBar::new(0);
            bar.set_style(style("  fetching: {bar:40} {bytes}/{total_bytes} {elapsed_precise}"));
            let told = |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            };
            let limit = LocalConfig::at(PathBuf::new()).max_file_bytes;
            let fetched = download(source, &self.data_dir.join("pipeline").join("downloads"), limit, &told).await;
            bar.finish_and_clear();
            let (folder, name) = fetched?;
            let store = Store::of_engine(&shown(source), Arc::new(Local::open_to_read(FOLDER, &folder)?), u64::MAX);
            return Ok((store.of(&self.tenant), name.parse()?));
        }
        if source.contains("://") {
            bail!(
                "{source} cannot be read: a folder, a file, an http or https URL, or STORE:PATH of a store of the configuration \
                 (`storage: {{stores: ...}}`) can"
            );
        }
        let at = std::fs::canonicalize(source).with_context(|| format!("{source} cannot be opened"))?;
        let (folder, path) = match at.is_file() {
            true => {
                let name = at.file_name().and_then(|name| name.to_str()).context("its name is no text")?.parse()?;
                (at.parent().unwrap_or(Path::new("/")).to_owned(), name)
            }
            false => (at, StorePath::root()),
        };
        // The folder's own path makes its recordings' records different from another folder's.
        let local = Local::open_to_read(FOLDER, &folder)?;
        let name = format!("{FOLDER}:{}", folder.display());
        Ok((Store::of_engine(&name, Arc::new(local), u64::MAX).of(&self.tenant), path))
    }

    fn export_to(&self, folder: &Path) -> anyhow::Result<TenantStore> {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let root = std::fs::canonicalize(folder)?;
        let config = StoreConfig::Local(LocalConfig { root, shared: false, max_file_bytes: u64::MAX });
        Ok(Store::open("export", &config, &self.data_dir)?.whole())
    }

    async fn status(&self, json: bool) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let (reports, next) = self.pipeline.status(&self.tenant, after.as_deref(), 1_000).await?;
            for report in &reports {
                println!("{}", if json { serde_json::to_string(report)? } else { line(report) });
            }
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn search(&self, words: &str, limit: u32) -> anyhow::Result<()> {
        let found = self.pipeline.search(&self.tenant, words, limit).await?;
        if found.is_empty() {
            eprintln!("nothing is there to be found yet: `auralink pipeline run FOLDER` first");
        }
        for found in found {
            println!("{:.3}  {}  {}  {}", found.score, clock(found.start_ms), found.source, found.text);
        }
        Ok(())
    }
}

/// Another pack makes other transcripts.
pub fn recogniser(config: &Config) -> String {
    config.ai.pack.as_ref().map_or_else(|| format!("built in {}", env!("CARGO_PKG_VERSION")), |pack| pack.display().to_string())
}

fn line(report: &Report) -> String {
    let steps: Vec<String> = report
        .steps
        .iter()
        .map(|step| match step.state {
            StepState::Failed => format!("{} failed ({})", step.kind.as_str(), step.reason),
            state => format!("{} {}", step.kind.as_str(), state.as_str()),
        })
        .collect();
    format!("{}  {}", report.file.source, steps.join(", "))
}

fn clock(ms: u64) -> String {
    format!("{}:{:02}:{:02}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60)
}

/// Ctrl-C asks to stop; a second one ends the process.
fn stop_on_signals() -> CancellationToken {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("stopping; the same command goes on from here");
            asked.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    stop
}

/// What a person sees: a bar of all files and a line of each under way; without a terminal, a line for each that is done.
struct Shown {
    bars: MultiProgress,
    all: ProgressBar,
    terminal: bool,
}

struct Line<'a> {
    shown: &'a Shown,
    bar: ProgressBar,
    last: Mutex<String>,
}

impl Shown {
    fn new(files: u64) -> Self {
        let bars = MultiProgress::new();
        let all = bars.add(ProgressBar::new(files));
        all.set_style(style("{bar:40} {pos}/{len} {elapsed_precise}"));
        all.enable_steady_tick(Duration::from_millis(500));
        Self { bars, all, terminal: std::io::stderr().is_terminal() }
    }

    fn begin(&self, recording: &StorePath) -> Line<'_> {
        let bar = self.bars.insert_before(&self.all, ProgressBar::new(1_000));
        bar.set_style(style("  {prefix}: {msg} {percent}%"));
        bar.set_prefix(recording.to_string());
        Line { shown: self, bar, last: Mutex::default() }
    }

    fn end(&self) {
        self.all.finish_and_clear();
    }
}

impl Line<'_> {
    fn at(&self, step: &str, thousandths: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != step {
            step.clone_into(&mut last);
            self.bar.set_message(step.to_owned());
        }
        self.bar.set_position(thousandths);
    }

    fn end(self, report: &Report) {
        self.bar.finish_and_clear();
        self.shown.all.inc(1);
        if !self.shown.terminal {
            let kept = if report.kept > 0 { format!(" ({} kept)", report.kept) } else { String::new() };
            println!("{}{kept}", line(report));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are this file's own")
}
