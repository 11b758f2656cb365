//! A real Weaviate server on free ports of the loopback, in a temporary folder.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::process::{Process, cache, free_port};

pub struct WeaviateServer {
    _process: Process,
    _folder: tempfile::TempDir,
    port: u16,
}

/// One server for all tests of a binary.
pub fn shared() -> &'static WeaviateServer {
    static SERVER: OnceLock<WeaviateServer> = OnceLock::new();
    SERVER.get_or_init(WeaviateServer::start)
}

impl WeaviateServer {
    /// Starts one; blocks until it is ready.
    pub fn start() -> Self {
        let program = cache().join("tools/weaviate-server");
        assert!(program.exists(), "Weaviate is not at {}: run make setup", program.display());
        let folder = tempfile::Builder::new().prefix("auralink-weaviate-").tempdir().unwrap();
        let (port, log) = (free_port(), folder.path().join("log"));
        let environment = [
            ("PERSISTENCE_DATA_PATH", folder.path().join("data").display().to_string()),
            ("AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED", "true".into()),
            ("DEFAULT_VECTORIZER_MODULE", "none".into()),
            ("DISABLE_TELEMETRY", "true".into()),
            ("CLUSTER_HOSTNAME", "test".into()),
            ("CLUSTER_ADVERTISE_ADDR", "127.0.0.1".into()),
            ("CLUSTER_BIND_ADDR", "127.0.0.1".into()),
            ("CLUSTER_GOSSIP_BIND_PORT", free_port().to_string()),
            ("CLUSTER_DATA_BIND_PORT", free_port().to_string()),
            ("RAFT_PORT", free_port().to_string()),
            ("RAFT_INTERNAL_RPC_PORT", free_port().to_string()),
            ("RAFT_BOOTSTRAP_EXPECT", "1".into()),
            ("GRPC_PORT", free_port().to_string()),
            ("GO_PROFILING_DISABLE", "true".into()),
            ("LOG_LEVEL", "warning".into()),
        ];
        let environment: Vec<String> = environment.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        let command = format!("env {} '{}' --host 127.0.0.1 --port {port} --scheme http", environment.join(" "), program.display());
        let process = Process::start(&command, &log);
        let server = Self { _process: process, _folder: folder, port };
        let start = Instant::now();
        while !server.is_ready() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(120), "Weaviate does not become ready: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// It listens before it has a leader: only then its readiness answers 200.
    fn is_ready(&self) -> bool {
        use std::io::{Read, Write};
        let ask = || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /v1/.well-known/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        ask().is_ok_and(|answer| answer.ends_with(b" 200"))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
