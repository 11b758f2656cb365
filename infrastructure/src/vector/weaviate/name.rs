//! What things are called at Weaviate: collections, so that tenants cannot meet, and objects.

use crate::tenant::Tenant;
use crate::vector::Address;

/// The namespace of the objects' UUIDs.
const NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0x6f1c_2f0e_94a3_4d7b_8a55_0e6d_3c1b_7a42);

/// The object's name: the UUIDv5 of the id.
pub fn object_id(id: &str) -> uuid::Uuid {
    let bytes = [NAMESPACE.as_bytes(), id.as_bytes()].concat();
    // As RFC 9562 has it; two ids that collide on purpose meet in their owner's own collection alone.
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &bytes);
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_sha1_bytes(first).into_uuid()
}

/// A collection's name at Weaviate: `Al_tTENANT_tNAME`, with `_d` for a hyphen and `_u` for an underscore. Weaviate takes letters, digits and
/// underscores, and names that differ in case alone are the same to it: so case says nothing here.
pub fn class_of(address: &Address) -> String {
    format!("{}{}", prefix(address.tenant()), escaped(address.name()))
}

fn prefix(tenant: &Tenant) -> String {
    format!("Al_t{}_t", escaped(tenant.as_str()))
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut name, c| {
        match c {
            '-' => name.push_str("_d"),
            '_' => name.push_str("_u"),
            c => name.push(c),
        }
        name
    })
}

/// Reads a name back, if it is one of this tenant's.
pub fn address_of(tenant: &Tenant, class: &str) -> Option<Address> {
    let name = class.strip_prefix(&prefix(tenant))?.replace("_d", "-").replace("_u", "_");
    Address::new(tenant, &name).ok().filter(|address| class_of(address) == class)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_never_meet_even_where_case_says_nothing(a in "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", b in "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?",
                                                         x in "[tdu0-9]([tdu_-]{0,6}[tdu0-9])?", y in "[tdu0-9]([tdu_-]{0,6}[tdu0-9])?") {
            let (a, b): (Tenant, Tenant) = (a.parse().unwrap(), b.parse().unwrap());
            let (left, right) = (Address::new(&a, &x).unwrap(), Address::new(&b, &y).unwrap());
            let (one, other) = (class_of(&left), class_of(&right));
            prop_assert_eq!(one.to_lowercase() == other.to_lowercase(), left == right);
            prop_assert_eq!(address_of(&a, &one), Some(left.clone()));
            prop_assert_eq!(address_of(&b, &one).is_some(), a == b);
        }
    }

    #[test]
    fn the_longest_name_is_one_that_weaviate_takes() {
        let tenant: Tenant = format!("a{}a", "-".repeat(46)).parse().unwrap();
        let address = Address::new(&tenant, &format!("a{}a", "_".repeat(62))).unwrap();
        assert!(class_of(&address).len() <= 230);
    }

    #[test]
    fn an_object_is_called_by_the_uuidv5_of_its_id() {
        // Python: uuid.uuid5(uuid.UUID("6f1c2f0e-94a3-4d7b-8a55-0e6d3c1b7a42"), "日本語/id with spaces?&#%")
        assert_eq!(object_id("日本語/id with spaces?&#%").to_string(), "585964ee-2bdd-513f-8a76-e4f754586daf");
    }
}
