//! Installed tools as disks: a tool's folder never changes, so its disk is made once and every machine that wants it reads the same.

use std::path::PathBuf;

use auralink_guest::message::hex;
use serde::{Deserialize, Serialize};

use super::disks;
use crate::vm::{SharedFolder, VmError};

/// In errors: the engines of microVMs share this.
const ENGINE: &str = "microvm";

/// Most tools: QEMU's microvm has 24 places for devices, the others are the agent's, the disks' and the network's.
const MOST: usize = 20;

/// Most bytes on the kernel's command line, of 2,047 in all.
const MOST_WORDS: usize = 1_400;

/// The disk of one tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDisk {
    /// Its file, which is written once and by nobody here.
    pub image: PathBuf,
    /// Where the guest sees it.
    pub at: String,
}

/// The disks of a spec's folders.
pub async fn of(shared: &[SharedFolder]) -> Result<Vec<ToolDisk>, VmError> {
    if shared.len() > MOST {
        return Err(VmError::Unsupported { engine: ENGINE, what: format!("show a sandbox {} tools: {MOST} at most", shared.len()) });
    }
    let mut made = Vec::new();
    for folder in shared {
        if !folder.at.starts_with('/') {
            return Err(VmError::Invalid(format!("tools are shown at an absolute path, not at {:?}", folder.at)));
        }
        made.push(ToolDisk { image: disks::kept(&folder.from).await?, at: folder.at.clone() });
    }
    if words(&made).len() > MOST_WORDS {
        return Err(VmError::Unsupported { engine: ENGINE, what: "show a sandbox tools with names as long as these: take fewer".into() });
    }
    Ok(made)
}

/// What the kernel's command line says of them: the devices behind the root's and the disk's.
pub fn words(tools: &[ToolDisk]) -> String {
    if tools.is_empty() {
        return String::new();
    }
    let one = |(letter, tool): (char, &ToolDisk)| format!("vd{letter}:{}", hex(tool.at.as_bytes()));
    format!(" auralink.tools={}", ('c'..='z').zip(tools).map(one).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_follow_the_root_and_the_disk() {
        let tool = |at: &str| ToolDisk { image: "/x".into(), at: at.into() };
        assert_eq!(words(&[]), "");
        assert_eq!(words(&[tool("/a"), tool("/b")]), " auralink.tools=vdc:2f61,vdd:2f62");
    }
}
