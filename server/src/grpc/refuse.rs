//! Refusing a call whose sender is still sending: what comes is read and thrown away for a moment, so that the sender sees the
//! status and not a broken stream.

use std::time::Duration;

use tonic::Streaming;

/// How long a refused sender is listened to.
const LISTEN: Duration = Duration::from_secs(2);

/// Reads on, at most [`LISTEN`], without keeping anything.
pub fn drain<T: Send + 'static>(mut requests: Streaming<T>) {
    tokio::spawn(tokio::time::timeout(LISTEN, async move { while let Ok(Some(_)) = requests.message().await {} }));
}
