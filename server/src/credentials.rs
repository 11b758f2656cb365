//! Safe without configuration: the first start makes a random API key and secret and an invitation for the page, and
//! keeps them in the data folder with mode 0600.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::{Deserialize, Serialize};

/// What the first start made.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// API key.
    pub api_key: String,
    /// API secret.
    pub api_secret: String,
    /// Secret of the page's URL: who has it may join rooms.
    pub invite: String,
}

/// Why the credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No access.
    #[error("{path}: {source}; the data folder must be writable (choose another with --data-dir)")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what we wrote.
    #[error("{path} is not a credentials file: {message}; mend it, or delete it to have new keys made")]
    Parse {
        /// Where.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The system gave no randomness.
    #[error("the operating system's random generator failed")]
    Random,
    /// A command found no credentials.
    #[error(
        "no API key: give --api-key and --api-secret, set LIVEKIT_API_KEY and LIVEKIT_API_SECRET, use --dev, or run on the server's machine ({path} does not exist)"
    )]
    Missing {
        /// Where it looked.
        path: PathBuf,
    },
}

impl Credentials {
    /// devkey / secret, as LiveKit's development mode.
    pub fn dev() -> Self {
        Self { api_key: "devkey".into(), api_secret: "secret".into(), invite: "dev".into() }
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("credentials.yaml")
    }

    /// Reads what an earlier start made.
    pub fn read(data_dir: &Path) -> Result<Self, CredentialsError> {
        let path = Self::path(data_dir);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_yaml_ng::from_str(&text).map_err(|error| {
                // The parser's own words may quote a secret.
                let place = error.location().map_or_else(String::new, |at| format!(" (line {})", at.line()));
                CredentialsError::Parse { path, message: format!("it must hold api_key, api_secret and invite as texts{place}") }
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(CredentialsError::Missing { path }),
            Err(source) => Err(CredentialsError::Io { path, source }),
        }
    }

    /// Reads them, or makes them if there are none.
    pub fn read_or_create(data_dir: &Path) -> Result<Self, CredentialsError> {
        match Self::read(data_dir) {
            Err(CredentialsError::Missing { .. }) => Self::create(data_dir),
            other => other,
        }
    }

    fn create(data_dir: &Path) -> Result<Self, CredentialsError> {
        let path = Self::path(data_dir);
        let io = |source| CredentialsError::Io { path: path.clone(), source };
        std::fs::create_dir_all(data_dir).map_err(io)?;
        let made = Self { api_key: format!("API{}", random_text(9)?), api_secret: random_text(32)?, invite: random_text(18)? };
        let text = serde_yaml_ng::to_string(&made).map_err(|e| CredentialsError::Parse { path: path.clone(), message: e.to_string() })?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        Ok(made)
    }

    /// As a key map.
    pub fn keys(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(self.api_key.clone(), self.api_secret.clone())])
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("api_key", &self.api_key).finish_non_exhaustive()
    }
}

/// URL-safe text of `bytes` random bytes from the system's generator.
pub fn random_text(bytes: usize) -> Result<String, CredentialsError> {
    let mut buffer = vec![0_u8; bytes];
    aws_lc_rs::rand::fill(&mut buffer).map_err(|_| CredentialsError::Random)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_kept_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Credentials::read_or_create(dir.path()).unwrap();
        let again = Credentials::read_or_create(dir.path()).unwrap();
        assert_eq!(first.api_secret, again.api_secret);
        let mode = std::fs::metadata(dir.path().join("credentials.yaml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&first.api_secret));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["api_key: [", "api_key: k\napi_secret: [31337]\ninvite: i\n", "31337", "api_key: k\n31337: s\n"] {
            std::fs::write(dir.path().join("credentials.yaml"), text).unwrap();
            let error = Credentials::read_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains("credentials.yaml") && !error.contains("31337"), "{error}");
        }
    }
}
