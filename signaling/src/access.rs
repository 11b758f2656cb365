//! LiveKit access tokens: who may do what. One verifier for every face of the server (WebSocket, Twirp, REST, gRPC).
//!
//! A token is an HS256 JWT whose issuer names an API key; [`KeySet`] holds the keys and can be replaced while the
//! server runs (key rotation). Rule: nothing in a token is believed before its signature was checked with the secret
//! of the key that it names, and no other algorithm than HS256 is accepted.

mod grants;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

pub use grants::{AgentGrant, Claims, SipGrant, VideoGrant, source_name};

/// Clock difference tolerated for `exp` and `nbf`, as LiveKit does. More would let expired tokens live longer, less
/// would refuse tokens of back ends whose clock is a little off.
const LEEWAY: Duration = Duration::from_secs(60);

/// Longest token that is looked at; a claim set with 512 KiB metadata and 64 KiB attributes fits in base64.
const TOKEN_BYTES_MAX: usize = 1024 * 1024;

/// Why a token was refused. Every variant is HTTP 401.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No token came with the request.
    #[error("no permissions to access the room: send a token as 'Authorization: Bearer ...' or 'access_token'")]
    Missing,
    /// The header is there but is not a bearer token.
    #[error("invalid authorization header: it must start with 'Bearer '")]
    NotBearer,
    /// Not a JWT, or one that is larger than a mebibyte.
    #[error("invalid authorization token: {0}")]
    Malformed(String),
    /// The issuer is no key of this server.
    #[error("invalid API key: {0:?} is not one of this server's keys")]
    UnknownKey(String),
    /// The header names another algorithm than HS256 (`none` among them).
    #[error("invalid token: only HS256 signatures are accepted")]
    Algorithm,
    /// Signed with another secret.
    #[error("invalid token: the signature does not match the secret of API key {0:?}")]
    Signature(String),
    /// `exp` is in the past.
    #[error("invalid token: it has expired; ask your back end for a new one")]
    Expired,
    /// `nbf` is in the future.
    #[error("invalid token: it is not valid yet; check the clocks of the server and of the token's issuer")]
    NotYetValid,
    /// A claim that must be there is missing.
    #[error("invalid token: the claim {0:?} is missing")]
    MissingClaim(String),
    /// The token is good, but does not grant what was asked for.
    #[error("permissions denied: {0}")]
    Denied(String),
}

/// An API secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// The API keys of the server. Clones share the keys: [`KeySet::replace`] on one is seen by all.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Arc<RwLock<Arc<BTreeMap<String, Secret>>>>,
}

/// A token whose signature and times were good.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The API key that issued it.
    pub api_key: String,
    /// What it says.
    pub claims: Claims,
}

impl KeySet {
    /// Keys as (API key, secret).
    pub fn new<K: Into<String>, S: Into<String>>(keys: impl IntoIterator<Item = (K, S)>) -> Self {
        let set = Self::default();
        set.replace(keys);
        set
    }

    /// Puts other keys in place of the present ones: tokens of removed keys are refused from now on.
    pub fn replace<K: Into<String>, S: Into<String>>(&self, keys: impl IntoIterator<Item = (K, S)>) {
        let keys = keys.into_iter().map(|(key, secret)| (key.into(), Secret(secret.into()))).collect();
        *self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(keys);
    }

    fn snapshot(&self) -> Arc<BTreeMap<String, Secret>> {
        self.keys.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// True when no key is configured: then every token is refused.
    pub fn is_empty(&self) -> bool {
        self.snapshot().is_empty()
    }

    /// The first API key by name, which the server itself mints with.
    pub fn first_key(&self) -> Option<String> {
        self.snapshot().keys().next().cloned()
    }

    /// The secret of an API key, for signing webhooks.
    pub fn secret(&self, api_key: &str) -> Option<String> {
        self.snapshot().get(api_key).map(|secret| secret.0.clone())
    }

    /// Checks signature and times of a token and gives its claims.
    pub fn verify(&self, token: &str) -> Result<Verified, AccessError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AccessError::Malformed(format!("{} bytes, at most {TOKEN_BYTES_MAX}", token.len())));
        }
        // The issuer chooses the key; it is only believed once the signature of that key was good.
        let unverified: Issuer = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| AccessError::Malformed("it is not a JSON web token".into()))?;
        let api_key = unverified.iss;
        let keys = self.snapshot();
        let secret = keys.get(&api_key).ok_or_else(|| AccessError::UnknownKey(shorten(&api_key)))?;

        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(secret.0.as_bytes()), &validation).map_err(
            |error| match error.kind() {
                ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidAlgorithmName
                | ErrorKind::UnsupportedAlgorithm
                | ErrorKind::MissingAlgorithm => AccessError::Algorithm,
                ErrorKind::InvalidSignature => AccessError::Signature(shorten(&api_key)),
                ErrorKind::ExpiredSignature => AccessError::Expired,
                ErrorKind::ImmatureSignature => AccessError::NotYetValid,
                ErrorKind::MissingRequiredClaim(claim) => AccessError::MissingClaim(claim.clone()),
                // An algorithm that the library does not know (`none`) fails while its header is read.
                ErrorKind::Json(_) if algorithm_of(token).is_some_and(|name| name != "HS256") => AccessError::Algorithm,
                other => AccessError::Malformed(format!("{other:?}")),
            },
        )?;
        let mut claims = decoded.claims;
        // LiveKit: the subject is the identity; tokens of old SDKs carry it as the token id.
        if !claims.sub.is_empty() {
            claims.identity = claims.sub.clone();
        } else if claims.identity.is_empty() {
            claims.identity = claims.jti.clone();
        }
        Ok(Verified { api_key, claims })
    }

    /// Signs a token with the secret of `api_key`, valid from now on for `valid_for`.
    pub fn mint(&self, api_key: &str, claims: &Claims, valid_for: Duration) -> Result<String, AccessError> {
        let keys = self.snapshot();
        let secret = keys.get(api_key).ok_or_else(|| AccessError::UnknownKey(shorten(api_key)))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = claims.clone();
        claims.iss = api_key.to_owned();
        claims.sub = claims.identity.clone();
        claims.jti = String::new();
        claims.nbf = Some(now.as_secs());
        claims.exp = now.saturating_add(valid_for).as_secs();
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.0.as_bytes()))
            .map_err(|error| AccessError::Malformed(error.to_string()))
    }
}

/// The token of an `Authorization` header value.
pub fn bearer(header: &str) -> Result<&str, AccessError> {
    header.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty()).ok_or(AccessError::NotBearer)
}

#[derive(serde::Deserialize)]
struct Issuer {
    #[serde(default)]
    iss: String,
}

fn algorithm_of(token: &str) -> Option<String> {
    use base64::Engine as _;
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    Some(header.get("alg")?.as_str()?.to_owned())
}

/// What a peer wrote is echoed, but not without bound.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    const SECRET: &str = "a-secret-of-some-thirty-six-letters!";

    fn keys() -> KeySet {
        KeySet::new([("devkey", SECRET), ("other", "another-secret-of-thirty-six-letters")])
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn sign(claims: serde_json::Value, secret: &str, algorithm: Algorithm) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn join_claims(exp: u64, nbf: u64) -> serde_json::Value {
        json!({"iss": "devkey", "sub": "ann", "exp": exp, "nbf": nbf, "video": {"roomJoin": true, "room": "r"}})
    }

    #[test]
    fn a_good_token_gives_its_claims() {
        let verified = keys().verify(&sign(join_claims(now() + 60, now()), SECRET, Algorithm::HS256)).unwrap();
        assert_eq!(verified.api_key, "devkey");
        assert_eq!(verified.claims.identity, "ann");
        let video = verified.claims.video.unwrap();
        assert!(video.room_join && video.can_publish() && video.can_subscribe() && video.can_publish_data());
        assert_eq!(video.room, "r");
    }

    #[test]
    fn a_minted_token_is_verified_with_all_that_it_grants() {
        let mut claims = Claims::join("ann", "r");
        claims.name = "Ann".into();
        claims.attributes.insert("k".into(), "v".into());
        let token = keys().mint("other", &claims, Duration::from_secs(60)).unwrap();
        let verified = keys().verify(&token).unwrap();
        assert_eq!(verified.api_key, "other");
        assert_eq!((verified.claims.name.as_str(), verified.claims.attributes["k"].as_str()), ("Ann", "v"));
        assert!(verified.claims.video.unwrap().room_join);
    }

    #[test]
    fn wrong_secret_unknown_key_and_garbage_are_refused() {
        let good = join_claims(now() + 60, now());
        assert_eq!(
            keys().verify(&sign(good.clone(), "not-the-secret-not-the-secret-not-the", Algorithm::HS256)).unwrap_err(),
            AccessError::Signature("devkey".into())
        );
        let mut stranger = good;
        stranger["iss"] = json!("stranger");
        assert_eq!(keys().verify(&sign(stranger, SECRET, Algorithm::HS256)).unwrap_err(), AccessError::UnknownKey("stranger".into()));
        for garbage in ["", "abc", "a.b.c", "....", "eyJhbGciOiJIUzI1NiJ9.e30."] {
            assert!(keys().verify(garbage).is_err(), "{garbage:?}");
        }
        assert!(matches!(keys().verify(&"x".repeat(TOKEN_BYTES_MAX + 1)), Err(AccessError::Malformed(_))));
    }

    #[test]
    fn times_are_held_with_a_minute_of_leeway() {
        let verify = |exp, nbf| keys().verify(&sign(join_claims(exp, nbf), SECRET, Algorithm::HS256)).err();
        assert_eq!(verify(now() - 120, now() - 600), Some(AccessError::Expired));
        assert_eq!(verify(now() - 20, now() - 600), None);
        assert_eq!(verify(now() + 600, now() + 120), Some(AccessError::NotYetValid));
        assert_eq!(verify(now() + 600, now() + 20), None);
    }

    #[test]
    fn a_token_without_an_end_is_refused() {
        let claims = json!({"iss": "devkey", "sub": "ann", "video": {"roomJoin": true}});
        let refused = keys().verify(&sign(claims, SECRET, Algorithm::HS256)).unwrap_err();
        assert_eq!(refused, AccessError::MissingClaim("exp".into()));
    }

    #[test]
    fn other_algorithms_are_refused_none_among_them() {
        let claims = join_claims(now() + 60, now());
        let refused = keys().verify(&sign(claims.clone(), SECRET, Algorithm::HS512)).unwrap_err();
        assert_eq!(refused, AccessError::Algorithm);
        for (alg, signature) in [("none", ""), ("None", ""), ("none", "c2lnbmF0dXJl")] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
            let body = URL_SAFE_NO_PAD.encode(claims.to_string());
            let refused = keys().verify(&format!("{header}.{body}.{signature}")).unwrap_err();
            assert_eq!(refused, AccessError::Algorithm, "{alg} {signature:?}");
        }
    }

    #[test]
    fn keys_rotate_while_others_hold_the_set() {
        let keys = keys();
        let held = keys.clone();
        let token = keys.mint("devkey", &Claims::join("ann", "r"), Duration::from_secs(60)).unwrap();
        assert!(held.verify(&token).is_ok());
        keys.replace([("newkey", "a-new-secret-a-new-secret-a-new-secret")]);
        assert_eq!(held.verify(&token).unwrap_err(), AccessError::UnknownKey("devkey".into()));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", keys()).contains(SECRET));
    }

    #[test]
    fn bearer_headers() {
        assert_eq!(bearer("Bearer abc"), Ok("abc"));
        assert_eq!(bearer("Basic abc"), Err(AccessError::NotBearer));
        assert_eq!(bearer("Bearer "), Err(AccessError::NotBearer));
    }
}
