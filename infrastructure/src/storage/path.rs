//! A path within a store: checked once, here, before any engine sees it.

use std::fmt;
use std::str::FromStr;

/// Bytes of a whole path: S3 takes 1,024, and a tenant's prefix and a root stand before it.
const MAX_BYTES: usize = 800;
/// Bytes of one name: what Linux's file systems take.
const MAX_NAME: usize = 255;
/// Folders within folders.
const MAX_DEPTH: usize = 32;
/// Names that begin so are ours: half-written files.
pub(super) const RESERVED: &str = ".auralink-";

/// Relative, normal: no `.`, `..`, empty names, control characters, backslashes or leading slash. Empty: the store's root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct StorePath(String);

/// Why a text is no path of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no path in a store: {reason}")]
pub struct PathError {
    text: String,
    reason: &'static str,
}

impl StorePath {
    /// The store's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// As text, names joined by `/`; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its names, from the root.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Its last name; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.names().last()
    }

    /// The folder that it stands in; the root's is the root.
    pub fn folder(&self) -> Self {
        Self(self.0.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned()))
    }

    /// A path below this one.
    pub fn join(&self, below: &Self) -> Self {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => Self(format!("{}/{}", self.0, below.0)),
        }
    }

    /// The path of an entry in this folder.
    ///
    /// # Errors
    /// [`PathError`] when the name cannot stand in a path.
    pub fn child(&self, name: &str) -> Result<Self, PathError> {
        check_name(name).map_err(|reason| error(name, reason))?;
        Ok(self.join(&Self(name.to_owned())))
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "/" } else { &self.0 })
    }
}

impl FromStr for StorePath {
    type Err = PathError;

    /// A `/` at the end is taken away; `""` and `/` are the root.
    fn from_str(text: &str) -> Result<Self, PathError> {
        let plain = text.strip_suffix('/').unwrap_or(text);
        if plain.is_empty() {
            return Ok(Self::root());
        }
        if plain.len() > MAX_BYTES {
            return Err(error(text, "it is longer than 800 bytes"));
        }
        if plain.starts_with('/') {
            return Err(error(text, "it begins with `/`: paths are relative to the store"));
        }
        if plain.split('/').count() > MAX_DEPTH {
            return Err(error(text, "it has more than 32 names"));
        }
        for name in plain.split('/') {
            check_name(name).map_err(|reason| error(text, reason))?;
        }
        Ok(Self(plain.to_owned()))
    }
}

fn error(text: &str, reason: &'static str) -> PathError {
    PathError { text: text.chars().take(120).collect(), reason }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("a name in it is empty"),
        "." | ".." => Err("`.` and `..` are not followed"),
        name if name.len() > MAX_NAME => Err("a name in it is longer than 255 bytes"),
        name if name.contains('/') => Err("a name holds `/`"),
        name if name.contains('\\') => Err("it holds a backslash"),
        name if name.chars().any(char::is_control) => Err("it holds a control character"),
        name if name.starts_with(RESERVED) => Err("names that begin with `.auralink-` are the store's own"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_store_is_no_path() {
        for bad in ["/etc/passwd", "..", "a/../b", "../a", "a//b", "./a", "a/.", "a\0b", "a\nb", "a\\b", "//", ".auralink-x/y"] {
            assert!(bad.parse::<StorePath>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(801).parse::<StorePath>().is_err() && "x".repeat(256).parse::<StorePath>().is_err());
        assert!(vec!["a"; 33].join("/").parse::<StorePath>().is_err());
    }

    #[test]
    fn odd_names_are_paths() {
        for good in ["a b/c", "Ünïcödé/音声.wav", "100%#?&+.wav", "'quo\"te'", "...", "-rf", "a:b*c", "🎙.wav"] {
            assert_eq!(good.parse::<StorePath>().unwrap().as_str(), good);
        }
        let path: StorePath = "a/b/c.wav".parse().unwrap();
        assert_eq!((path.name(), path.folder().as_str()), (Some("c.wav"), "a/b"));
        assert_eq!("tenant".parse::<StorePath>().unwrap().join(&path).as_str(), "tenant/a/b/c.wav");
        assert!("/".parse::<StorePath>().unwrap().is_root());
    }
}
