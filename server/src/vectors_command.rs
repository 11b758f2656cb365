//! `auralink vectors`: collections of a running server, by its REST API.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::caller::Scope;
use crate::cli::VectorsCommand;
use crate::client::Client;

const PATH: &str = "/api/v1/vectors/collections";

/// Does it.
pub async fn run(command: VectorsCommand) -> anyhow::Result<()> {
    let (read, write) = ([Scope::VectorsRead], [Scope::VectorsWrite]);
    match command {
        VectorsCommand::List { http } => {
            let list: Value = Client::new(&http, &read)?.get(PATH).await?;
            println!("{:<32}  {:>9}  {:<9}  {:>10}", "name", "dimension", "metric", "records");
            for collection in list["collections"].as_array().into_iter().flatten() {
                let text = |key: &str| collection[key].as_str().unwrap_or_default().to_owned();
                println!("{:<32}  {:>9}  {:<9}  {:>10}", text("name"), collection["dimension"], text("metric"), collection["count"]);
            }
        }
        VectorsCommand::Create { name, dimension, metric, http } => {
            let body = json!({"name": name, "dimension": dimension, "metric": metric});
            let made: Value = Client::new(&http, &write)?.post(PATH, &body).await?;
            eprintln!("The collection {name} takes vectors of {} numbers.", made["dimension"]);
        }
        VectorsCommand::Delete { name, http } => {
            Client::new(&http, &write)?.delete(&path(&name, "")?).await?;
            eprintln!("The collection {name} and its records are deleted.");
        }
        VectorsCommand::Import { name, file, from_line, http } => import(&Client::new(&http, &write)?, &name, &file, from_line).await?,
        VectorsCommand::Export { name, file, http } => export(&Client::new(&http, &read)?, &name, &file).await?,
        VectorsCommand::Query { name, text, vector, k, filter, http } => {
            let parsed = |what: &str, text: Option<String>| {
                text.map(|text| serde_json::from_str::<Value>(&text).with_context(|| format!("--{what} is not JSON"))).transpose()
            };
            let body = json!({"text": text, "vector": parsed("vector", vector)?, "k": k, "filter": parsed("filter", filter)?});
            let found: Value = Client::new(&http, &read)?.post(&path(&name, "/query")?, &body).await?;
            for found in found["matches"].as_array().into_iter().flatten() {
                let record = &found["record"];
                let document: String =
                    record["document"].as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect();
                println!(
                    "{:<8.4}  {:<32}  {document}",
                    found["score"].as_f64().unwrap_or_default(),
                    record["id"].as_str().unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}

/// The path of a collection. Its name becomes a part of it.
fn path(name: &str, rest: &str) -> anyhow::Result<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    ensure!(!name.is_empty() && name.bytes().all(plain), "`{name}` is no collection's name; `auralink vectors list` shows them");
    Ok(format!("{PATH}/{name}{rest}"))
}

async fn import(client: &Client, name: &str, file: &Path, from_line: u64) -> anyhow::Result<()> {
    let source = tokio::fs::File::open(file).await.with_context(|| format!("{} cannot be read", file.display()))?;
    let bar =
        ProgressBar::new(source.metadata().await?.len()).with_style(ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}")?);
    let sent = bar.clone();
    let parts = ReaderStream::new(source).inspect_ok(move |part| sent.inc(part.len() as u64));
    let request = client.request(Method::POST, &path(name, &format!("/import?from_line={from_line}"))?);
    let done: Value =
        client.send(request.body(Body::wrap_stream(parts))).await?.json().await.context("the server's answer is not understood")?;
    bar.finish_and_clear();
    for error in done["errors"].as_array().into_iter().flatten() {
        eprintln!("line {}: {}", error["line"], error["reason"].as_str().unwrap_or_default());
    }
    eprintln!("{} records imported, {} lines passed over.", done["imported"], done["rejected"]);
    match done["stopped"].as_str() {
        Some(why) => bail!("the import stopped: {why}. Go on with --from-line {}", done["next_line"]),
        None => Ok(()),
    }
}

async fn export(client: &Client, name: &str, file: &Path) -> anyhow::Result<()> {
    let mut response = client.send(client.request(Method::GET, &path(name, "/export")?)).await?;
    let standard = file == Path::new("-");
    let part = file.with_extension("part");
    let mut out: Box<dyn AsyncWrite + Unpin + Send> = match standard {
        true => Box::new(tokio::fs::OpenOptions::new().write(true).open("/dev/stdout").await.context("standard output cannot be written")?),
        false => Box::new(tokio::fs::File::create(&part).await.with_context(|| format!("{} cannot be written", part.display()))?),
    };
    let mut last = Vec::new();
    while let Some(data) = response.chunk().await.context("the export was cut off")? {
        out.write_all(&data).await?;
        match data.iter().rposition(|byte| *byte == b'\n') {
            Some(end) if end + 1 == data.len() => {
                let start = data[..end].iter().rposition(|byte| *byte == b'\n');
                last = start.map_or_else(|| [last.as_slice(), &data].concat(), |start| data[start + 1..].to_vec());
            }
            Some(end) => last = data[end + 1..].to_vec(),
            None => last.extend_from_slice(&data),
        }
    }
    out.flush().await?;
    // The server tells what went wrong half-way in a last line that is no record.
    if let Some(why) = serde_json::from_slice::<Value>(&last)
        .ok()
        .filter(|line| line.get("id").is_none())
        .and_then(|line| line["error"].as_str().map(str::to_owned))
    {
        bail!("the export stopped half-way: {why}");
    }
    if !standard {
        tokio::fs::rename(&part, file).await.with_context(|| format!("{} cannot be put in place", file.display()))?;
    }
    Ok(())
}
