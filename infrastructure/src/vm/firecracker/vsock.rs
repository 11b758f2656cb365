//! Firecracker's way to a port of the guest's: connect to its unix socket, say `CONNECT PORT`, read `OK` and a number. `vhost-device-vsock`
//! has the same.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Connects to `port` in the guest.
///
/// # Errors
/// When the socket is not there, or nobody listens on the port yet.
pub async fn connect(socket: &Path, port: u32) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // A byte at a time: what comes behind the line is the agent's.
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 64 {
        line.push(stream.read_u8().await?);
    }
    if line.starts_with(b"OK ") && line.ends_with(b"\n") {
        return Ok(stream);
    }
    Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, format!("vsock port {port}: {:?}", String::from_utf8_lossy(&line))))
}
