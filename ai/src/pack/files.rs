//! The files of a pack: a folder, or the copy inside the binary. Bounded reads, and errors that name the file.

#![expect(clippy::disallowed_types, reason = "this is the file that reads files")]

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::PackError;

/// The largest file of a pack, bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// The pack inside the binary: the English demonstrator.
#[derive(rust_embed::RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/packs/en-demo/"]
struct BuiltIn;

/// Where a pack's files are.
pub(super) enum PackFiles {
    Folder(PathBuf),
    BuiltIn,
}

impl PackFiles {
    /// Reads the file `name`, which must be a plain name: a manifest cannot reach out of its folder.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Cow<'static, [u8]>, PackError> {
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(PackError::Invalid {
                what: format!("{}/manifest.json", self.place()),
                reason: format!("`{name}` is not a plain file name"),
            });
        }
        match self {
            Self::Folder(folder) => read(&folder.join(name), limit).map(Cow::Owned),
            Self::BuiltIn => match BuiltIn::get(name) {
                Some(file) => Ok(file.data),
                None => Err(PackError::Missing { path: format!("{}/{name}", self.place()), reason: "it is not in this binary".to_owned() }),
            },
        }
    }

    pub(super) fn place(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::BuiltIn => "(built in)".to_owned(),
        }
    }
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`PackError::Missing`] with the system's reason, [`PackError::Invalid`] when it is larger.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PackError> {
    let missing = |error: std::io::Error| PackError::Missing { path: path.display().to_string(), reason: error.to_string() };
    let file = File::open(path).map_err(missing)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(missing)?;
    if bytes.len() as u64 > limit {
        return Err(PackError::Invalid { what: path.display().to_string(), reason: format!("it is larger than {limit} bytes") });
    }
    Ok(bytes)
}
