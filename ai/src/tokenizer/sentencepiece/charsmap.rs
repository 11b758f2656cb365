//! The table by which SentencePiece normalises characters: a double-array trie of what is replaced, and the replacements.
//!
//! Source: the layout of darts-clone's units, as `precompiled_charsmap` of normalizer_spec holds them.

use std::borrow::Cow;

/// An opened table; empty: nothing is replaced.
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharsMap {
    /// Reads the table.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self { units: Vec::new(), replacements: Vec::new() });
        }
        let wrong = || "its table of characters is cut short".to_owned();
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
        let (trie, replacements) = rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(wrong)?;
        let units = trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    /// The text with the longest matches replaced, from left to right.
    pub(super) fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.units.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut normal: Vec<u8> = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let (length, replacement) = self.longest(rest.as_bytes()).unwrap_or((character.len_utf8(), None));
            // A match that ends inside a character cannot be: the table was made of whole ones.
            let length = if rest.is_char_boundary(length) { length } else { character.len_utf8() };
            normal.extend_from_slice(replacement.unwrap_or(&rest.as_bytes()[..length]));
            rest = &rest[length..];
        }
        Cow::Owned(String::from_utf8_lossy(&normal).into_owned())
    }

    /// How many bytes match, and what stands for them.
    fn longest(&self, bytes: &[u8]) -> Option<(usize, Option<&[u8]>)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (index, &byte) in bytes.iter().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = (self.units.get(node)? & !(1 << 31)) as usize;
                let replacement = self.replacements.get(value..)?.split(|&byte| byte == 0).next();
                found = Some((index + 1, replacement));
            }
        }
        found
    }
}
