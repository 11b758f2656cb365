//! Beginning and refusing a call whose sender streams: its first message is waited for, but not for ever; and when it is refused, what
//! still comes is read and thrown away for a moment, so that the sender sees the status and not a broken stream.

use std::time::Duration;

use tonic::{Status, Streaming};

/// How long a refused sender is listened to.
const LISTEN: Duration = Duration::from_secs(2);

/// How long a call may be open before it says what it is for.
const FIRST: Duration = Duration::from_secs(10);

/// The first message.
pub async fn first<T>(requests: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let late = |_| Status::deadline_exceeded(format!("no message came within {} s: send `config` first", FIRST.as_secs()));
    tokio::time::timeout(FIRST, requests.message()).await.map_err(late)?
}

/// Reads on, at most [`LISTEN`], without keeping anything.
pub fn drain<T: Send + 'static>(mut requests: Streaming<T>) {
    tokio::spawn(tokio::time::timeout(LISTEN, async move { while let Ok(Some(_)) = requests.message().await {} }));
}
