//! Names that stand before an entry of a tar archive, in entries of their own (GNU's and PAX's).
//!
//! Place: whoever reads a stranger's archive opens it with `entries()?.raw(true)` and gives each entry to [`Extended::read`] first. Rule:
//! nothing is read because a header says so: the `tar` crate would take a name of any declared size into memory.

use std::borrow::Cow;
use std::io::{self, Read};

use tar::EntryType;

use crate::vm::VmError;

/// A name or a PAX header, bytes at most.
const EXTENSION_BYTES: u64 = 64 << 10;

/// Such entries before one of the archive's own; the formats have up to three.
const IN_A_ROW: u32 = 16;

/// What stands before the next entry.
#[derive(Default)]
pub(crate) struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    read: u32,
}

impl Extended {
    /// Takes the entry in when it speaks of the next one; whether it does.
    ///
    /// # Errors
    /// [`VmError::Invalid`] for a damaged or a sparse one, [`VmError::Exhausted`] for one too large, or too many in a row.
    pub(crate) fn read<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, VmError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(extension(entry)?),
            EntryType::GNULongLink => self.link = Some(extension(entry)?),
            EntryType::XHeader => self.pax(&extension(entry)?)?,
            EntryType::XGlobalHeader => drop(extension(entry)?),
            // What follows such a header is not in its size: nothing after it could be read.
            EntryType::GNUSparse => return Err(sparse()),
            _ => return Ok(false),
        }
        self.read += 1;
        if self.read > IN_A_ROW {
            return Err(VmError::Exhausted(format!("the archive has more than {IN_A_ROW} headers before one entry")));
        }
        Ok(true)
    }

    /// The path and the link's target of the entry that all this stood before; ready for the next.
    pub(crate) fn take(&mut self, header: &tar::Header) -> (Vec<u8>, Option<Vec<u8>>) {
        let Self { path, link, .. } = std::mem::take(self);
        (path.unwrap_or_else(|| header.path_bytes().into_owned()), link.or_else(|| header.link_name_bytes().map(Cow::into_owned)))
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<(), VmError> {
        for record in tar::PaxExtensions::new(bytes) {
            let record = record.map_err(|error| broken(&error))?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                // The size in the header would no longer be true: only files above 8 GiB have this.
                b"size" => return Err(VmError::Exhausted("the archive has a file of more than 8 GiB".into())),
                key if key.starts_with(b"GNU.sparse") => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn extension<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, VmError> {
    let mut bytes = Vec::new();
    entry.take(EXTENSION_BYTES + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    if bytes.len() as u64 > EXTENSION_BYTES {
        return Err(VmError::Exhausted(format!("the archive has a name or header of more than {EXTENSION_BYTES} bytes")));
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn sparse() -> VmError {
    VmError::Invalid("the archive has sparse files: repack it without --sparse".into())
}

/// What the archive's bytes, or their sender, did wrong.
pub(crate) fn broken(error: &io::Error) -> VmError {
    VmError::Invalid(format!("the archive cannot be read: {error}"))
}
