//! Firecracker's API: JSON over HTTP/1.1 on a unix socket, by its published OpenAPI document (1.17, `src/firecracker/swagger/firecracker.yaml`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::ENGINE;
use crate::vm::VmError;

/// How long a request may take. Snapshots write all of the guest's memory before they answer.
const ANSWER: Duration = Duration::from_secs(300);

/// Longest answer that is read, bytes.
const LONGEST: usize = 256 << 10;

/// A microVM's API.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

fn failed(reason: impl std::fmt::Display) -> VmError {
    VmError::Engine { engine: ENGINE, reason: reason.to_string() }
}

impl Api {
    /// The one behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// `Not started`, `Running` or `Paused`.
    pub async fn state(&self) -> Result<String, VmError> {
        let instance = self.request("GET", "/", None).await?;
        instance["state"].as_str().map(str::to_owned).ok_or_else(|| failed(format_args!("GET / has no state: {instance}")))
    }

    /// What it boots.
    pub async fn boot_source(&self, kernel: &Path, initrd: &Path, arguments: &str) -> Result<(), VmError> {
        self.put("/boot-source", json!({"kernel_image_path": kernel, "initrd_path": initrd, "boot_args": arguments})).await
    }

    /// Its processors and memory.
    pub async fn machine(&self, cpus: u32, memory_mib: u64) -> Result<(), VmError> {
        self.put("/machine-config", json!({"vcpu_count": cpus, "mem_size_mib": memory_mib})).await
    }

    /// A disk. It is never the root device: that would add `root=` to the kernel's arguments, and the agent mounts its root itself.
    pub async fn drive(&self, name: &str, file: &Path, read_only: bool) -> Result<(), VmError> {
        let drive =
            json!({"drive_id": name, "path_on_host": file, "is_root_device": false, "is_read_only": read_only, "cache_type": "Writeback"});
        self.put(&format!("/drives/{name}"), drive).await
    }

    /// A network interface: a TAP device of this machine, and the hardware address that the guest has.
    pub async fn network(&self, name: &str, tap: &str, mac: &str) -> Result<(), VmError> {
        self.put(&format!("/network-interfaces/{name}"), json!({"iface_id": name, "host_dev_name": tap, "guest_mac": mac})).await
    }

    /// The vsock that the agent is reached by.
    pub async fn vsock(&self, socket: &Path) -> Result<(), VmError> {
        self.put("/vsock", json!({"guest_cid": 3, "uds_path": socket})).await
    }

    /// Boots it.
    pub async fn start(&self) -> Result<(), VmError> {
        self.put("/actions", json!({"action_type": "InstanceStart"})).await
    }

    /// Freezes it, or lets it go on.
    pub async fn set_paused(&self, paused: bool) -> Result<(), VmError> {
        let state = if paused { "Paused" } else { "Resumed" };
        self.request("PATCH", "/vm", Some(json!({"state": state}))).await.map(drop)
    }

    /// Writes a paused one to two files.
    pub async fn save(&self, state: &Path, memory: &Path) -> Result<(), VmError> {
        self.put("/snapshot/create", json!({"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory})).await
    }

    /// Begins from these two files, with a vsock and TAP devices (interface, device) of its own. It stays paused.
    pub async fn load(&self, state: &Path, memory: &Path, vsock: &Path, taps: &[(&str, &str)]) -> Result<(), VmError> {
        let backend = json!({"backend_type": "File", "backend_path": memory});
        let mut body = json!({"snapshot_path": state, "mem_backend": backend, "resume_vm": false, "vsock_override": {"uds_path": vsock}});
        if !taps.is_empty() {
            let taps: Vec<Value> = taps.iter().map(|(name, tap)| json!({"iface_id": name, "host_dev_name": tap})).collect();
            body["network_overrides"] = taps.into();
        }
        self.put("/snapshot/load", body).await
    }

    async fn put(&self, path: &str, body: Value) -> Result<(), VmError> {
        self.request("PUT", path, Some(body)).await.map(drop)
    }

    async fn request(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, VmError> {
        let late = |_| VmError::Late { what: format!("Firecracker's {method} {path}"), after: ANSWER };
        tokio::time::timeout(ANSWER, self.exchange(method, path, body)).await.map_err(late)?
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, VmError> {
        let lost = |error: std::io::Error| failed(format_args!("{method} {path}: {error}"));
        let mut stream = UnixStream::connect(&self.socket).await.map_err(lost)?;
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
        let head = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.map_err(lost)?;
        let mut answer = Vec::new();
        let (status, length) = loop {
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&answer[..end]).into_owned();
                answer.drain(..end + 4);
                break (status_of(&head), length_of(&head));
            }
            if answer.len() > LONGEST || stream.read_buf(&mut answer).await.map_err(lost)? == 0 {
                return Err(failed(format_args!("{method} {path}: no whole answer")));
            }
        };
        while answer.len() < length.min(LONGEST) {
            if stream.read_buf(&mut answer).await.map_err(lost)? == 0 {
                break;
            }
        }
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let fault: String = answer["fault_message"].as_str().unwrap_or("no reason given").chars().take(500).collect();
        Err(failed(format_args!("{method} {path} answered {status}: {fault}")))
    }
}

fn status_of(head: &str) -> u16 {
    head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn length_of(head: &str) -> usize {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}
