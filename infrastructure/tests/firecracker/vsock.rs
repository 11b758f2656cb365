//! The vsock convention for real: what the engine made for Firecracker (first file system, disks) is booted by QEMU, whose virtio-vsock is rust-vmm's
//! `vhost-device-vsock`, and that has Firecracker's convention on its unix socket. Emulated, without KVM.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use auralink_infrastructure::vm::agent::Agent;
use auralink_infrastructure::vm::firecracker::{FirecrackerConfig, FirecrackerEngine, connect_vsock};
use auralink_infrastructure::vm::{Engine, ExecOutput, ExecSpec};

use crate::Bench;

/// As the engine tells the agent.
const PORT: u32 = 1024;

struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn device() -> PathBuf {
    let cache = std::env::var_os("AURALINK_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/auralink"));
    cache.join("tools/vhost-device-vsock")
}

fn start(home: &Path, kernel: &Path) -> [Started; 2] {
    let quiet = |command: &mut Command| Started(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let (control, socket) = (home.join("vhost.sock"), home.join("vsock.sock"));
    let mut device = Command::new(device());
    device.args(["--guest-cid", "3", "--socket"]).arg(&control).arg("--uds-path").arg(&socket);
    let device = quiet(&mut device);
    while !control.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let line = format!(
        "console=ttyS0 quiet reboot=t panic=-1 mitigations=off cryptomgr.notests auralink.vsock={PORT} auralink.root=/dev/vda auralink.disk=/dev/vdb"
    );
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args("-nodefaults -no-user-config -display none -no-reboot -accel tcg -cpu max -m 256M".split(' '));
    qemu.args(["-M", "pc,memory-backend=memory", "-object", "memory-backend-memfd,id=memory,size=256M,share=on"]);
    qemu.arg("-chardev").arg(format!("socket,id=vsock,path={}", control.display())).args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
    for (name, mode) in [("root", "on"), ("disk", "off")] {
        let file = home.join(format!("{name}.img"));
        qemu.arg("-drive").arg(format!("id={name},if=none,format=raw,file={},readonly={mode}", file.display()));
        qemu.arg("-device").arg(format!("virtio-blk-pci,drive={name}"));
    }
    qemu.arg("-kernel").arg(kernel.join("vmlinux")).arg("-initrd").arg(home.join("initrd")).arg("-append").arg(line);
    [quiet(&mut qemu), device]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_of_a_booted_guest_is_reached_by_connect_and_ok() {
    assert!(device().is_file(), "{} is there: run `make setup`", device().display());
    let mut bench = Bench::new();
    let root = bench.folder.path().join("root");
    for folder in ["dev", "etc", "proc", "run", "sys", "tmp"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", root.join("bin/sh")).expect("busybox-static is installed: run `make setup`");
    let config = FirecrackerConfig::default();
    let kernel = config.kernel.clone();
    bench.engine = FirecrackerEngine::new(config);
    let home = bench.home();
    bench.engine.create(&bench.id, &bench.spec, &home).await.unwrap();
    let mut machine = start(&home, &kernel);
    let connected = async {
        loop {
            if let Ok(stream) = connect_vsock(&home.join("vsock.sock"), PORT).await {
                return Agent::connect(stream, "firecracker").await;
            }
            assert!(machine[0].0.try_wait().unwrap().is_none(), "QEMU ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let agent = tokio::time::timeout(Duration::from_secs(120), connected).await.expect("the guest listens").unwrap();
    let mut exec = agent
        .exec(ExecSpec { argv: ["/bin/sh", "-c", "echo $((6 * 7)); exit 3"].map(str::to_owned).into(), ..ExecSpec::default() })
        .await
        .unwrap();
    let (mut text, mut code) = (String::new(), None);
    while let (None, Some(output)) = (code, exec.output.recv().await) {
        match output.unwrap() {
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Exited(status) => code = Some(status.code),
        }
    }
    assert_eq!((text.as_str(), code), ("42\n", Some(3)));
    assert!(agent.reseed().await.unwrap(), "the guest's own kernel credits what it is given");
    // A second connection beside the first, and a port that nobody listens on.
    let second = Agent::connect(connect_vsock(&home.join("vsock.sock"), PORT).await.unwrap(), "firecracker").await.unwrap();
    second.ping().await.unwrap();
    let nobody = tokio::time::timeout(Duration::from_secs(60), connect_vsock(&home.join("vsock.sock"), PORT + 1)).await;
    assert!(nobody.expect("it is answered").is_err());
    agent.shutdown(Duration::from_millis(100)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), agent.over()).await.expect("the machine ends");
}
