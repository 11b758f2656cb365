//! API keys of the configuration: `keys` and the file that `key_file` names, which is reread when it changes.
//!
//! Rule: no secret is ever printed. Whatever stands where a key map should stand, an error names its kind and never its text; the
//! parser's own errors would quote it.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use auralink_signaling::access::KeySet;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::config::Config;
use crate::reload;

/// API key -> secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(pub BTreeMap<String, String>);

/// What LiveKit, too, asks of a secret; a shorter one can be found out from a token by trying.
const SECRET_BYTES: usize = 32;

impl Keys {
    /// Adds those of LIVEKIT_KEYS: `key: secret` pairs with commas between.
    pub fn add_from_environment(&mut self) -> anyhow::Result<()> {
        let Ok(text) = std::env::var("LIVEKIT_KEYS") else { return Ok(()) };
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, secret) = pair.split_once(':').context("LIVEKIT_KEYS must be `key: secret` pairs with commas between")?;
            self.0.insert(key.trim().to_owned(), secret.trim().to_owned());
        }
        Ok(())
    }
}

/// The keys of a configuration and of its key file; none when the server is to make its own.
pub fn configured(config: &Config) -> Result<Keys, KeyFileError> {
    let mut keys = config.keys.clone();
    if let Some(path) = &config.key_file {
        keys.0.extend(read(path)?.0);
    }
    for (key, secret) in &keys.0 {
        if secret.len() < SECRET_BYTES {
            tracing::warn!(
                key,
                "the secret of this key is shorter than {SECRET_BYTES} characters and can be guessed from a token: choose a longer one"
            );
        }
    }
    Ok(keys)
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeysVisitor)
    }
}

/// Takes a map of texts. A scalar where the map should be may be a secret: each is refused without being quoted.
struct KeysVisitor;

fn refused<E: Error>(what: &str) -> Result<Keys, E> {
    Err(E::custom(format!("`key: secret` lines were expected, not {what}")))
}

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`key: secret` lines")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Keys, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some((key, secret)) = entries.next_entry::<String, String>()? {
            if secret.is_empty() {
                return Err(A::Error::custom(format!("the secret of `{key}` is empty")));
            }
            keys.insert(key, secret);
        }
        Ok(Keys(keys))
    }

    fn visit_unit<E: Error>(self) -> Result<Keys, E> {
        Ok(Keys::default())
    }

    fn visit_none<E: Error>(self) -> Result<Keys, E> {
        Ok(Keys::default())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Keys, E> {
        refused("text")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Keys, E> {
        refused("a truth value")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Keys, E> {
        refused("a number")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Keys, E> {
        refused("a number")
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Keys, E> {
        refused("a number")
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Keys, E> {
        refused("a number")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Keys, E> {
        refused("a number")
    }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("the key file {path} cannot be read: {source}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("the key file {path} must hold `key: secret` lines: {message}")]
    Parse {
        /// Where.
        path: PathBuf,
        /// What is wrong; never a secret.
        message: String,
    },
    /// It holds nothing.
    #[error("the key file {path} holds no key: then nobody could join")]
    Empty {
        /// Where.
        path: PathBuf,
    },
}

/// Reads a key file.
pub fn read(path: &Path) -> Result<Keys, KeyFileError> {
    let io = |source| KeyFileError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), mode = format!("{:03o}", mode & 0o777), "the key file can be read by others: chmod 600");
    }
    let keys: Keys =
        serde_yaml_ng::from_str(&text).map_err(|error| KeyFileError::Parse { path: path.to_owned(), message: error.to_string() })?;
    if keys.0.is_empty() { Err(KeyFileError::Empty { path: path.to_owned() }) } else { Ok(keys) }
}

/// Replaces the server's keys whenever the file changes, by `fixed` and those of the file. A file that cannot be used leaves the old ones.
pub async fn follow(path: PathBuf, fixed: Keys, keys: KeySet) {
    let mut changes = reload::Changes::of(vec![path.clone()]);
    loop {
        changes.next().await;
        match read(&path) {
            Ok(Keys(read)) => {
                let mut all = fixed.0.clone();
                all.extend(read);
                tracing::info!(file = %path.display(), keys = ?all.keys().collect::<Vec<_>>(), "the API keys were reread");
                keys.replace(all);
            }
            Err(error) => {
                metrics::counter!("auralink_reload_failures_total", "file" => "keys").increment(1);
                tracing::error!(%error, "the changed key file cannot be used and the old keys stay: mend it, it is read again when it changes");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_there_no_secret_is_quoted() {
        for text in ["devkey=s3cret", "[s3cret]", "devkey: [s3cret]", "devkey: {s3cret: x}", "!s s3cret", "\"s3cret", "a: s3cret: b"] {
            let error = serde_yaml_ng::from_str::<Keys>(text).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
        for number in ["-31337", "31337.5", "31337", "devkey: [31337]", "3133731337313373133731337"] {
            let error = serde_yaml_ng::from_str::<Keys>(number).unwrap_err().to_string();
            assert!(!error.contains("31337"), "{number}: {error}");
        }
        let keys: Keys = serde_yaml_ng::from_str("devkey: s3cret\nother: 0123").unwrap();
        assert_eq!((keys.0["devkey"].as_str(), keys.0["other"].as_str()), ("s3cret", "0123"), "as it is written");
        assert_eq!(format!("{keys:?}"), r#"{"devkey", "other"}"#);
    }

    #[test]
    fn a_key_file_without_keys_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.yaml");
        assert!(read(&path).unwrap_err().to_string().contains("cannot be read"));
        for (text, expected) in [("", "no key"), ("{}", "no key"), ("a: ''", "empty"), ("- a", "sequence")] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("keys.yaml") && error.contains(expected), "{text}: {error}");
        }
        std::fs::write(&path, "a: one\nb: two\n").unwrap();
        assert_eq!(read(&path).unwrap().0.len(), 2);
    }
}
