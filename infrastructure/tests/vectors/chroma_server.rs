//! A real Chroma server on a free port of the loopback, in a temporary folder.

use std::sync::OnceLock;

use crate::process::{Process, await_port, cache, free_port};

pub struct ChromaServer {
    process: Option<Process>,
    folder: tempfile::TempDir,
    port: u16,
}

/// One server for all tests of a binary.
pub fn shared() -> &'static ChromaServer {
    static SERVER: OnceLock<ChromaServer> = OnceLock::new();
    SERVER.get_or_init(ChromaServer::start)
}

impl ChromaServer {
    pub fn start() -> Self {
        let program = cache().join("chroma-venv/bin/chroma");
        assert!(program.exists(), "Chroma is not at {}: run make setup", program.display());
        let folder = tempfile::Builder::new().prefix("auralink-chroma-").tempdir().unwrap();
        let (port, log) = (free_port(), folder.path().join("log"));
        let command = format!(
            "env ANONYMIZED_TELEMETRY=False '{}' run --host 127.0.0.1 --port {port} --path '{}'",
            program.display(),
            folder.path().join("data").display()
        );
        let process = Process::start(&command, &log);
        await_port(port, &log);
        Self { process: Some(process), folder, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        assert!(self.folder.path().exists());
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }
}
