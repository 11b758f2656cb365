//! Whose a collection is, and how engines write that down. Tenants cannot meet: the tenant is a part of every name that an engine sees,
//! and the mapping can be read back, so no two addresses share a name.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VectorError;
use crate::tenant::Tenant;

/// Longest name of a collection, bytes.
const MAX_NAME: usize = 64;

/// A collection's tenant and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    tenant: Tenant,
    name: String,
}

impl Address {
    /// A name is 1 to 64 of `a-z`, `0-9`, `-` and `_`, beginning and ending with a letter or digit.
    pub fn new(tenant: &Tenant, name: &str) -> Result<Self, VectorError> {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let fits = (1..=MAX_NAME).contains(&bytes.len()) && bytes.iter().all(|b| plain(b) || matches!(b, b'-' | b'_'));
        if fits && bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain) {
            return Ok(Self { tenant: tenant.clone(), name: name.to_owned() });
        }
        let shown: String = name.chars().take(80).collect();
        Err(VectorError::Invalid(format!(
            "{shown:?} cannot name a collection: 1 to {MAX_NAME} of a-z, 0-9, '-' and '_' are taken, beginning and ending with a letter or digit"
        )))
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Its name within the tenant.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One name for engines that have no tenants: `al.TENANT.NAME`. Neither part holds a dot, so it can be read back.
    pub fn flat(&self) -> String {
        format!("{}{}", Self::prefix(&self.tenant), self.name)
    }

    /// What the flat names of a tenant's collections begin with.
    pub fn prefix(tenant: &Tenant) -> String {
        format!("al.{tenant}.")
    }

    /// Reads a flat name back, if it is one of this tenant's.
    pub fn of_flat(tenant: &Tenant, flat: &str) -> Option<Self> {
        Self::new(tenant, flat.strip_prefix(&Self::prefix(tenant))?).ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn flat_names_never_meet(a in "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", b in "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?",
                                 x in "[a-z0-9]([a-z0-9_-]{0,6}[a-z0-9])?", y in "[a-z0-9]([a-z0-9_-]{0,6}[a-z0-9])?") {
            let (a, b): (Tenant, Tenant) = (a.parse().unwrap(), b.parse().unwrap());
            let (left, right) = (Address::new(&a, &x).unwrap(), Address::new(&b, &y).unwrap());
            prop_assert_eq!(left.flat() == right.flat(), left == right);
            prop_assert_eq!(Address::of_flat(&a, &left.flat()), Some(left.clone()));
            prop_assert_eq!(Address::of_flat(&b, &left.flat()).is_some(), a == b);
        }
    }

    #[test]
    fn names_are_plain_and_bounded() {
        for bad in ["", "-a", "a_", "A", "a.b", "../x", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(Address::new(&Tenant::default(), bad).is_err(), "{bad:?}");
        }
        assert!(Address::new(&Tenant::default(), &"x".repeat(64)).is_ok());
    }
}
