//! Whose a thing is. Every sandbox, collection, file and job belongs to one tenant, and no call of one tenant sees another's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a tenant, bytes.
const MAX_BYTES: usize = 48;

/// The name of a tenant: 1 to 48 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit. It is safe in
/// file names, SQL values, URLs and labels of containers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

impl Tenant {
    /// The tenant of who never named one.
    pub const DEFAULT: &'static str = "default";

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text names no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a tenant: 1 to {MAX_BYTES} of a-z, 0-9 and '-' are taken, beginning and ending with a letter or digit")]
pub struct TenantError(String);

impl FromStr for Tenant {
    type Err = TenantError;

    fn from_str(text: &str) -> Result<Self, TenantError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(|b| plain(*b) || *b == b'-');
        let ends = bytes.first().is_some_and(|b| plain(*b)) && bytes.last().is_some_and(|b| plain(*b));
        if fits && ends { Ok(Self(text.to_owned())) } else { Err(TenantError(text.chars().take(64).collect())) }
    }
}

impl TryFrom<String> for Tenant {
    type Error = TenantError;

    fn try_from(text: String) -> Result<Self, TenantError> {
        text.parse()
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> Self {
        tenant.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_bounded() {
        for good in ["default", "a", "team-7", &"x".repeat(48)] {
            assert_eq!(good.parse::<Tenant>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", "é", &"x".repeat(49)] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad:?}");
        }
    }
}
