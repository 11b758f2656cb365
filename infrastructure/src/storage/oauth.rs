//! Access to a person's files: the authorization code flow with PKCE (RFC 6749, RFC 7636, RFC 8252 for the loopback redirect), and access
//! tokens that are renewed before they end, once for all who wait.

mod loopback;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::StorageError;
use super::http::{bounded, without_url};
use crate::secret::{Secret, SecretSource};
use tokens::Tokens;

/// A token that ends within this is renewed first.
const EARLY: Duration = Duration::from_secs(60);
/// How long a token is taken to live when the service does not say.
const UNTOLD: u64 = 3_600;

/// What the service must be asked, and how.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    pub(super) store: String,
    pub(super) authorize_url: String,
    pub(super) token_url: String,
    pub(super) client_id: SecretSource,
    pub(super) client_secret: Option<SecretSource>,
    pub(super) redirect_port: u16,
    /// Beside the standard's parameters: scope, and what makes the service give a refresh token.
    pub(super) extra: &'static [(&'static str, &'static str)],
}

/// The token of one store. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    provider: Provider,
    client: reqwest::Client,
    file: PathBuf,
    tokens: Mutex<Option<Tokens>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenRefusal {
    error: String,
    error_description: String,
}

impl Access {
    pub(super) fn new(provider: Provider, client: reqwest::Client, data_dir: &Path) -> Self {
        let file = data_dir.join("storage").join("tokens").join(format!("{}.json", provider.store));
        Self { inner: Arc::new(Inner { provider, client, file, tokens: Mutex::new(None) }) }
    }

    /// An access token that is good for another minute at least.
    pub(super) async fn token(&self) -> Result<Secret, StorageError> {
        let mut tokens = self.inner.tokens.lock().await;
        if tokens.is_none() {
            *tokens = Some(self.inner.read().await?);
        }
        match tokens.as_ref().filter(|tokens| tokens.expires_at > now() + EARLY.as_secs()) {
            Some(tokens) => Ok(Secret::new(&tokens.access_token)),
            None => self.inner.renew(&mut tokens, None).await,
        }
    }

    /// The service no longer takes `stale`: another, unless somebody has renewed it meanwhile.
    pub(super) async fn renew(&self, stale: &Secret) -> Result<(), StorageError> {
        let mut tokens = self.inner.tokens.lock().await;
        if tokens.as_ref().is_some_and(|tokens| tokens.access_token != stale.reveal()) {
            return Ok(());
        }
        self.inner.renew(&mut tokens, Some(stale)).await.map(drop)
    }

    /// Asks a person for access: `show` is given the address that they must open; returns when they have agreed, and the tokens are kept.
    ///
    /// # Errors
    /// [`StorageError::Connect`] when they do not agree, [`StorageError::Unavailable`] when the service cannot be reached.
    pub async fn connect(&self, show: impl FnOnce(&str)) -> Result<(), StorageError> {
        let inner = &self.inner;
        let failed = |reason: String| StorageError::Connect { store: inner.provider.store.clone(), reason };
        let listener = loopback::Listener::bind(inner.provider.redirect_port).await.map_err(|error| {
            failed(format!("port {} of this machine's loopback cannot be listened on: {error}", inner.provider.redirect_port))
        })?;
        let redirect = listener.redirect_uri();
        let (state, verifier) = (random(), random());
        show(&inner.authorize_url(&redirect, &state, &verifier)?);
        let code = listener.code(&state).await.map_err(failed)?;
        let answer = inner
            .ask(&[
                ("grant_type", "authorization_code"),
                ("code", code.reveal()),
                ("redirect_uri", &redirect),
                ("code_verifier", &verifier),
            ])
            .await?;
        let refresh_token = answer.refresh_token.ok_or_else(|| failed("the service gave no refresh token".into()))?;
        let tokens = Tokens { access_token: answer.access_token, refresh_token, expires_at: ends(answer.expires_in) };
        inner.keep(&tokens).await?;
        *inner.tokens.lock().await = Some(tokens);
        Ok(())
    }
}

impl Inner {
    fn authorize_url(&self, redirect: &str, state: &str, verifier: &str) -> Result<String, StorageError> {
        let wrong = |reason: String| StorageError::Config { store: self.provider.store.clone(), reason };
        let mut url = url::Url::parse(&self.provider.authorize_url).map_err(|error| wrong(format!("authorize_url: {error}")))?;
        let client_id = self.provider.client_id.read().map_err(|error| wrong(error.to_string()))?;
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id.reveal())
            .append_pair("redirect_uri", redirect)
            .append_pair("state", state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .extend_pairs(self.provider.extra);
        Ok(url.into())
    }

    /// Renews under the file's lock: another process that did so meanwhile has left its token there.
    async fn renew(&self, tokens: &mut Option<Tokens>, stale: Option<&Secret>) -> Result<Secret, StorageError> {
        let _lock = tokens::lock(&self.file).await.map_err(|error| self.file_failed(error))?;
        let kept = self.read().await?;
        let fresh = kept.expires_at > now() + EARLY.as_secs() && stale.is_none_or(|stale| stale.reveal() != kept.access_token);
        let kept = if fresh {
            kept
        } else {
            let answer = self.ask(&[("grant_type", "refresh_token"), ("refresh_token", &kept.refresh_token)]).await?;
            metrics::counter!("auralink_storage_tokens_renewed_total", "store" => self.provider.store.clone()).increment(1);
            let renewed = Tokens {
                access_token: answer.access_token,
                refresh_token: answer.refresh_token.unwrap_or(kept.refresh_token),
                expires_at: ends(answer.expires_in),
            };
            self.keep(&renewed).await?;
            renewed
        };
        let token = Secret::new(&kept.access_token);
        *tokens = Some(kept);
        Ok(token)
    }

    async fn ask(&self, form: &[(&str, &str)]) -> Result<TokenAnswer, StorageError> {
        let store = || self.provider.store.clone();
        let wrong = |error: crate::secret::SecretError| StorageError::Config { store: store(), reason: error.to_string() };
        let client_id = self.provider.client_id.read().map_err(wrong)?;
        let client_secret = self.provider.client_secret.as_ref().map(SecretSource::read).transpose().map_err(wrong)?;
        let mut form = form.to_vec();
        form.push(("client_id", client_id.reveal()));
        if let Some(secret) = &client_secret {
            form.push(("client_secret", secret.reveal()));
        }
        let mut reason = String::new();
        for wait_ms in [200, 800, 0] {
            let answer = self.client.post(&self.provider.token_url).form(&form).send().await;
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    return parsed(answer).await.ok_or_else(|| StorageError::Unavailable {
                        store: store(),
                        reason: "the token service's answer cannot be understood".into(),
                    });
                }
                Ok(answer) if answer.status().is_client_error() && answer.status().as_u16() != 429 => {
                    return Err(self.refused(answer.status().as_u16(), &parsed(answer).await.unwrap_or_default()));
                }
                Ok(answer) => reason = format!("the token service answers {}", answer.status()),
                Err(error) => reason = format!("the token service: {}", without_url(&error)),
            }
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        Err(StorageError::Unavailable { store: store(), reason })
    }

    fn refused(&self, status: u16, refusal: &TokenRefusal) -> StorageError {
        let store = self.provider.store.clone();
        let words: String = refusal.error_description.chars().take(200).collect();
        match refusal.error.as_str() {
            "invalid_grant" => {
                StorageError::Connect { store, reason: format!("access was revoked, or was not used for too long ({words})") }
            }
            "invalid_client" | "unauthorized_client" => {
                StorageError::Denied { store, reason: format!("the OAuth client is not known ({words}): check its id and secret") }
            }
            error => StorageError::Denied { store, reason: format!("the token service answers {status} {error} {words}") },
        }
    }

    async fn read(&self) -> Result<Tokens, StorageError> {
        let read = Tokens::read(&self.file).await.map_err(|error| self.file_failed(error))?;
        read.ok_or_else(|| StorageError::Connect { store: self.provider.store.clone(), reason: "nobody has given access yet".into() })
    }

    async fn keep(&self, tokens: &Tokens) -> Result<(), StorageError> {
        tokens.write(&self.file).await.map_err(|error| self.file_failed(error))
    }

    fn file_failed(&self, error: std::io::Error) -> StorageError {
        StorageError::io(&self.provider.store, format!("the tokens' file {} cannot be used", self.file.display()), error)
    }
}

async fn parsed<T: serde::de::DeserializeOwned>(answer: reqwest::Response) -> Option<T> {
    serde_json::from_slice(&bounded(answer).await.ok()?).ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn ends(expires_in: Option<u64>) -> u64 {
    now().saturating_add(expires_in.unwrap_or(UNTOLD))
}

/// 43 characters of 256 bits, as RFC 7636 wants a verifier.
fn random() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's generator always answers");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
