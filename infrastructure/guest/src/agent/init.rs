//! A virtual machine's first moments: kernel modules, disks, the mounts that programs expect; and its last.
//!
//! The kernel starts the agent from the first file system (`initrd`), which holds the agent and the modules that this kernel needs.
//! What the agent does is on the kernel's command line, `auralink.NAME=VALUE`: `root` (a block device, read-only), `disk` (a block
//! device to write to), `tools` (`DEVICE:PLACE`, the place hexadecimal, with commas), `serial` and `key`, or `vsock`.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use auralink_guest::message::unhex;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::system::{RebootCommand, finit_module, reboot};

use super::options::Options;
use super::{interface, sys};

/// How long a device may take to appear.
const DEVICE: Duration = Duration::from_secs(10);

/// Makes the machine ready, and reads the options from the kernel's command line.
pub fn boot(options: &mut Options) -> Result<(), String> {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_at("proc", "/proc", "proc", plain, "")?;
    mount_at("sysfs", "/sys", "sysfs", plain, "")?;
    mount_at("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")?;
    load_modules()?;
    let line = std::fs::read_to_string("/proc/cmdline").map_err(|e| format!("/proc/cmdline: {e}"))?;
    let told = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix("auralink.")?.strip_prefix(name)?.strip_prefix('='));
    for name in ["serial", "vsock", "key"] {
        for value in told(name).into_iter().flat_map(|values| values.split(',')) {
            options.set(&format!("--{name}"), value.to_owned())?;
        }
    }
    if let Some(root) = told("root") {
        switch_root(root, told("disk"))?;
    }
    mount_for_programs()?;
    show_tools(told("tools").unwrap_or_default())?;
    match limit_programs(told("processes"), told("memory")) {
        Ok(events) => options.memory_events = Some(events),
        Err(reason) => say(&format!("programs have no limits of their own: {reason}")),
    }
    if let Some(folder) =
        told("workdir").and_then(unhex).and_then(|bytes| String::from_utf8(bytes).ok()).filter(|folder| !folder.is_empty())
    {
        std::fs::create_dir_all(&folder).map_err(|e| format!("cannot make the folder {folder:?}: {e}"))?;
    }
    let _ = interface::up("lo");
    let _ = rustix::system::sethostname(told("hostname").unwrap_or("sandbox").as_bytes());
    Ok(())
}

fn mount_at(what: &str, path: &str, kind: &str, flags: MountFlags, data: &str) -> Result<(), String> {
    match std::fs::create_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(format!("cannot make {path}: {error}")),
    }
    let data = CString::new(data).map_err(|e| e.to_string())?;
    match mount(what, path, kind, flags, data.as_c_str()) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(format!("cannot mount {what} at {path}: {error}")),
    }
}

/// In the order of `/modules/order`, which the server wrote. One that the kernel has already is no error.
fn load_modules() -> Result<(), String> {
    let order = std::fs::read_to_string("/modules/order").unwrap_or_default();
    for name in order.lines().filter(|name| !name.is_empty()) {
        let path = format!("/modules/{name}");
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| format!("{path}: {e}"))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => say(&format!("module {name}: {error}")),
        }
    }
    Ok(())
}

fn wait_for(path: &str) -> Result<(), String> {
    let deadline = Instant::now() + DEVICE;
    while !Path::new(path).exists() {
        if Instant::now() > deadline {
            return Err(format!("{path} did not appear in {} s", DEVICE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The image, read-only, under a disk of this machine's own: what is written goes there, up to its size.
fn switch_root(root: &str, disk: Option<&str>) -> Result<(), String> {
    wait_for(root)?;
    mount_either(root, "/image", MountFlags::RDONLY)?;
    let top = if let Some(disk) = disk {
        wait_for(disk)?;
        mount_either(disk, "/disk", MountFlags::NOATIME)?;
        for folder in ["/disk/upper", "/disk/work"] {
            std::fs::create_dir_all(folder).map_err(|e| format!("cannot make {folder}: {e}"))?;
        }
        mount_at("overlay", "/root-fs", "overlay", MountFlags::empty(), "lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work")?;
        "/root-fs"
    } else {
        "/image"
    };
    for folder in ["/proc", "/sys", "/dev"] {
        let target = format!("{top}{folder}");
        let _ = std::fs::create_dir_all(&target);
        mount_move(folder, &target).map_err(|e| format!("cannot move {folder} to {target}: {e}; does the image have the folder?"))?;
    }
    rustix::process::chdir(top).map_err(|e| format!("{top}: {e}"))?;
    mount_move(".", "/").map_err(|e| format!("cannot make {top} the root: {e}"))?;
    rustix::process::chroot(".").map_err(|e| format!("cannot change the root: {e}"))?;
    rustix::process::chdir("/").map_err(|e| format!("cannot enter the root: {e}"))
}

fn mount_either(device: &str, path: &str, flags: MountFlags) -> Result<(), String> {
    mount_at(device, path, "ext4", flags, "").or_else(|first| mount_at(device, path, "squashfs", flags, "").map_err(|_| first))
}

/// What programs expect, and an image seldom brings. What a read-only image has no folder for is left out.
fn mount_for_programs() -> Result<(), String> {
    let both = MountFlags::NOSUID | MountFlags::NODEV;
    mount_at("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0620,ptmxmode=0666")?;
    mount_at("tmpfs", "/dev/shm", "tmpfs", both, "mode=1777")?;
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "fd/0"), ("/dev/stdout", "fd/1"), ("/dev/stderr", "fd/2")] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    for (path, data) in [("/tmp", "mode=1777"), ("/run", "mode=0755")] {
        if let Err(reason) = mount_at("tmpfs", path, "tmpfs", both, data) {
            say(&reason);
        }
    }
    Ok(())
}

/// Disks with tools, read-only, each at its place.
fn show_tools(list: &str) -> Result<(), String> {
    for tool in list.split(',').filter(|tool| !tool.is_empty()) {
        let place = |(device, at): (&str, &str)| Some((format!("/dev/{device}"), String::from_utf8(unhex(at)?).ok()?));
        let (device, at) = tool.split_once(':').and_then(place).ok_or_else(|| format!("{tool:?} is no DEVICE:PLACE"))?;
        wait_for(&device)?;
        mount_at(&device, &at, "ext4", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")?;
    }
    Ok(())
}

/// Puts programs into a control group, so that neither their number nor their memory takes what the agent needs to end them. Answers the
/// group's file of memory kills.
fn limit_programs(processes: Option<&str>, memory: Option<&str>) -> Result<String, String> {
    let root = "/sys/fs/cgroup";
    mount_at("cgroup2", root, "cgroup2", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
    let group = format!("{root}/programs");
    let write = |path: &str, value: &str| std::fs::write(path, value).map_err(|e| format!("{path}: {e}"));
    write(&format!("{root}/cgroup.subtree_control"), "+pids +memory")?;
    std::fs::create_dir_all(&group).map_err(|e| format!("{group}: {e}"))?;
    for (file, value) in [("pids.max", processes), ("memory.max", memory)] {
        if let Some(value) = value.filter(|value| value.parse::<u64>().is_ok_and(|n| n > 0)) {
            write(&format!("{group}/{file}"), value)?;
        }
    }
    sys::put_programs_into(&format!("{group}/cgroup.procs")).map_err(|e| format!("{group}: {e}"))?;
    Ok(format!("{group}/memory.events"))
}

/// The device of the virtio serial port that has this name.
pub fn port_named(name: &str) -> io::Result<String> {
    let deadline = Instant::now() + DEVICE;
    loop {
        for entry in std::fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let found = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if found.trim() == name {
                return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio serial port is named {name:?}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// To the machine's console.
fn say(text: &str) {
    if let Ok(console) = rustix::fs::open("/dev/console", OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::io::write(&console, format!("auralink-guest: {text}\n").as_bytes());
    }
}

/// The reason why the machine cannot be used, before it turns itself off.
pub fn last_words(reason: &str) {
    say(reason);
    power_off();
}

/// Writes everything to disk and ends the machine. A microvm without ACPI cannot be turned off, but restarted, which ends QEMU (`-no-reboot`)
/// and Firecracker alike.
pub fn power_off() {
    rustix::fs::sync();
    if rustix::process::getpid() == rustix::process::Pid::INIT {
        let _ = reboot(RebootCommand::Restart);
    }
}
