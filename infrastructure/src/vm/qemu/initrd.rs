//! The first file system: the agent as `/init`, and the kernel's modules. A cpio archive in the kernel's own format ("newc",
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::path::Path;

use crate::vm::agent::guest_binary;
use crate::vm::{VmError, disk};

/// In errors: the engines of microVMs share this.
const ENGINE: &str = "microvm";

/// What a machine has beside its disks, which says what modules it needs: the kernel checks and links each at every boot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Devices {
    /// The agent's serial ports.
    pub serial: bool,
    /// The agent's vsock.
    pub vsock: bool,
    /// A network interface.
    pub network: bool,
    /// Devices on PCI, not memory-mapped alone.
    pub pci: bool,
}

impl Devices {
    fn need(self, module: &str) -> bool {
        match module.trim_end_matches(".ko") {
            "virtio_console" => self.serial,
            "failover" | "net_failover" | "virtio_net" => self.network,
            // Disks are made with ext4, which the kernel has in it.
            "squashfs" => false,
            name if name.contains("vsock") => self.vsock,
            name if name.starts_with("virtio_pci") => self.pci,
            _ => true,
        }
    }
}

/// Writes it, whole or not at all.
pub fn write(kernel: &Path, devices: Devices, target: &Path) -> Result<(), VmError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| VmError::Unavailable {
            engine: ENGINE,
            reason: format!("{}: {error}; run `make setup`, which puts a kernel and its modules there", path.display()),
        })
    };
    let mut archive = Vec::new();
    let mut number = 0;
    let mut add = |name: &str, mode: u32, content: &[u8]| {
        number += 1;
        entry(&mut archive, number, name, mode, content);
    };
    for folder in ["dev", "proc", "sys", "modules"] {
        add(folder, 0o040_755, &[]);
    }
    add("init", 0o100_755, &read(&guest_binary(ENGINE)?)?);
    let order = read(&kernel.join("modules/order"))?;
    let order = String::from_utf8_lossy(&order);
    let names: Vec<&str> = order.lines().filter(|name| !name.is_empty() && !name.contains('/') && devices.need(name)).collect();
    add("modules/order", 0o100_644, names.iter().map(|name| format!("{name}\n")).collect::<String>().as_bytes());
    for name in names {
        add(&format!("modules/{name}"), 0o100_644, &read(&kernel.join("modules").join(name))?);
    }
    entry(&mut archive, 0, "TRAILER!!!", 0, &[]);
    disk::write_whole(target, &archive).map_err(|source| VmError::Io { what: format!("writing {}", target.display()), source })
}

fn entry(archive: &mut Vec<u8>, number: u32, name: &str, mode: u32, content: &[u8]) {
    archive.extend_from_slice(b"070701");
    let links = 1 + u32::from(mode & 0o040_000 != 0);
    let fields = [number, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_cpio_writes() {
        let mut archive = Vec::new();
        entry(&mut archive, 1, "a", 0o100_644, b"xyz");
        assert_eq!(&archive[..14], b"07070100000001");
        assert_eq!(&archive[14..22], b"000081a4");
        assert_eq!((&archive[110..112], &archive[112..]), (b"a\0".as_slice(), b"xyz\0".as_slice()));
        assert_eq!(archive.len() % 4, 0);
    }
}
