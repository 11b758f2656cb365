//! A credential: read from the environment or from a file, never from a configuration's own text, and never printed.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// A text that `Debug` and logs do not show. Errors never hold one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the request that needs it, and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret stands: `{env: NAME}` or `{file: PATH}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file; one newline at its end is not part of the secret.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Takes `{env: NAME}` or `{file: PATH}`. Whatever else stands there may be the secret itself: it is refused without being quoted, which the
/// parser's own errors would do.
struct SourceVisitor;

/// What a scalar is answered with.
const NOT_HERE: &str = "a secret does not stand in the configuration itself: write {env: NAME} or {file: PATH}, where it is read from";

macro_rules! scalars_are_refused {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E: Error>(self, _: $kind) -> Result<SecretSource, E> {
            Err(E::custom(NOT_HERE))
        })*
    };
}

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{env: NAME} or {file: PATH}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<SecretSource, A::Error> {
        let (place, name) = entries.next_entry::<String, String>()?.ok_or_else(|| A::Error::custom(NOT_HERE))?;
        if entries.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("a secret has one place: {env: NAME} or {file: PATH}"));
        }
        match place.as_str() {
            "env" => Ok(SecretSource::Env(name)),
            "file" => Ok(SecretSource::File(name.into())),
            _ => Err(A::Error::custom(NOT_HERE)),
        }
    }

    scalars_are_refused!(visit_str: &str, visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64);

    fn visit_unit<E: Error>(self) -> Result<SecretSource, E> {
        Err(E::custom(NOT_HERE))
    }
}

/// Why a secret cannot be read. Never holds it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or empty.
    #[error("the environment variable {0} is not set, or empty: put the secret there")]
    Env(String),
    /// The file cannot be read.
    #[error("the secret's file {path} cannot be read: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is empty.
    #[error("the secret's file {0} is empty")]
    Empty(PathBuf),
}

impl SecretSource {
    /// Reads the secret now.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => match std::env::var(name) {
                Ok(text) if !text.is_empty() => Ok(Secret(text)),
                _ => Err(SecretError::Env(name.clone())),
            },
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| SecretError::File { path: path.clone(), source })?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() { Err(SecretError::Empty(path.clone())) } else { Ok(Secret(text.to_owned())) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_and_a_secret_in_its_stead_is_refused_unquoted() {
        let parse = |text: &str| serde_json::from_str::<SecretSource>(text);
        assert_eq!(parse(r#"{"env": "NAME"}"#).unwrap(), SecretSource::Env("NAME".into()));
        assert_eq!(parse(r#"{"file": "/a"}"#).unwrap(), SecretSource::File("/a".into()));
        for text in [
            r#""s3cret31337""#,
            "31337",
            "-31337",
            "31337.5",
            "true",
            "null",
            "{}",
            r#"{"secret": "s3cret"}"#,
            r#"{"env": "A", "file": "b"}"#,
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("{env: NAME}") && !error.contains("s3cret") && !error.contains("31337"), "{text}: {error}");
        }
        assert!(parse(r#"["s3cret"]"#).is_err_and(|error| !error.to_string().contains("s3cret")));
    }

    #[test]
    fn a_secret_is_read_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "s3cret\n").unwrap();
        let secret = SecretSource::File(path.clone()).read().unwrap();
        assert_eq!(secret.reveal(), "s3cret");
        assert!(!format!("{secret:?}").contains("s3cret"));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(SecretSource::File(path).read(), Err(SecretError::Empty(_))));
        assert!(matches!(SecretSource::Env("AURALINK_NO_SUCH_VARIABLE".into()).read(), Err(SecretError::Env(_))));
    }
}
