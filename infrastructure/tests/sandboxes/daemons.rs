//! A Docker and a Podman of the tests' own, with folders of their own: one of each for a test binary, and one more for who kills it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use auralink_infrastructure::vm::container::{ContainerEngine, Flavour, Settings};

/// A daemon. It ends when this process does, however that ends: `daemons.sh` reads from a pipe that then closes.
pub struct Daemon {
    pub flavour: Flavour,
    pub folder: PathBuf,
    control: Mutex<Control>,
}

struct Control {
    #[allow(dead_code, reason = "it lives as long as its input is open")]
    script: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start(flavour: Flavour) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the tests of containers start a daemon, which needs root");
        let programs: &[&str] = match flavour {
            Flavour::Docker => &["dockerd", "containerd", "runc", "runsc"],
            Flavour::Podman => &["podman", "conmon", "runc"],
        };
        for program in programs {
            let there = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"]
                .iter()
                .any(|bin| Path::new(bin).join(program).exists());
            assert!(there, "{program} is not installed: run `make setup`");
        }
        let folder = tempfile::Builder::new().prefix("auralink-daemon-").tempdir().unwrap().keep();
        let folder = std::fs::canonicalize(folder).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandboxes/daemons.sh");
        let mut command = Command::new("bash");
        command.arg(script).arg(flavour.name()).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Not of this process' group: Ctrl-C at a terminal would end the daemon before the containers.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut script = command.spawn().unwrap();
        let (words, answers) = (script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()));
        let daemon = Self { flavour, folder, control: Mutex::new(Control { script, words, answers }) };
        daemon.wait();
        daemon
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(120);
        while !answers(&self.socket()) {
            assert!(
                Instant::now() < until,
                "{} did not start: {}",
                self.flavour.name(),
                std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// SIGKILL, and it is gone.
    pub fn kill(&self) {
        self.say("kill");
    }

    /// Starts it again and waits until it answers.
    pub fn again(&self) {
        self.say("start");
        self.wait();
    }

    fn say(&self, word: &str) {
        let mut control = self.control.lock().unwrap();
        writeln!(control.words, "{word}").unwrap();
        let mut answer = String::new();
        control.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), word);
    }

    /// An engine that uses it.
    pub fn engine(&self) -> ContainerEngine {
        ContainerEngine::new(self.settings())
    }

    pub fn settings(&self) -> Settings {
        Settings { socket: self.socket(), ..Settings::new(self.flavour, guest()) }
    }
}

/// Whether something on the socket speaks HTTP.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut line = String::new();
    asked.is_ok() && BufReader::new(stream).read_line(&mut line).is_ok() && line.contains("200")
}

/// The guest agent that `make setup` builds.
pub fn guest() -> PathBuf {
    let cache = std::env::var_os("AURALINK_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/auralink"));
    let guest = cache.join("guest/auralink-guest");
    assert!(guest.exists(), "{} is missing: run `make setup`", guest.display());
    guest
}

/// The Docker of this test binary.
pub fn docker() -> &'static Daemon {
    static DOCKER: OnceLock<Daemon> = OnceLock::new();
    DOCKER.get_or_init(|| Daemon::start(Flavour::Docker))
}

/// The Podman of this test binary.
pub fn podman() -> &'static Daemon {
    static PODMAN: OnceLock<Daemon> = OnceLock::new();
    PODMAN.get_or_init(|| Daemon::start(Flavour::Podman))
}

/// A root filesystem of busybox alone, as an archive.
pub fn rootfs() -> &'static Path {
    static ROOTFS: OnceLock<PathBuf> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        let path = tempfile::Builder::new().prefix("auralink-rootfs-").suffix(".tar").tempfile().unwrap().keep().unwrap().1;
        pack(&path);
        // One file, however often the tests run; its content is always the same.
        let kept = std::env::temp_dir().join("auralink-test-rootfs.tar");
        std::fs::rename(&path, &kept).unwrap();
        kept
    })
}

fn pack(path: &Path) {
    let list = Command::new("busybox").arg("--list").output().expect("busybox is not installed: run `make setup`");
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut folder = |name: &str, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        archive.append_data(&mut header, name, std::io::empty()).unwrap();
    };
    for name in ["bin", "etc", "root", "usr", "usr/bin", "var", "home", "proc", "sys", "dev", "run"] {
        folder(name, 0o755);
    }
    folder("tmp", 0o1777);
    archive.append_path_with_name("/bin/busybox", "bin/busybox").unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(passwd.len() as u64);
    archive.append_data(&mut header, "etc/passwd", &passwd[..]).unwrap();
    archive.into_inner().unwrap().sync_all().unwrap();
}
