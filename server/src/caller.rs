//! Who calls, and what it may do: one [`Caller`] for REST and gRPC, from a LiveKit access token or from an API key.
//!
//! Place in the flow: every face asks [`Callers`] before it touches an application layer; the layers take the caller's tenant and never
//! another. Rule: nothing that a caller says of itself is believed before its signature or its secret was checked, and no credential is
//! logged or quoted.
//!
//! A LiveKit token of one of the server's keys carries scopes and tenant in the claim
//! `"auralink": {"scopes": ["vectors:write"], "tenant": "acme"}`; without it, it opens rooms and nothing else. An API key
//! (`alk_<id>_<secret>`, `auralink keys create`) has them from its making.

mod limit;
mod scope;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use auralink_infrastructure::state::StateError;
use auralink_infrastructure::tenant::Tenant;
use auralink_signaling::access::{AccessError, Claims, KeySet, bearer};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;

pub use limit::{Limiter, Rate};
pub use scope::{Scope, ScopeError, Scopes};

use crate::api::ApiError;
use crate::api_keys::{ApiKeys, Token};

/// Longest `Authorization` header that is looked at: a token with 512 KiB metadata fits.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose things it sees.
    pub tenant: Tenant,
    /// What it may do.
    pub scopes: Scopes,
    /// For people: the key's name, or the token's identity.
    pub name: String,
}

impl Caller {
    /// Refuses whoever is not the operator: what all tenants share is its alone.
    pub fn require_operator(&self) -> Result<(), ApiError> {
        self.require(Scope::KeysAdmin)?;
        if self.tenant != Tenant::default() {
            let tenant = Tenant::default();
            return Err(ApiError::permission_denied(format!(
                "what all tenants share is changed by the operator: a key of the tenant `{tenant}`"
            )));
        }
        Ok(())
    }

    /// Refuses, in words, what the caller has no scope for.
    pub fn require(&self, scope: Scope) -> Result<(), Denied> {
        if self.scopes.contains(scope) {
            return Ok(());
        }
        metrics::counter!("auralink_api_refused_total", "why" => "scope").increment(1);
        Err(Denied { scope, name: self.name.chars().take(64).collect() })
    }
}

/// A scope that is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` does not have the scope `{scope}`: use an API key (`auralink keys create --scopes {scope}`) or a token that has it")]
pub struct Denied {
    scope: Scope,
    name: String,
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        Self::permission_denied(denied.to_string())
    }
}

impl From<Denied> for tonic::Status {
    fn from(denied: Denied) -> Self {
        Self::permission_denied(denied.to_string())
    }
}

/// The claim of an access token that speaks of more than rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// What the bearer may do.
    pub scopes: Scopes,
    /// Whose things it sees.
    pub tenant: Tenant,
}

impl Grant {
    /// Name of the claim.
    pub const CLAIM: &'static str = "auralink";

    /// Adds the claim to a token's others.
    pub fn put(&self, claims: &mut Claims) {
        let value = serde_json::json!({ "scopes": self.scopes, "tenant": self.tenant });
        claims.other.insert(Self::CLAIM.to_owned(), value);
    }

    fn of(claims: &Claims) -> Result<Self, CallerError> {
        match claims.other.get(Self::CLAIM) {
            None => Ok(Self::default()),
            Some(value) => Self::deserialize(value).map_err(|error| CallerError::Claim(error.to_string())),
        }
    }
}

/// Why nobody can be made of a request's credential, or why it must wait.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallerError {
    /// There is none.
    #[error("no credential: send `Authorization: Bearer <API key or access token>` (auralink keys create, auralink token)")]
    Missing,
    /// Too long, or not text.
    #[error("the Authorization header is not text, or larger than a mebibyte")]
    Header,
    /// The access token is not good.
    #[error("{0}")]
    Token(AccessError),
    /// The token's own claim is not as it should be.
    #[error("invalid token: its claim `auralink` must be {{\"scopes\": [...], \"tenant\": \"...\"}}: {0}")]
    Claim(String),
    /// No such API key, or another secret, or it was revoked: which of them is not told.
    #[error("invalid API key: it is unknown, revoked or mistyped")]
    UnknownKey,
    /// The key is past its end.
    #[error("the API key `{0}` has expired: make a new one with `auralink keys create`")]
    Expired(String),
    /// The keys cannot be looked up now.
    #[error("API keys cannot be looked up now; try again")]
    State,
    /// Too many requests.
    #[error("too many requests: wait {} s (the server's `api.requests_per_second` and `api.burst`)", seconds(.0))]
    Limited(Duration),
}

impl CallerError {
    /// How long to wait, when waiting helps.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Limited(wait) => Some(seconds(wait)),
            Self::State => Some(1),
            _ => None,
        }
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: &Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl From<AccessError> for CallerError {
    fn from(error: AccessError) -> Self {
        Self::Token(error)
    }
}

impl From<StateError> for CallerError {
    fn from(error: StateError) -> Self {
        // What the engine says may name hosts and paths: for the operator, not for who is not known yet.
        tracing::error!(%error, "an API key could not be looked up");
        Self::State
    }
}

impl From<CallerError> for ApiError {
    fn from(error: CallerError) -> Self {
        let made = match &error {
            CallerError::Limited(_) => Self::resource_exhausted(error.to_string()),
            CallerError::State => Self::unavailable(error.to_string()),
            _ => Self::unauthenticated(error.to_string()),
        };
        made.retry_after(error.retry_after())
    }
}

impl From<CallerError> for tonic::Status {
    fn from(error: CallerError) -> Self {
        ApiError::from(error).into()
    }
}

/// Knows every caller. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Callers {
    tokens: KeySet,
    api_keys: ApiKeys,
    limiter: Limiter,
}

impl Callers {
    /// `tokens` verify access tokens, `api_keys` API keys; each caller may ask as often as `rate` says.
    pub fn new(tokens: KeySet, api_keys: ApiKeys, rate: Rate) -> Self {
        Self { tokens, api_keys, limiter: Limiter::new(rate) }
    }

    /// The API keys.
    pub fn api_keys(&self) -> &ApiKeys {
        &self.api_keys
    }

    /// The caller of a gRPC request, within its limit.
    pub async fn of_metadata(&self, metadata: &MetadataMap) -> Result<Caller, tonic::Status> {
        let header = metadata.get("authorization").map(|value| value.as_bytes());
        // Whoever is not known is not limited by address here: it is not known behind tonic, and it gets nothing but this answer.
        let caller = self.of_header(header).await?;
        self.admit(&caller)?;
        Ok(caller)
    }

    /// The caller of an `Authorization` header's value; it is not counted yet.
    pub async fn of_header(&self, header: Option<&[u8]>) -> Result<Caller, CallerError> {
        let found = self.identify(header).await;
        if found.is_err() && header.is_some() {
            metrics::counter!("auralink_api_refused_total", "why" => "credential").increment(1);
        }
        found
    }

    async fn identify(&self, header: Option<&[u8]>) -> Result<Caller, CallerError> {
        let header = header.ok_or(CallerError::Missing)?;
        let text = std::str::from_utf8(header).ok().filter(|text| text.len() <= HEADER_BYTES_MAX).ok_or(CallerError::Header)?;
        let credential = bearer(text)?;
        if Token::looks_like(credential) {
            return self.api_keys.verify(credential).await;
        }
        let verified = self.tokens.verify(credential)?;
        let Grant { scopes, tenant } = Grant::of(&verified.claims)?;
        let name = if verified.claims.identity.is_empty() { verified.api_key } else { verified.claims.identity };
        Ok(Caller { tenant, scopes, name })
    }

    /// The claims of a gRPC request's access token, within its bearer's limit: for faces that go by a token's grants for rooms.
    pub fn claims_of_metadata(&self, metadata: &MetadataMap) -> Result<Claims, tonic::Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(|| {
            tonic::Status::unauthenticated("no access token: send `authorization: Bearer <token>` (auralink token makes one)")
        })?;
        let verified = bearer(header).and_then(|token| self.tokens.verify(token)).map_err(CallerError::Token)?;
        let name = if verified.claims.identity.is_empty() { &verified.api_key } else { &verified.claims.identity };
        self.counted(self.limiter.take(&("token", name), Instant::now()))?;
        Ok(verified.claims)
    }

    /// Takes one request from the caller's bucket.
    pub fn admit(&self, caller: &Caller) -> Result<(), CallerError> {
        self.counted(self.limiter.take(&(&caller.tenant, &caller.name), Instant::now()))
    }

    /// Takes one request from the bucket of an address whose caller is not known. One bucket serves a network of IPv6 (/64): that is what
    /// one subscriber of a provider has.
    pub fn admit_stranger(&self, address: IpAddr) -> Result<(), CallerError> {
        let network = match address.to_canonical() {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
        };
        self.counted(self.limiter.take(&network, Instant::now()))
    }

    fn counted(&self, taken: Result<(), Duration>) -> Result<(), CallerError> {
        taken.map_err(|wait| {
            metrics::counter!("auralink_api_refused_total", "why" => "rate").increment(1);
            CallerError::Limited(wait)
        })
    }
}

#[cfg(test)]
mod tests;
