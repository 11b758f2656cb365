//! `auralink files`: browses, fetches, sends and imports files of a running server's stores, by its REST API; and connects a store to a person's
//! Google Drive or Dropbox, on the server's own machine.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use auralink_infrastructure::storage::{Store, StorePath};
use futures_util::TryStreamExt as _;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::api::files::{FilePage, StartedFileJob, StoreList, WrittenFile};
use crate::caller::Scope;
use crate::cli::FilesCommand;
use crate::client::Client;
use crate::config::Config;
use crate::files::Place;

const PATH: &str = "/api/v1/files";

/// Does it.
pub async fn run(command: FilesCommand) -> anyhow::Result<()> {
    match command {
        FilesCommand::Ls { at: None, http } => {
            let list: StoreList = Client::new(&http, &[Scope::FilesRead])?.get(PATH).await?;
            for store in list.stores {
                println!("{}:  {}{}", store.name, store.kind, if store.shared { ", shared for reading" } else { "" });
            }
            Ok(())
        }
        FilesCommand::Ls { at: Some(at), http } => ls(&Client::new(&http, &[Scope::FilesRead])?, &place(&at)?).await,
        FilesCommand::Get { at, file, http } => get(&Client::new(&http, &[Scope::FilesRead])?, &place(&at)?, file).await,
        FilesCommand::Put { file, at, http } => put(&Client::new(&http, &[Scope::FilesWrite])?, file, place(&at)?).await,
        FilesCommand::Import { from, to, http } => {
            let client = Client::new(&http, &[Scope::FilesRead, Scope::FilesWrite])?;
            let job: StartedFileJob = client.post(&format!("{PATH}/import"), &json!({"from": place(&from)?, "to": place(&to)?})).await?;
            println!("{}", job.job_id);
            Ok(())
        }
        FilesCommand::Connect { store, config, data_dir } => connect(&store, config, data_dir).await,
    }
}

async fn ls(client: &Client, place: &Place) -> anyhow::Result<()> {
    let mut mark: Option<String> = None;
    loop {
        let request = client
            .request(Method::GET, &format!("{PATH}/browse/{}", place.store))
            .query(&[("path", place.path.as_str()), ("limit", "1000")]);
        let request = if let Some(mark) = &mark { request.query(&[("page", mark)]) } else { request };
        let page: FilePage = client.send(request).await?.json().await?;
        for entry in page.entries {
            println!(
                "{:>14}  {}{}",
                if entry.kind == "file" { entry.size.to_string() } else { entry.kind.clone() },
                entry.name,
                if entry.kind == "folder" { "/" } else { "" }
            );
        }
        mark = page.next;
        if mark.is_none() {
            return Ok(());
        }
    }
}

async fn get(client: &Client, place: &Place, file: Option<PathBuf>) -> anyhow::Result<()> {
    let path: StorePath = place.path.parse()?;
    let file = file.or_else(|| path.name().map(PathBuf::from)).context("which file? STORE:PATH")?;
    let response = client.send(client.request(Method::GET, &content(place)?)).await?;
    let length = response.content_length();
    let part = file.with_extension("auralink-part");
    let mut out = tokio::fs::File::create(&part).await.with_context(|| format!("{} cannot be written", part.display()))?;
    let (mut stream, mut bytes) = (response.bytes_stream(), 0);
    while let Some(data) = stream.try_next().await.map_err(reqwest::Error::without_url)? {
        bytes += data.len() as u64;
        out.write_all(&data).await?;
    }
    out.sync_all().await?;
    if length.is_some_and(|length| length != bytes) {
        bail!("{bytes} bytes came of {}: try again", length.unwrap_or(0));
    }
    tokio::fs::rename(&part, &file).await?;
    eprintln!("{bytes} bytes are in {}", file.display());
    Ok(())
}

async fn put(client: &Client, file: PathBuf, mut place: Place) -> anyhow::Result<()> {
    if place.path.is_empty() || place.path.ends_with('/') {
        place.path.push_str(file.file_name().and_then(|name| name.to_str()).context("the file has no name that is text")?);
    }
    let sha256 = hashed(&file).await.with_context(|| format!("{} cannot be read", file.display()))?;
    let body = tokio::fs::File::open(&file).await?;
    let length = body.metadata().await?.len();
    let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(body, 256 * 1024));
    let request =
        client.request(Method::PUT, &content(&place)?).header("X-Checksum-SHA256", sha256).header("Content-Length", length).body(body);
    let written: WrittenFile = client.send(request).await?.json().await?;
    eprintln!("{} bytes are in {}:{}", written.size, place.store, place.path);
    Ok(())
}

async fn hashed(file: &std::path::Path) -> std::io::Result<String> {
    let (mut open, mut hash, mut part) = (tokio::fs::File::open(file).await?, Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match open.read(&mut part).await? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            read => hash.update(&part[..read]),
        }
    }
}

/// The path of a file's content, its names made safe for a URL.
fn content(place: &Place) -> anyhow::Result<String> {
    let path: StorePath = place.path.parse()?;
    let mut url = url::Url::parse("http://server")?;
    {
        let mut segments = url.path_segments_mut().map_err(|()| anyhow::anyhow!("a URL without a path"))?;
        segments.extend(["api", "v1", "files", "content", place.store.as_str()]).extend(path.names());
    }
    Ok(url.path().to_owned())
}

/// `STORE:PATH`.
fn place(text: &str) -> anyhow::Result<Place> {
    let (store, path) = text.split_once(':').with_context(|| format!("`{text}` is no place: write STORE:PATH"))?;
    // The store's name becomes part of a URL.
    anyhow::ensure!(!store.is_empty() && store.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "`{store}` is no store's name");
    Ok(Place { store: store.to_owned(), path: path.to_owned() })
}

/// On the server's machine, with its configuration: the tokens go to its data folder, where a running server finds them.
async fn connect(name: &str, config: Option<PathBuf>, data_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let path = config.context("which configuration? --config FILE (or AURALINK_CONFIG) has the store's OAuth client")?;
    let mut config = Config::read(&path)?;
    config.data_dir = data_dir.or(config.data_dir);
    let store = config.storage.stores.get(name).with_context(|| format!("{} has no store `{name}`", path.display()))?;
    let store = Store::open(name, store, &config.data_dir())?;
    let access = store.access().with_context(|| format!("the store `{name}` is {}: it needs nobody's access", store.kind()))?;
    access.connect(|url| println!("Open this in a browser on this machine, and agree:\n\n    {url}\n")).await?;
    println!("`{name}` is connected.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_made_safe_for_a_url() {
        let place = place("recordings:a b/100%#?.wav").unwrap();
        assert_eq!(content(&place).unwrap(), "/api/v1/files/content/recordings/a%20b/100%25%23%3F.wav");
        for bad in ["recordings", ":x", "a/b:c"] {
            assert!(super::place(bad).is_err(), "{bad}");
        }
    }
}
