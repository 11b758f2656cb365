//! A real S3 server of the test's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

pub const USER: &str = "auralink-test";
pub const PASSWORD: &str = "a-secret-of-tests";
pub const BUCKET: &str = "recordings";

pub struct Minio {
    process: Child,
    pub endpoint: String,
    _data: TempDir,
}

impl Minio {
    pub async fn start() -> Self {
        let program = program();
        assert!(program.exists(), "MinIO is not in {}: run `make setup`", program.display());
        for _ in 0..5 {
            let data = tempfile::tempdir().unwrap();
            // A folder is a bucket.
            std::fs::create_dir(data.path().join(BUCKET)).unwrap();
            // Another process may take the port between its choice and its use: then once more.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let process = Command::new(&program)
                .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}"), "--console-address", "127.0.0.1:0"])
                .arg(data.path())
                .env_clear()
                .envs([("MINIO_ROOT_USER", USER), ("MINIO_ROOT_PASSWORD", PASSWORD), ("MINIO_UPDATE", "off"), ("HOME", "/nonexistent")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut minio = Self { process, endpoint: format!("http://127.0.0.1:{port}"), _data: data };
            if minio.is_ready().await {
                return minio;
            }
        }
        panic!("MinIO did not become ready");
    }

    async fn is_ready(&mut self) -> bool {
        for _ in 0..600 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            let ready = reqwest::get(format!("{}/minio/health/ready", self.endpoint)).await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn program() -> PathBuf {
    let cache = std::env::var_os("AURALINK_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/auralink"), PathBuf::from);
    cache.join("tools/minio")
}
