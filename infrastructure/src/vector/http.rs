//! HTTP to an engine: bounded in time and size, with errors that say what to do and never hold the token.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::Value as Json;

use super::VectorError;
use crate::secret::Secret;

/// Longest answer: a page of 1,000 records of 4,096 numbers is some 50 MB of JSON.
const MAX_ANSWER: usize = 128 << 20;
/// How much of an engine's own words goes into an error.
const MAX_WORDS: usize = 400;

/// Where an engine is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `http://HOST:PORT`, with a path where a proxy has one.
    pub url: String,
    /// Sent with each request.
    pub token: Option<Secret>,
    /// A request that takes longer has failed.
    pub timeout: Duration,
}

/// The client.
#[derive(Debug)]
pub struct Http {
    engine: &'static str,
    client: Client,
    base: Url,
    header: &'static str,
    token: Option<Secret>,
    timeout: Duration,
}

/// What an engine answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body; null when it is empty or no JSON.
    pub body: Json,
}

impl Http {
    /// `header` carries the token.
    pub fn new(engine: &'static str, remote: Remote, header: &'static str) -> Result<Self, VectorError> {
        let unusable = |reason: String| VectorError::Unavailable { engine, reason };
        let base = Url::parse(&remote.url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| unusable("its url is no http:// or https:// URL: correct vectors.url".into()))?;
        let client = Client::builder().connect_timeout(remote.timeout.min(Duration::from_secs(5))).timeout(remote.timeout);
        // Nobody else gets the token, and no answer of an engine sends this server elsewhere.
        let client = client.redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(|why| unusable(format!("no HTTP client can be made: {why}")))?;
        Ok(Self { engine, client, base, header, token: remote.token, timeout: remote.timeout })
    }

    /// Sends a request. `path` are the segments below the base, `query` follows `?`.
    pub async fn send(&self, method: Method, path: &[&str], query: &[(&str, &str)], body: Option<&Json>) -> Result<Answer, VectorError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.request(method, url).query(query);
        if let Some(token) = &self.token {
            request = request.header(
                self.header,
                if self.header == "authorization" { format!("Bearer {}", token.reveal()) } else { token.reveal().to_owned() },
            );
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|why| self.failed(why))?;
        let status = response.status();
        let mut bytes = BytesMut::new();
        while let Some(part) = response.chunk().await.map_err(|why| self.failed(why))? {
            if bytes.len() + part.len() > MAX_ANSWER {
                return Err(self.engine_failed(format!("it answered more than {MAX_ANSWER} bytes: ask for less at once")));
            }
            bytes.extend_from_slice(&part);
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.unavailable(format!("it refuses us ({status}): check the secret that vectors.token names")))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Err(VectorError::Exhausted(format!("the vector engine `{}` is asked too often: wait and repeat", self.engine)))
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Err(self.unavailable(format!("it answers {status}: {}", words(&bytes))))
            }
            status => {
                let body = serde_json::from_slice(&bytes);
                if status.is_success() && !bytes.is_empty() && body.is_err() {
                    return Err(self.engine_failed(format!("its answer is no JSON: {}", words(&bytes))));
                }
                Ok(Answer { status, body: body.unwrap_or(Json::String(words(&bytes))) })
            }
        }
    }

    /// An answer that must be a success.
    pub fn success(&self, answer: Answer) -> Result<Json, VectorError> {
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(self.engine_failed(format!("it answers {}: {}", answer.status, words(answer.body.to_string().as_bytes()))))
    }

    /// The engine does not do what it should.
    pub fn engine_failed(&self, reason: String) -> VectorError {
        VectorError::Engine { engine: self.engine, reason }
    }

    fn unavailable(&self, reason: String) -> VectorError {
        VectorError::Unavailable { engine: self.engine, reason }
    }

    fn failed(&self, why: reqwest::Error) -> VectorError {
        let place = format!("{}:{}", self.base.host_str().unwrap_or_default(), self.base.port_or_known_default().unwrap_or_default());
        if why.is_connect() {
            return self
                .unavailable(format!("nothing answers at {place}: start it, or correct vectors.url ({})", cause(&why.without_url())));
        }
        if why.is_timeout() {
            return VectorError::Late { engine: self.engine, after: self.timeout };
        }
        self.unavailable(format!(
            "the connection to {place} ended half-way: what was asked may have happened or not ({})",
            cause(&why.without_url())
        ))
    }
}

/// The innermost of an error's words.
fn cause(why: &dyn std::error::Error) -> String {
    let mut inner = why;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(MAX_WORDS).collect()
}
