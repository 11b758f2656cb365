//! A real Chroma server on a free port of the loopback, in a temporary folder.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::process::{Process, await_port, cache, free_port};

pub struct ChromaServer {
    process: Option<Process>,
    folder: tempfile::TempDir,
    port: u16,
}

/// Where `make setup` puts it.
fn program() -> PathBuf {
    let program = cache().join("chroma-venv/bin/chroma");
    assert!(program.exists(), "Chroma is not at {}: run make setup", program.display());
    program
}

/// One server for all tests of a binary.
pub fn shared() -> &'static ChromaServer {
    static SERVER: OnceLock<ChromaServer> = OnceLock::new();
    SERVER.get_or_init(ChromaServer::start)
}

impl ChromaServer {
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("auralink-chroma-").tempdir().unwrap();
        let mut server = Self { process: None, folder, port: free_port() };
        server.start_again();
        server
    }

    /// Starts it after [`ChromaServer::kill`], on the same port with the same data.
    pub fn start_again(&mut self) {
        let (program, log) = (program(), self.folder.path().join("log"));
        let command = format!(
            "env ANONYMIZED_TELEMETRY=False '{}' run --host 127.0.0.1 --port {} --path '{}'",
            program.display(),
            self.port,
            self.folder.path().join("data").display()
        );
        self.process = Some(Process::start(&command, &log));
        await_port(self.port, &log);
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }
}
