//! Who may have a state folder: one server, or one restore. The kernel's lock (flock) on a file in it, which ends with the process, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StateError;

/// The lock; it is given back when this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder, or says who has it.
    pub fn take(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join("lock");
        let failed = |error: std::io::Error| StateError::Engine(format!("the lock {} cannot be taken: {error}", path.display()));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut holder = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            let who = if holder.is_empty() { "another process".to_owned() } else { format!("another AuraLink (process {holder})") };
            return Err(StateError::Locked(format!(
                "the state folder {} is in use by {who}: stop it, or give this one a folder of its own (`data_dir`); several servers share a state on PostgreSQL",
                folder.display()
            )));
        }
        // For the next one's message alone: what counts is the lock.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}
