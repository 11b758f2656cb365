//! Files that are reread while the server runs: keys and certificates. They are looked at every two seconds, since a look costs
//! microseconds, works on every file system, and sees what editors and secret mounts do (replace the file, or a link above it).

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is seen of a file: when it was changed, how large it is, which it is. `None`: it is not there.
type Seen = Vec<Option<(SystemTime, u64, u64)>>;

/// Waits for changes of a set of files.
#[derive(Debug)]
pub struct Changes {
    files: Vec<PathBuf>,
    seen: Seen,
}

impl Changes {
    /// Changes from now on.
    pub fn of(files: Vec<PathBuf>) -> Self {
        let seen = look(&files);
        Self { files, seen }
    }

    /// Returns when something changed and stayed as it is for one look: whoever writes two files is not met between them.
    pub async fn next(&mut self) {
        let mut settled = self.seen.clone();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = look(&self.files);
            if now != self.seen && now == settled {
                self.seen = now;
                return;
            }
            settled = now;
        }
    }
}

fn look(files: &[PathBuf]) -> Seen {
    use std::os::unix::fs::MetadataExt;
    files
        .iter()
        .map(|file| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_once_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "1").unwrap();
        let mut changes = Changes::of(vec![a.clone(), b.clone()]);
        let quiet = tokio::time::timeout(10 * LOOK_EVERY, changes.next()).await;
        assert!(quiet.is_err(), "nothing changed");
        for change in [(&a, "22"), (&b, "new")] {
            std::fs::write(change.0, change.1).unwrap();
            tokio::time::timeout(10 * LOOK_EVERY, changes.next()).await.expect("a change");
        }
        std::fs::remove_file(&b).unwrap();
        tokio::time::timeout(10 * LOOK_EVERY, changes.next()).await.expect("a file that is gone is a change");
    }
}
