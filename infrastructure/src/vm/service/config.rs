//! What the operator sets.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::super::bridge::Pace;
use super::super::image::unpack::Bounds;
use super::super::spec::Limits;
use super::super::tools::ToolsConfig;

/// What may be there at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Sandboxes, stopped ones included.
    pub sandboxes: u32,
    /// Thousandths of a CPU, of all sandboxes together.
    pub cpu_millis: u64,
    /// Bytes of memory, of all sandboxes together.
    pub memory_bytes: u64,
    /// Bytes of disk, of all sandboxes together.
    pub disk_bytes: u64,
    /// Snapshots kept.
    pub snapshots: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { sandboxes: 64, cpu_millis: 64_000, memory_bytes: 32 << 30, disk_bytes: 1 << 40, snapshots: 32 }
    }
}

/// Settings of the service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The engine of who names none.
    pub default_engine: String,
    /// Folder of images; none: `images` in the data folder.
    pub image_folder: Option<PathBuf>,
    /// What an image may hold.
    pub image_bounds: Bounds,
    /// Names of images that one tenant may have.
    pub images_per_tenant: usize,
    /// Where tools may come from; none: sandboxes get none.
    pub tools: Option<ToolsConfig>,
    /// Folders below which callers may name root filesystems.
    pub rootfs_folders: Vec<PathBuf>,
    /// Runtimes that callers may name, of engines that have some.
    pub runtimes: Vec<String>,
    /// What one tenant may have.
    pub per_tenant: Quota,
    /// What this server may have.
    pub per_server: Quota,
    /// What one sandbox may ask for at most; a lifetime of 0: any.
    pub largest: Limits,
    /// Programs at once in one sandbox.
    pub execs_per_sandbox: usize,
    /// Connections forwarded at once into one sandbox.
    pub forwards_per_sandbox: usize,
    /// Bytes of output kept of each program; the newest are kept.
    pub log_bytes: usize,
    /// Programs of which output is kept, for each sandbox.
    pub logs_kept: usize,
    /// Events kept, for each sandbox.
    pub events_kept: usize,
    /// Archives that come or go at once, of one tenant.
    pub archives_per_tenant: usize,
    /// Archives that come or go at once. Each holds a thread that may block; the runtime has 512.
    pub archives_at_once: usize,
    /// How long an archive's sender or receiver may be silent.
    pub archive_stall: Duration,
    /// How fast an image must come: there are few places for imports.
    pub import_pace: Pace,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            default_engine: "process".into(),
            image_folder: None,
            image_bounds: Bounds::default(),
            images_per_tenant: 64,
            tools: None,
            rootfs_folders: Vec::new(),
            runtimes: vec!["runsc".into()],
            per_tenant: Quota::default(),
            per_server: Quota { sandboxes: 1_024, cpu_millis: 256_000, memory_bytes: 128 << 30, disk_bytes: 4 << 40, snapshots: 256 },
            largest: Limits { cpu_millis: 64_000, memory_bytes: 64 << 30, disk_bytes: 256 << 30, processes: 32_768, lifetime_s: 0 },
            execs_per_sandbox: 32,
            forwards_per_sandbox: 64,
            log_bytes: 64 << 10,
            logs_kept: 64,
            events_kept: 256,
            archives_per_tenant: 4,
            archives_at_once: 64,
            archive_stall: Duration::from_secs(30),
            import_pace: Pace { bytes_per_s: 64 << 10, grace: Duration::from_secs(60), whole: Duration::from_secs(3_600) },
        }
    }
}
