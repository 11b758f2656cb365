//! Checksums that stores keep of a file, and one pass over content that answers them all.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Dropbox hashes blocks of this many bytes, then the hashes.
const DROPBOX_BLOCK: usize = 4 * 1024 * 1024;

/// What a store says of a file's content; lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// SHA-256 of the content.
    Sha256(String),
    /// Dropbox's content hash: SHA-256 of the SHA-256s of blocks of 4 MiB.
    Dropbox(String),
}

/// Hashes content as it passes.
pub struct Digest {
    whole: Sha256,
    block: Sha256,
    block_bytes: usize,
    blocks: Sha256,
    bytes: u64,
    dropbox: bool,
}

impl Digest {
    /// SHA-256, and Dropbox's hash if asked for (it doubles the work).
    pub fn new(dropbox: bool) -> Self {
        Self { whole: Sha256::new(), block: Sha256::new(), block_bytes: 0, blocks: Sha256::new(), bytes: 0, dropbox }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        self.bytes += bytes.len() as u64;
        while self.dropbox && !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(DROPBOX_BLOCK - self.block_bytes));
            self.block.update(now);
            self.block_bytes += now.len();
            bytes = later;
            if self.block_bytes == DROPBOX_BLOCK {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.blocks.update(std::mem::take(&mut self.block).finalize());
        self.block_bytes = 0;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 and Dropbox's hash (of nothing, if it was not asked for).
    pub fn finish(mut self) -> (String, String) {
        if self.block_bytes > 0 {
            self.end_block();
        }
        (hex(&self.whole.finalize()), hex(&self.blocks.finalize()))
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_documents() {
        let mut digest = Digest::new(true);
        digest.update(b"ab");
        digest.update(b"c");
        let (sha256, dropbox) = digest.finish();
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(dropbox, hex(&Sha256::digest(Sha256::digest(b"abc"))));
    }

    #[test]
    fn blocks_end_where_dropbox_ends_them_however_the_bytes_come() {
        let content = vec![7; DROPBOX_BLOCK + 10];
        let (first, second) = content.split_at(DROPBOX_BLOCK);
        let expected = hex(&Sha256::digest([Sha256::digest(first), Sha256::digest(second)].concat()));
        let mut digest = Digest::new(true);
        content.chunks(999_983).for_each(|part| digest.update(part));
        assert_eq!(digest.finish().1, expected);
    }
}
