//! What must not be reached from inside.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::Bench;

pub async fn host_files_are_not_seen(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    assert_ne!(sandbox.sh(&format!("cat {}", secret.display())).await.code(), 0);
    let homes = bench.homes.path().display();
    assert_ne!(sandbox.sh(&format!("ls {homes} {}", sandbox.home.display())).await.code(), 0);
    for file in ["/etc/shadow", "/root/.ssh/id_rsa", "/root/.bashrc", "/var/log/dpkg.log"] {
        // It may exist (an image has a file of that name); it is not the host's.
        if let Ok(own) = std::fs::read(file) {
            let inside = sandbox.sh(&format!("cat {file}")).await.stdout;
            assert!(own.is_empty() || inside != own, "{file} is the host's");
        }
    }
    // Not through a process' root, folder or descriptors either; the agent's are its own.
    for way in ["/proc/1/root", "/proc/1/cwd", "/proc/self/root"] {
        assert_ne!(sandbox.sh(&format!("cat {way}{}", secret.display())).await.code(), 0, "{way}");
    }
    let open = sandbox.sh("for f in /proc/self/fd/*; do readlink $f; done; ls -l /proc/1/fd 2>/dev/null").await.text();
    assert!(!open.contains(homes.to_string().as_str()) && !open.contains(".bpf"), "{open}");
    // The host's programs cannot be changed.
    let before = std::fs::read("/usr/bin/env").unwrap();
    sandbox.sh("echo bad > /usr/bin/env; rm -f /usr/bin/env; echo bad > /bin/env").await;
    assert_eq!(std::fs::read("/usr/bin/env").unwrap(), before);
    sandbox.delete().await;
}

pub async fn host_processes_are_not_seen(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let own = std::process::id();
    let mark = format!("mark{own}");
    let mut child = std::process::Command::new("sleep").arg("300").env("MARK", &mark).spawn().unwrap();
    let seen = sandbox.sh("cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'").await.text();
    assert!(!seen.contains(&mark), "a process of the host is seen");
    assert!(!seen.contains("CARGO_"), "the server's environment is seen");
    // Not by any number either: killing all of them kills none of ours.
    sandbox.sh(&format!("kill -9 {own} {}; kill -9 -1", child.id())).await;
    assert!(child.try_wait().unwrap().is_none(), "a process of the host was killed from inside");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(sandbox.out("echo well").await, "well");
    sandbox.delete().await;
}

pub async fn the_host_network_is_not_reached(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let tries = format!(
        "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 3)' || busybox nc -w 2 127.0.0.1 {port} </dev/null || exit 7"
    );
    assert_eq!(sandbox.sh(&tries).await.code(), 7);
    assert!(listener.accept().is_err(), "somebody came from inside");
    // Loopback alone, and it is up.
    let devices = sandbox.out("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\\n' ' '").await;
    assert!(devices.split_whitespace().all(|name| name == "lo" || bench.expect.own_kernel && !name.starts_with("eth")), "{devices}");
    sandbox.delete().await;
}

pub async fn nothing_is_gained_by_set_user_id(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    if !bench.expect.own_kernel {
        let status = sandbox.out("grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status").await;
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
        let dangerous = (1_u64 << 21) | (1 << 12) | (1 << 16) | (1 << 19) | (1 << 17); // SYS_ADMIN, NET_ADMIN, SYS_MODULE, SYS_PTRACE, SYS_RAWIO
        assert_eq!(u64::from_str_radix(&value("CapEff:"), 16).unwrap() & dangerous, 0, "{status}");
        assert_eq!(value("Seccomp:"), "2", "{status}");
    }
    // A set-user-id copy runs with nothing more.
    sandbox.sh("cp $(command -v busybox || command -v id) /workspace/own; chmod 4755 /workspace/own").await;
    let mounts = sandbox.out("cat /proc/self/mounts").await;
    assert!(bench.expect.own_kernel || !mounts.contains(&*bench.homes.path().to_string_lossy()), "{mounts}");
    sandbox.delete().await;
}

pub async fn devices_cannot_be_made(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    if bench.expect.own_kernel {
        return sandbox.delete().await;
    }
    // The machine's first disk, its memory: not made, or made and not opened.
    for (kind, numbers) in [("b", "254 0"), ("b", "8 0"), ("c", "1 1")] {
        assert_ne!(
            sandbox.sh(&format!("mknod /workspace/dev {kind} {numbers} && head -c 1 /workspace/dev")).await.code(),
            0,
            "{kind} {numbers}"
        );
        sandbox.sh("rm -f /workspace/dev").await;
    }
    let devices = sandbox.out("ls /dev").await;
    for device in ["sda", "vda", "kvm", "mem", "kmsg", "loop0", "fuse"] {
        assert!(!devices.split_whitespace().any(|name| name == device), "{devices}");
    }
    sandbox.delete().await;
}

pub async fn the_kernel_is_not_written_to(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    if bench.expect.own_kernel {
        return sandbox.delete().await;
    }
    for file in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/x",
        "/proc/sys/vm/drop_caches",
    ] {
        assert_ne!(sandbox.sh(&format!("echo 1 > {file}")).await.code(), 0, "{file} was written");
    }
    assert_ne!(sandbox.sh("mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x /sys/fs/cgroup/unified/x").await.code(), 0);
    sandbox.delete().await;
}

pub async fn mounts_and_traces_are_refused(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    if bench.expect.own_kernel {
        return sandbox.delete().await;
    }
    for script in [
        "mount -t tmpfs x /tmp",
        "mount -t proc x /tmp",
        "mount --bind / /tmp",
        "umount /proc",
        "unshare -Ur true",
        "unshare -m true",
        "chroot / mount -t tmpfs x /tmp",
    ] {
        assert_ne!(sandbox.sh(script).await.code(), 0, "`{script}` worked");
    }
    // The memory of the agent, of the same user.
    assert_ne!(sandbox.sh("head -c 1 /proc/1/mem").await.code(), 0);
    let traced = "python3 -c 'import ctypes, sys; sys.exit(0 if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 7)' || exit 7";
    assert_eq!(sandbox.sh(traced).await.code(), 7);
    sandbox.delete().await;
}

pub async fn abstract_sockets_are_its_own(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let name = format!("auralink-test-{}", sandbox.id);
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(!sandbox.out("cat /proc/net/unix").await.contains(&name), "the host's abstract sockets are seen");
    let tried = format!("python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"\\0{name}\")' || exit 7");
    assert_eq!(sandbox.sh(&tried).await.code(), 7);
    assert!(listener.accept().is_err());
    sandbox.delete().await;
}
