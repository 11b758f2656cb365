//! What a manifest says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::vm::VmError;

/// Tools of one sandbox at most.
const MAX_TOOLS: usize = 32;
/// Folders and variables of one tool at most.
const MAX_PARTS: usize = 32;

/// The tools of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// In the order of `PATH`.
    pub tools: Vec<Tool>,
}

/// One tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `node`.
    pub name: String,
    /// `22.11.0`.
    pub version: String,
    /// Where its archive is: `http`, `https` or `file`. `.tar`, `.tar.gz` and `.tgz` are unpacked, anything else is the program itself.
    pub url: String,
    /// SHA-256 of that, 64 hexadecimal digits.
    pub sha256: String,
    /// Folders of programs in it, for `PATH`.
    #[serde(default = "here")]
    pub bin: Vec<String>,
    /// Environment; `{root}` is the tool's folder.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The archive has one folder with everything, which is left out.
    #[serde(default)]
    pub strip: bool,
}

fn here() -> Vec<String> {
    vec![".".into()]
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tool {} {}", self.name, self.version)
    }
}

impl Manifest {
    /// Whether it can be.
    ///
    /// # Errors
    /// [`VmError::Invalid`] says what is wrong.
    pub fn check(&self) -> Result<(), VmError> {
        if self.tools.len() > MAX_TOOLS {
            return Err(VmError::Invalid(format!("{} tools: a sandbox has at most {MAX_TOOLS}", self.tools.len())));
        }
        let mut seen = BTreeSet::new();
        for tool in &self.tools {
            tool.check()?;
            if !seen.insert(&tool.name) {
                return Err(VmError::Invalid(format!("the tool {} is named twice", tool.name)));
            }
        }
        Ok(())
    }
}

impl Tool {
    fn check(&self) -> Result<(), VmError> {
        let wrong = |what: String| Err(VmError::Invalid(what));
        let plain = |text: &str| {
            (1..=64).contains(&text.len())
                && !text.starts_with('.')
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
        };
        for (what, text) in [("name", &self.name), ("version", &self.version)] {
            if !plain(text) {
                return wrong(format!("a tool's {what} {text:?} must be 1 to 64 of letters, digits and ._+-"));
            }
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return wrong(format!("{self}: `sha256` must be 64 hexadecimal digits"));
        }
        self.address()?;
        if self.bin.len() > MAX_PARTS || self.env.len() > MAX_PARTS {
            return wrong(format!("{self} has more than {MAX_PARTS} folders or variables"));
        }
        let inside = |bin: &&String| {
            bin.len() < 1_024 && !bin.starts_with('/') && !bin.contains([':', '\0']) && bin.split('/').all(|part| part != "..")
        };
        if let Some(bin) = self.bin.iter().find(|bin| !inside(bin)) {
            return wrong(format!("{self}: {bin:?} is no folder in its archive"));
        }
        let name_of = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if let Some((name, _)) = self
            .env
            .iter()
            .find(|(name, value)| name.is_empty() || !name.bytes().all(name_of) || value.contains('\0') || value.len() > 4_096)
        {
            return wrong(format!("{self}: {name:?} is no environment variable, or its value is too long"));
        }
        Ok(())
    }

    /// Where it is.
    pub(super) fn address(&self) -> Result<Url, VmError> {
        match Url::parse(&self.url) {
            Ok(url) if ["http", "https", "file"].contains(&url.scheme()) => Ok(url),
            Ok(url) => Err(VmError::Invalid(format!("{self}: the scheme {:?} is none of http, https and file", url.scheme()))),
            Err(e) => Err(VmError::Invalid(format!("{self}: its URL: {e}"))),
        }
    }

    /// The last part of its URL.
    pub(super) fn file_name(&self) -> String {
        let url = self.address().ok();
        let last = url.as_ref().and_then(|url| url.path_segments()?.next_back()).unwrap_or_default();
        let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || "._+-".contains(*c)).take(128).collect();
        if plain.trim_matches('.').is_empty() { self.name.clone() } else { plain }
    }

    pub(super) fn is_archive(&self) -> bool {
        let name = self.file_name();
        [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
    }

    /// Its name in the cache: the archive and how it is unpacked.
    pub(super) fn key(&self) -> String {
        let how = match (self.is_archive(), self.strip) {
            (true, true) => "stripped".to_owned(),
            (true, false) => "whole".to_owned(),
            (false, _) => format!("file-{}", self.file_name()),
        };
        format!("{}-{how}", self.sha256.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool() -> Tool {
        serde_json::from_value(serde_json::json!({
            "name": "node", "version": "22.1.0", "url": "https://example.org/node-22.tar.gz?token=x", "sha256": "ab".repeat(32)
        }))
        .unwrap()
    }

    #[test]
    fn says_what_is_wrong() {
        let good = tool();
        assert_eq!(good.bin, ["."]);
        assert_eq!((good.file_name().as_str(), good.is_archive()), ("node-22.tar.gz", true));
        Manifest { tools: vec![good.clone()] }.check().unwrap();
        let cases: [(&str, Tool); 7] = [
            ("../up", Tool { name: "../up".into(), ..good.clone() }),
            ("sha256", Tool { sha256: "abc".into(), ..good.clone() }),
            ("ftp", Tool { url: "ftp://example.org/x".into(), ..good.clone() }),
            ("URL", Tool { url: "no url".into(), ..good.clone() }),
            ("../bin", Tool { bin: vec!["../bin".into()], ..good.clone() }),
            ("/usr/bin", Tool { bin: vec!["/usr/bin".into()], ..good.clone() }),
            ("A=B", Tool { env: BTreeMap::from([("A=B".into(), String::new())]), ..good.clone() }),
        ];
        for (word, tool) in cases {
            let error = Manifest { tools: vec![tool] }.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Manifest { tools: vec![good.clone(), good.clone()] }.check().is_err(), "twice");
        assert!(Manifest { tools: vec![good; 33] }.check().is_err(), "too many");
        assert!(serde_json::from_str::<Manifest>(r#"{"tools":[],"more":1}"#).is_err(), "unknown fields are told");
    }
}
