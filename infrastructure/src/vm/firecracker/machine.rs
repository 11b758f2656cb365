//! How a machine was made: what is written down in its home, and in its snapshots.

use std::collections::BTreeMap;
use std::path::Path;

use auralink_guest::message::hex;
use serde::{Deserialize, Serialize};

use super::{ENGINE, PORT};
use crate::vm::qemu::tool_disks::{self, ToolDisk};
use crate::vm::{Network, SandboxId, Spec, VmError, disk};

/// The file that says it.
pub(super) const FILE: &str = "machine.json";

/// Memory of the kernel and the agent beside what programs may use, MiB.
const KERNEL_MIB: u64 = 96;

/// Least memory of programs, bytes.
const LEAST_MEMORY: u64 = 16 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    memory_bytes: u64,
    pub(super) cpus: u32,
    processes: u32,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    /// Whether it has a network interface.
    #[serde(default)]
    pub(super) network: bool,
    /// Read-only disks beside its own two.
    #[serde(default)]
    pub(super) tools: Vec<ToolDisk>,
}

impl Machine {
    pub(super) fn of(spec: &Spec, tools: Vec<ToolDisk>) -> Result<Self, VmError> {
        if spec.limits.memory_bytes < LEAST_MEMORY {
            return Err(VmError::Invalid(format!("{} bytes of memory are too few: {LEAST_MEMORY} at least", spec.limits.memory_bytes)));
        }
        Ok(Self {
            memory_bytes: spec.limits.memory_bytes,
            cpus: spec.limits.cpu_millis.div_ceil(1_000).clamp(1, 32),
            processes: spec.limits.processes,
            env: spec.env.clone(),
            workdir: spec.workdir.clone(),
            network: spec.network != Network::None,
            tools,
        })
    }

    /// Its memory, processors and devices are the snapshot's; the rest is the new spec's.
    pub(super) fn begun_from_snapshot(self, spec: &Spec, tools: &[ToolDisk]) -> Result<Self, VmError> {
        if self.network != (spec.network != Network::None) || self.tools != tools {
            let what = "begin from a snapshot with another network or other tools than it was taken with: its memory knows its devices";
            return Err(VmError::Unsupported { engine: ENGINE, what: what.into() });
        }
        Ok(Self { env: spec.env.clone(), workdir: spec.workdir.clone(), ..self })
    }

    pub(super) fn load(home: &Path, id: &SandboxId) -> Result<Self, VmError> {
        let json = std::fs::read(home.join(FILE))
            .map_err(|_| VmError::NotFound(format!("there is no sandbox or snapshot {id} in {}", home.display())))?;
        serde_json::from_slice(&json)
            .map_err(|e| VmError::Engine { engine: ENGINE, reason: format!("{FILE} in {} is damaged: {e}", home.display()) })
    }

    pub(super) fn save(&self, home: &Path) -> Result<(), VmError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| VmError::Invalid(format!("a machine that JSON cannot carry: {e}")))?;
        disk::write_whole(&home.join(FILE), &json).map_err(|source| VmError::Io { what: format!("writing {FILE}"), source })
    }

    pub(super) fn memory_mib(&self) -> u64 {
        self.memory_bytes.div_ceil(1 << 20) + KERNEL_MIB
    }

    pub(super) fn kernel_arguments(&self) -> String {
        format!(
            "console=ttyS0 quiet reboot=k panic=1 pci=off cryptomgr.notests auralink.vsock={PORT} auralink.root=/dev/vda auralink.disk=/dev/vdb \
             auralink.processes={} auralink.memory={} auralink.workdir={}{}",
            self.processes,
            self.memory_bytes,
            hex(self.workdir.as_bytes()),
            tool_disks::words(&self.tools)
        )
    }
}
