//! API keys: opaque secrets with scopes, a tenant and an end, kept as hashes and revocable while the server runs.
//!
//! Place in the flow: [`crate::caller`] verifies with them, `/api/v1/keys` and `auralink keys` make, list and revoke them. Rules: a key's
//! secret is shown once, when it is made; what is kept is the SHA-256 of 32 random bytes, which needs no salt and no slow hash, since it
//! cannot be guessed; comparisons take the same time wherever they differ. Each look-up reads the state: a revoked key is refused by every
//! server on the same state from then on.

mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use auralink_infrastructure::state::{Document, Documents, Expect, StateError};
use auralink_infrastructure::tenant::Tenant;
use serde::{Deserialize, Serialize};

pub use token::Token;

use crate::api::ApiError;
use crate::caller::{Caller, CallerError, Scopes};
use crate::credentials::CredentialsError;

/// Where they are kept.
const COLLECTION: &str = "api_keys";

/// Keys of one tenant; one more is refused.
const KEYS_MAX: usize = 1_000;

/// Longest name of a key, bytes.
const NAME_BYTES_MAX: usize = 100;

/// Documents read at once.
const PAGE: u32 = 200;

/// How old `last_used` may be before it is written again: more often would turn every request into a write.
const USED_EVERY: u64 = 600;

/// A key as it is kept and shown: everything but its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it; part of the token.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whose things its bearer sees.
    pub tenant: Tenant,
    /// What its bearer may do.
    pub scopes: Scopes,
    /// When it was made; seconds since 1970, as all times here.
    pub created_at: u64,
    /// From when on it is refused.
    pub expires_at: Option<u64>,
    /// When it was used last, to about ten minutes.
    pub last_used_at: Option<u64>,
}

/// What stands in the state.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    tenant: Tenant,
    scopes: Scopes,
    /// SHA-256 of the secret, hexadecimal.
    secret_sha256: String,
    created_at: u64,
    expires_at: Option<u64>,
    last_used_at: Option<u64>,
}

impl Record {
    fn shown(self, id: String) -> ApiKey {
        let Self { name, tenant, scopes, created_at, expires_at, last_used_at, .. } = self;
        ApiKey { id, name, tenant, scopes, created_at, expires_at, last_used_at }
    }
}

/// Why a key was not made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeysError {
    /// The name is no name.
    #[error("a key's name must have 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Name,
    /// It would be good for nothing.
    #[error("a key needs at least one scope; there are jobs:read, jobs:write, ...: see `auralink keys create --help`")]
    NoScopes,
    /// It would be refused at once.
    #[error("`expires_in_s` is 0: the key would be refused from the start")]
    NoTime,
    /// Too many.
    #[error("the tenant `{0}` has {KEYS_MAX} keys, as many as one may have: revoke those that are not used (`auralink keys list`)")]
    TooMany(Tenant),
    /// No such key of this tenant.
    #[error("the tenant `{tenant}` has no API key `{id}`: `auralink keys list` shows its keys")]
    NotFound {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: String,
    },
    /// A key in the state is not as this version writes them.
    #[error("the API key `{0}` in the state cannot be read: was it written by a newer AuraLink?")]
    Damaged(String),
    /// The state failed.
    #[error("the API keys cannot be reached: {0}")]
    State(#[from] StateError),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] CredentialsError),
}

impl From<ApiKeysError> for ApiError {
    fn from(error: ApiKeysError) -> Self {
        let message = error.to_string();
        match error {
            ApiKeysError::Name | ApiKeysError::NoScopes | ApiKeysError::NoTime => Self::invalid_argument(message),
            ApiKeysError::TooMany(_) => Self::resource_exhausted(message),
            ApiKeysError::NotFound { .. } => Self::not_found(message),
            ApiKeysError::State(_) => Self::unavailable(message),
            ApiKeysError::Damaged(_) | ApiKeysError::Random(_) => Self::internal(message),
        }
    }
}

/// The keys. Clones share them.
#[derive(Clone)]
pub struct ApiKeys {
    documents: Arc<dyn Documents>,
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKeys")
    }
}

impl ApiKeys {
    /// Those that `documents` hold.
    pub fn new(documents: Arc<dyn Documents>) -> Self {
        Self { documents }
    }

    /// Makes a key; the token is not kept and cannot be shown again.
    pub async fn create(
        &self,
        tenant: &Tenant,
        name: &str,
        scopes: Scopes,
        expires_in: Option<Duration>,
    ) -> Result<(ApiKey, Token), ApiKeysError> {
        let name = name.trim();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(ApiKeysError::Name);
        }
        if scopes.is_empty() {
            return Err(ApiKeysError::NoScopes);
        }
        if expires_in.is_some_and(|time| time.is_zero()) {
            return Err(ApiKeysError::NoTime);
        }
        if self.list(tenant).await?.len() >= KEYS_MAX {
            return Err(ApiKeysError::TooMany(tenant.clone()));
        }
        let token = Token::random(tenant)?;
        let now = now();
        let record = Record {
            name: name.to_owned(),
            tenant: tenant.clone(),
            scopes,
            secret_sha256: token.secret_sha256(),
            created_at: now,
            expires_at: expires_in.map(|time| now.saturating_add(time.as_secs())),
            last_used_at: None,
        };
        self.documents.put(COLLECTION, token.id(), &value(&record), Expect::Absent).await?;
        tracing::info!(id = token.id(), tenant = tenant.as_str(), name, %scopes, "an API key was made");
        Ok((record.shown(token.id().to_owned()), token))
    }

    /// The tenant's keys, by id.
    pub async fn list(&self, tenant: &Tenant) -> Result<Vec<ApiKey>, ApiKeysError> {
        let (prefix, mut found) = (token::prefix_of(tenant), Vec::new());
        let mut after: Option<String> = None;
        loop {
            let page = self.documents.list(COLLECTION, &prefix, after.as_deref(), PAGE).await?;
            let whole = page.len() == PAGE as usize;
            after = page.last().map(|document| document.key.clone());
            for document in page {
                let key = document.key.clone();
                // One that is damaged hides no other; it opens nothing either.
                let Ok(record) = record(document).inspect_err(|error| tracing::error!(key, %error, "an API key's record is damaged"))
                else {
                    continue;
                };
                // Another tenant's name can begin with the same hash.
                if record.tenant == *tenant {
                    found.push(record.shown(key));
                }
            }
            if !whole {
                return Ok(found);
            }
        }
    }

    /// Refuses a key of the tenant from now on.
    pub async fn revoke(&self, tenant: &Tenant, id: &str) -> Result<(), ApiKeysError> {
        let none = || ApiKeysError::NotFound { tenant: tenant.clone(), id: id.chars().take(64).collect() };
        if !token::is_id(id) {
            return Err(none());
        }
        let document = self.documents.get(COLLECTION, id).await?.ok_or_else(none)?;
        let theirs = record(document)?.tenant == *tenant;
        // Its use may be noted in between, so whatever stands there is deleted.
        if !theirs || !self.documents.delete(COLLECTION, id, Expect::Any).await? {
            return Err(none());
        }
        tracing::info!(id, tenant = tenant.as_str(), "an API key was revoked");
        Ok(())
    }

    /// Who bears the token.
    pub async fn verify(&self, token: &str) -> Result<Caller, CallerError> {
        let token: Token = token.parse().map_err(|_| CallerError::UnknownKey)?;
        let document = self.documents.get(COLLECTION, token.id()).await?.ok_or(CallerError::UnknownKey)?;
        let version = document.version;
        let mut record = record(document).map_err(|error| {
            tracing::error!(%error, "an API key cannot be verified");
            CallerError::State
        })?;
        if !token.has_secret(&record.secret_sha256) {
            return Err(CallerError::UnknownKey);
        }
        let now = now();
        if record.expires_at.is_some_and(|end| now >= end) {
            return Err(CallerError::Expired(record.name));
        }
        if record.last_used_at.is_none_or(|used| now.saturating_sub(used) >= USED_EVERY) {
            record.last_used_at = Some(now);
            // Of several requests at once one writes; a key that was revoked in between stays revoked. Neither fails the request.
            match self.documents.put(COLLECTION, token.id(), &value(&record), Expect::Version(version)).await {
                Ok(_) | Err(StateError::Conflict { .. }) => {}
                Err(error) => tracing::warn!(%error, "the use of an API key was not noted"),
            }
        }
        Ok(Caller { tenant: record.tenant, scopes: record.scopes, name: record.name })
    }
}

fn record(document: Document) -> Result<Record, ApiKeysError> {
    serde_json::from_value(document.value).map_err(|_| ApiKeysError::Damaged(document.key))
}

fn value(record: &Record) -> serde_json::Value {
    serde_json::to_value(record).expect("a record is texts and numbers")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
pub mod tests;
