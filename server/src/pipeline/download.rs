//! A recording at an http or https URL, brought onto this machine: goes on where it was cut, is not fetched again while it is the same, and is never
//! taken for whole before it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{StatusCode, Url};
use tokio::io::AsyncWriteExt as _;

use super::ledger::short;

/// Tries, each from where the one before it was cut.
const TRIES: u32 = 5;
/// Before the second try; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Fetches `url` into a folder of its own below `folder`, and answers that folder and the file's name in it. `told` hears of bytes done and in all
/// (0: not known).
///
/// # Errors
/// A sentence: the URL is none, the server refuses, the content is larger than `limit` bytes, the disk is full.
pub async fn download(url: &str, folder: &Path, limit: u64, told: &(dyn Fn(u64, u64) + Sync)) -> anyhow::Result<(PathBuf, String)> {
    let url = Url::parse(url).with_context(|| format!("{:?} is no URL", shown(url)))?;
    let name = file_name(&url);
    let folder = folder.join(&short(url.as_str())[..16]);
    tokio::fs::create_dir_all(&folder).await.with_context(|| format!("{} cannot be made", folder.display()))?;
    let download = Download { target: folder.join(&name), part: folder.join(".part"), tag: folder.join(".tag"), url, limit, told };
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).read_timeout(Duration::from_secs(30)).build()?;
    let mut wait = FIRST_WAIT;
    for again in 1.. {
        match download.attempt(&client).await {
            Ok(()) => break,
            Err(Cut::Refused(error)) => return Err(error),
            Err(Cut::Passing(error)) if again == TRIES => {
                return Err(error.context("it was cut too often; the same command goes on from here"));
            }
            Err(Cut::Passing(_)) => tokio::time::sleep(wait).await,
        }
        wait *= 2;
    }
    Ok((folder, name))
}

struct Download<'a> {
    url: Url,
    target: PathBuf,
    /// What has come so far.
    part: PathBuf,
    /// Which content that is, or the whole one.
    tag: PathBuf,
    limit: u64,
    told: &'a (dyn Fn(u64, u64) + Sync),
}

enum Cut {
    /// Another try may do.
    Passing(anyhow::Error),
    /// None will.
    Refused(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Cut {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl Download<'_> {
    async fn attempt(&self, client: &reqwest::Client) -> Result<(), Cut> {
        let tag = tokio::fs::read_to_string(&self.tag).await.unwrap_or_default();
        let have = tokio::fs::metadata(&self.part).await.map_or(0, |about| about.len());
        let whole = tokio::fs::try_exists(&self.target).await?;
        let mut request = client.get(self.url.clone());
        if whole && !tag.is_empty() {
            request = request.header(IF_NONE_MATCH, &tag);
        } else if have > 0 && !tag.is_empty() {
            // A content that has changed since comes whole.
            request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, &tag);
        }
        let unreached =
            |error: reqwest::Error| Cut::Passing(anyhow::Error::new(error.without_url()).context(self.words("cannot be reached")));
        let mut response = request.send().await.map_err(unreached)?;
        let headers = response.headers().clone();
        let from = match response.status() {
            StatusCode::NOT_MODIFIED if whole => return Ok(()),
            StatusCode::PARTIAL_CONTENT if begins_at(&headers) == Some(have) => have,
            StatusCode::OK => 0,
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Cut::Passing(anyhow::anyhow!(self.words(&format!("answered {status}")))));
            }
            status => return Err(Cut::Refused(anyhow::anyhow!(self.words(&format!("answered {status}"))))),
        };
        let total = length(&headers).map_or(0, |length| from + length);
        if total > self.limit {
            return Err(Cut::Refused(anyhow::anyhow!(
                self.words(&format!("has {total} bytes, more than the {} that are taken", self.limit))
            )));
        }
        if from == 0 {
            tokio::fs::write(&self.tag, tag_of(&headers).unwrap_or_default()).await?;
        }
        let mut file = tokio::fs::OpenOptions::new().create(true).write(true).append(from > 0).truncate(from == 0).open(&self.part).await?;
        let mut done = from;
        while let Some(piece) = response.chunk().await.map_err(unreached)? {
            done += piece.len() as u64;
            if done > self.limit {
                drop(file);
                tokio::fs::remove_file(&self.part).await?;
                return Err(Cut::Refused(anyhow::anyhow!(self.words(&format!("has more than the {} bytes that are taken", self.limit)))));
            }
            file.write_all(&piece).await.with_context(|| format!("{} cannot be written", self.part.display()))?;
            (self.told)(done, total);
        }
        file.flush().await?;
        file.sync_all().await?;
        if total > 0 && done != total {
            return Err(Cut::Passing(anyhow::anyhow!(self.words(&format!("ended after {done} of {total} bytes")))));
        }
        Ok(tokio::fs::rename(&self.part, &self.target).await?)
    }

    fn words(&self, what: &str) -> String {
        format!("{} {what}", shown(self.url.as_str()))
    }
}

/// A URL without what may be a secret: its user, password and query.
pub fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            let _ = (url.set_username(""), url.set_password(None));
            url.set_query(None);
            url.to_string()
        }
        Err(_) => url.chars().take(100).collect(),
    }
}

/// Only a strong tag names a content byte for byte.
fn tag_of(headers: &HeaderMap) -> Option<&str> {
    let strong = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).filter(|tag| !tag.starts_with("W/"));
    strong.or_else(|| headers.get(LAST_MODIFIED).and_then(|tag| tag.to_str().ok()).filter(|_| headers.get(ETAG).is_none()))
}

fn begins_at(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The last part of the path, as a name that every file system and store takes; what is no recording by its name is one all the same: somebody named it.
fn file_name(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let plain: String = last.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let plain = plain.trim_start_matches('.');
    let short: String = plain.chars().rev().take(100).collect::<Vec<_>>().into_iter().rev().collect();
    if short.is_empty() { "recording".into() } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_secrets_are_not_shown() {
        let name = |url: &str| file_name(&Url::parse(url).unwrap());
        assert_eq!(name("https://a.example/talks/day%201/t%C3%A4lk.mp3?token=x"), "t_C3_A4lk.mp3");
        assert_eq!(name("https://a.example/..%2f..%2fetc/passwd"), "passwd");
        assert_eq!(name("https://a.example/"), "recording");
        assert_eq!(name(&format!("https://a.example/{}.wav", "x".repeat(300))).len(), 100);
        assert_eq!(shown("https://me:secret@a.example/x.wav?sig=abc"), "https://a.example/x.wav");
    }
}
