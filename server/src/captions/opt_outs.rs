//! Who does not want to be heard in a room, by identity. Rule: a wish stands until it is taken back or the room ends; leaving and
//! coming back (a full reconnect is both) changes nothing. Of those who are gone, so many are remembered; then the oldest wish goes.

use std::collections::HashMap;

/// Wishes that are remembered; beyond it the oldest of somebody who is gone is forgotten. More than a room takes participants.
const LIMIT: usize = 4_096;

/// The wishes of a room.
#[derive(Debug, Default)]
pub struct OptOuts {
    /// identity -> when the wish was said, counted.
    said: HashMap<String, u64>,
    count: u64,
}

impl OptOuts {
    /// `identity` does not want to be heard. `is_here` says who may not be forgotten.
    pub fn insert(&mut self, identity: &str, is_here: impl Fn(&str) -> bool) {
        if self.said.len() >= LIMIT && !self.said.contains_key(identity) {
            let gone = self.said.iter().filter(|(other, _)| !is_here(other));
            if let Some(oldest) = gone.min_by_key(|(_, said)| **said).map(|(other, _)| other.clone()) {
                metrics::counter!("auralink_limit_hits_total", "limit" => "opt_outs").increment(1);
                self.said.remove(&oldest);
            }
        }
        self.count += 1;
        self.said.insert(identity.to_owned(), self.count);
    }

    /// The wish is taken back.
    pub fn remove(&mut self, identity: &str) {
        self.said.remove(identity);
    }

    /// Does `identity` not want to be heard?
    pub fn contains(&self, identity: &str) -> bool {
        self.said.contains_key(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_the_oldest_who_is_gone_is_forgotten_and_nobody_who_is_here() {
        let mut wishes = OptOuts::default();
        for number in 0..LIMIT {
            wishes.insert(&number.to_string(), |_| false);
        }
        wishes.insert("0", |_| false); // said again: not the oldest any more
        wishes.insert("new", |other| other == "1");
        assert_eq!(wishes.said.len(), LIMIT);
        assert!(wishes.contains("new") && wishes.contains("0") && wishes.contains("1"));
        assert!(!wishes.contains("2"), "the oldest of those who are gone");
        wishes.insert("one more", |_| true);
        assert!(wishes.contains("one more") && wishes.contains("3"), "nobody who is here is forgotten");
        wishes.remove("new");
        assert!(!wishes.contains("new"));
    }
}
