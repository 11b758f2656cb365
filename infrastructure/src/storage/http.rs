//! Requests to a service that wants an access token: repeated when they may be, held back when it asks for that, and told in words.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};

use super::StorageError;
use super::oauth::Access;

/// Tries of one request.
const TRIES: u32 = 5;
/// Before the second try; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// A service that asks for a longer wait is told of at once: the job's own backoff is better than a held connection.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of an answer that is read for its words.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// A service's client.
pub(super) struct Http {
    store: String,
    client: reqwest::Client,
    access: Access,
}

/// An answer that is not a success.
pub(super) struct Refusal {
    /// The status.
    pub(super) status: StatusCode,
    /// The body, bounded.
    pub(super) body: String,
}

/// What came of a request.
pub(super) enum Outcome {
    /// 2xx, or 308 which Google's uploads answer.
    Answer(Response),
    /// Something that another try does not better.
    Refused(Refusal),
}

impl Http {
    pub(super) fn new(store: &str, client: reqwest::Client, access: Access) -> Self {
        Self { store: store.to_owned(), client, access }
    }

    /// A client with the time limits that every engine wants.
    pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
        reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .build()
    }

    /// Sends what `build` makes, with the token, until there is an answer. `build` is called again for each try; a request that cannot be
    /// repeated safely must not be sent by this.
    pub(super) async fn send(&self, build: impl Fn(&reqwest::Client) -> RequestBuilder) -> Result<Outcome, StorageError> {
        let mut wait = FIRST_WAIT;
        let mut renewed = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let token = self.access.token().await?;
            let reason = match build(&self.client).bearer_auth(token.reveal()).send().await {
                Err(error) => without_url(&error),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !renewed => {
                    // Ended before its time: somebody revoked it, or the clocks differ.
                    renewed = true;
                    self.access.renew(&token).await?;
                    continue;
                }
                Ok(response) if is_answer(response.status()) => return Ok(Outcome::Answer(response)),
                Ok(response) => {
                    let asked = retry_after(&response);
                    let status = response.status();
                    let body = text(response).await;
                    if !is_passing(status, &body) {
                        return Ok(Outcome::Refused(Refusal { status, body }));
                    }
                    metrics::counter!("auralink_storage_held_back_total", "store" => self.store.clone()).increment(1);
                    let limited = status != StatusCode::INTERNAL_SERVER_ERROR && status.as_u16() < 502;
                    if let Some(asked) = asked {
                        if asked > LONGEST_WAIT || tries >= TRIES {
                            return Err(StorageError::Busy { store: self.store.clone(), seconds: asked.as_secs() });
                        }
                        wait = wait.max(asked);
                    } else if limited && tries >= TRIES {
                        return Err(StorageError::Busy { store: self.store.clone(), seconds: LONGEST_WAIT.as_secs() });
                    }
                    format!("it answers {status}")
                }
            };
            if tries >= TRIES {
                return Err(StorageError::Unavailable { store: self.store.clone(), reason: format!("{reason}, {TRIES} times") });
            }
            tokio::time::sleep(wait.mul_f32(1.0 + fraction() / 4.0)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// The store's name, for errors.
    pub(super) fn store(&self) -> &str {
        &self.store
    }

    /// An answer that is not as the service's documents say.
    pub(super) fn odd(&self, what: impl std::fmt::Display) -> StorageError {
        StorageError::Unavailable { store: self.store.clone(), reason: format!("its answer cannot be understood: {what}") }
    }

    /// Reads an answer as JSON.
    pub(super) async fn json<T: serde::de::DeserializeOwned>(&self, response: Response) -> Result<T, StorageError> {
        let body = bounded(response).await.map_err(|reason| StorageError::Unavailable { store: self.store.clone(), reason })?;
        serde_json::from_slice(&body).map_err(|error| self.odd(error))
    }
}

fn is_answer(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::PERMANENT_REDIRECT
}

/// Whether waiting helps. Google says "too many" with 403 as well.
fn is_passing(status: StatusCode, body: &str) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error()
        || status == StatusCode::REQUEST_TIMEOUT
        || (status == StatusCode::FORBIDDEN && ["rateLimitExceeded", "userRateLimitExceeded"].iter().any(|word| body.contains(word)))
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn text(response: Response) -> String {
    bounded(response).await.map(|body| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default()
}

/// An answer's body, if it is not too long.
pub(super) async fn bounded(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| without_url(&error))? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err("its answer is longer than 8 MiB".into());
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// What a client's error says, each cause once, and no address: addresses hold upload sessions, which are credentials.
pub(super) fn without_url(error: &reqwest::Error) -> String {
    let mut words = match error {
        error if error.is_timeout() => "it took too long".to_owned(),
        error if error.is_connect() => "no connection".to_owned(),
        _ => "the connection failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words.chars().take(300).collect()
}

/// 0 to 1, so that clients that were held back together do not come back together.
fn fraction() -> f32 {
    f32::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}
