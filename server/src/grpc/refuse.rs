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

/// A stream of requests that is read on for a moment when it is dropped, however its call ends.
pub struct Drained<T: Send + 'static>(Option<Streaming<T>>);

impl<T: Send + 'static> From<Streaming<T>> for Drained<T> {
    fn from(requests: Streaming<T>) -> Self {
        Self(Some(requests))
    }
}

impl<T: Send + 'static> std::ops::Deref for Drained<T> {
    type Target = Streaming<T>;

    fn deref(&self) -> &Streaming<T> {
        self.0.as_ref().expect("it is taken at the drop alone")
    }
}

impl<T: Send + 'static> std::ops::DerefMut for Drained<T> {
    fn deref_mut(&mut self) -> &mut Streaming<T> {
        self.0.as_mut().expect("it is taken at the drop alone")
    }
}

impl<T: Send + 'static> Drop for Drained<T> {
    fn drop(&mut self) {
        if let Some(requests) = self.0.take() {
            drain(requests);
        }
    }
}
