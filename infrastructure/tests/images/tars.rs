//! Archives as strangers make them: every field as one likes.

use std::path::{Path, PathBuf};

use auralink_infrastructure::vm::image::Images;
use auralink_infrastructure::vm::image::unpack::Bounds;
use tempfile::TempDir;

/// One entry, its header written byte by byte: the crate's setters refuse much of what is tried here.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    /// What the header says; the content is padded to it or not as it is.
    pub size: u64,
    pub content: Vec<u8>,
}

pub fn entry(kind: u8, path: &str, link: &str, content: &[u8]) -> Entry {
    Entry { path: path.into(), kind, link: link.into(), mode: 0o755, size: content.len() as u64, content: content.to_vec() }
}

pub fn file(path: &str, content: &[u8]) -> Entry {
    entry(b'0', path, "", content)
}

pub fn folder(path: &str) -> Entry {
    entry(b'5', path, "", b"")
}

pub fn link(path: &str, target: &str) -> Entry {
    entry(b'2', path, target, b"")
}

pub fn hard(path: &str, target: &str) -> Entry {
    entry(b'1', path, target, b"")
}

pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = [0_u8; 512];
        let field = |header: &mut [u8; 512], at: usize, most: usize, bytes: &[u8]| {
            let bytes = &bytes[..bytes.len().min(most)];
            header[at..at + bytes.len()].copy_from_slice(bytes);
        };
        field(&mut header, 0, 100, &entry.path);
        field(&mut header, 100, 8, format!("{:07o}", entry.mode).as_bytes());
        field(&mut header, 108, 8, b"0000000");
        field(&mut header, 116, 8, b"0000000");
        if entry.size < 1 << 33 {
            field(&mut header, 124, 12, format!("{:011o}", entry.size).as_bytes());
        } else {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&entry.size.to_be_bytes());
        }
        field(&mut header, 136, 12, b"00000000000");
        header[156] = entry.kind;
        field(&mut header, 157, 100, &entry.link);
        field(&mut header, 257, 8, b"ustar  \0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        field(&mut header, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&entry.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1_024, 0);
    out
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packer, bytes).unwrap();
    packer.finish().unwrap()
}

pub struct Place {
    pub dir: TempDir,
    pub images: Images,
}

pub fn place(bounds: Bounds) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("images"), bounds, 16).unwrap();
    Place { dir, images }
}

impl Place {
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    /// Everything below the place, for finding what should not be there.
    pub fn all(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, found);
                }
                found.push(path);
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found.sort();
        found
    }
}

pub fn unused(_: &str) -> bool {
    false
}
