//! What a sandbox shall be: checked once, where it comes in, so that engines need not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::VmError;
use crate::tenant::Tenant;

/// `sb-` and 20 of `a-z2-7` (100 random bits): safe in file names, container names and interface names (its first 8 after `sb-`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// A new one, from the system's generator.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, VmError> {
        let mut bytes = [0_u8; 20];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| VmError::Io { what: "making an id".into(), source: std::io::Error::other("no random bytes") })?;
        let letters = bytes.iter().map(|b| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(b & 31)]));
        Ok(Self(format!("sb-{}", letters.collect::<String>())))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 8 characters that tell sandboxes of one machine apart where names are short (network interfaces have 15).
    pub fn short(&self) -> &str {
        &self.0[3..11]
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SandboxId {
    type Err = VmError;

    fn from_str(text: &str) -> Result<Self, VmError> {
        let rest = text.strip_prefix("sb-").unwrap_or_default();
        let plain = |b: u8| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b);
        if rest.len() == 20 && rest.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(VmError::Invalid(format!(
                "{:?} is no sandbox id: they look like sb-abcdefghij234567abcd",
                text.chars().take(64).collect::<String>()
            )))
        }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = VmError;

    fn try_from(text: String) -> Result<Self, VmError> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

/// What its files begin as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The host's own programs, read-only (`/usr`, `/bin`, `/lib*`, a few files of `/etc`), with a private `/tmp`, `/home` and `/workspace`.
    /// The process engine alone has it.
    Host,
    /// An image by name: one that was imported into this server's image folder, or, with Docker and Podman, one that they have.
    Image(String),
    /// A folder or a tar archive (`.tar`, `.tar.gz`) of a root filesystem on the server, below a folder that the configuration allows.
    RootFs(PathBuf),
    /// A snapshot that [`super::Engine::snapshot`] wrote.
    Snapshot(PathBuf),
}

/// What it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Thousandths of a CPU: 1,000 is one whole.
    pub cpu_millis: u32,
    /// Bytes of memory; swap is not given.
    pub memory_bytes: u64,
    /// Bytes it may write to its own disk.
    pub disk_bytes: u64,
    /// Processes and threads at once.
    pub processes: u32,
    /// Seconds it may live, from its start; 0: until it is deleted.
    pub lifetime_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_millis: 1_000, memory_bytes: 512 << 20, disk_bytes: 1 << 30, processes: 256, lifetime_s: 3_600 }
    }
}

/// What it can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing but itself.
    #[default]
    None,
    /// The world behind this machine, never this machine's own loopback, its link-local or its private networks.
    Nat,
    /// These destinations alone.
    Allow(Vec<Destination>),
}

/// A destination that an allow-list names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// An address.
    pub address: IpAddr,
    /// Bits of the address that count; 32 or 128: it alone.
    pub prefix: u8,
    /// TCP port; none: all of TCP and UDP.
    pub port: Option<u16>,
}

/// What a sandbox shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Whose it is.
    pub tenant: Tenant,
    /// What its files begin as.
    pub source: Source,
    /// What it may use.
    pub limits: Limits,
    /// What it can reach.
    pub network: Network,
    /// Environment of its programs.
    pub env: BTreeMap<String, String>,
    /// Folder that programs run in unless they say otherwise.
    pub workdir: String,
    /// Labels of the caller's, for finding it again.
    pub labels: BTreeMap<String, String>,
    /// `runsc` and such, where the engine takes one; empty: its default.
    pub runtime: String,
    /// Folders of the server that it sees read-only: installed tools. The service fills it, never a caller.
    #[serde(default)]
    pub shared: Vec<SharedFolder>,
}

/// A folder of the server that a sandbox sees read-only. An engine that cannot share copies it, or says that it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFolder {
    /// On the server.
    pub from: PathBuf,
    /// Absolute path in the sandbox.
    pub at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_and_differ() {
        let (one, two) = (SandboxId::random().unwrap(), SandboxId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse::<SandboxId>().unwrap(), one);
        assert_eq!(one.short().len(), 8);
        for bad in ["", "sb-", "sb-../../etc", "sb-ABCDEFGHIJ234567ABCD", "xx-abcdefghij234567abcd"] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }
}
