//! What a caller may do, by name: `vectors:read`, `jobs:write`, ... One bit each. No scope contains another.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something that can be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scope {
    /// See jobs and their progress.
    JobsRead,
    /// Submit, cancel and schedule jobs.
    JobsWrite,
    /// See sandboxes, their logs and events.
    SandboxesRead,
    /// Make, use and delete sandboxes.
    SandboxesWrite,
    /// Query collections.
    VectorsRead,
    /// Change collections.
    VectorsWrite,
    /// Browse and read files.
    FilesRead,
    /// Write and delete files.
    FilesWrite,
    /// Make, list and revoke API keys of the tenant, with any scopes.
    KeysAdmin,
}

impl Scope {
    /// All, in order.
    pub const ALL: [Self; 9] = [
        Self::JobsRead,
        Self::JobsWrite,
        Self::SandboxesRead,
        Self::SandboxesWrite,
        Self::VectorsRead,
        Self::VectorsWrite,
        Self::FilesRead,
        Self::FilesWrite,
        Self::KeysAdmin,
    ];

    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::SandboxesRead => "sandboxes:read",
            Self::SandboxesWrite => "sandboxes:write",
            Self::VectorsRead => "vectors:read",
            Self::VectorsWrite => "vectors:write",
            Self::FilesRead => "files:read",
            Self::FilesWrite => "files:write",
            Self::KeysAdmin => "keys:admin",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no scope; there are {}", list(&Scope::ALL))]
pub struct ScopeError {
    text: String,
}

fn list(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let named = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        named.ok_or_else(|| ScopeError { text: text.chars().filter(|c| !c.is_control()).take(32).collect() })
    }
}

/// A set of scopes; as JSON an array of their names.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// Is the scope in it?
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Is nothing in it?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// Their names.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|scope| scope.as_str().to_owned()).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::as_str)).finish()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl FromStr for Scopes {
    type Err = ScopeError;

    /// Reads names with commas between.
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Scope::from_str).collect()
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().map(|name| name.parse().map_err(D::Error::custom)).collect::<Result<_, _>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_back_and_each_has_a_bit_of_its_own() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(Scopes::from_iter([scope]).iter().collect::<Vec<_>>(), [scope]);
        }
        let all: Scopes = Scope::ALL.into_iter().collect();
        assert_eq!(all.names().len(), Scope::ALL.len());
        assert_eq!(serde_json::to_string(&all).unwrap().parse::<serde_json::Value>().unwrap().as_array().unwrap().len(), 9);
    }

    #[test]
    fn what_is_no_scope_is_refused_by_name() {
        for bad in ["vectors", "vectors:", "VECTORS:READ", "*", "vectors:read\n", "jobs:read jobs:write"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
        let error = "jobs:read,jobs:wirte".parse::<Scopes>().unwrap_err().to_string();
        assert!(error.contains("jobs:wirte") && error.contains("jobs:write"), "{error}");
        assert!("".parse::<Scopes>().unwrap().is_empty());
        assert!(serde_json::from_str::<Scopes>(r#"["jobs:read", 7]"#).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_set_of_known_names_or_refused(text in ".{0,80}") {
            if let Ok(scopes) = text.parse::<Scopes>() {
                prop_assert_eq!(scopes.to_string().parse::<Scopes>(), Ok(scopes));
                let named: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
                prop_assert!(scopes.iter().all(|scope| named.contains(&scope.as_str())));
            }
        }

        #[test]
        fn sets_survive_text_and_json(bits in 0_u16..512) {
            let scopes = Scopes(bits);
            prop_assert_eq!(scopes.to_string().parse::<Scopes>(), Ok(scopes));
            prop_assert_eq!(serde_json::from_str::<Scopes>(&serde_json::to_string(&scopes).unwrap()).unwrap(), scopes);
        }
    }
}
