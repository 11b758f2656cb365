//! Signal messages on their way to a client: encoded once however many read them, and bounded for who does not read.
//!
//! Place in the flow: a room's task -> [`SignalSender`] -> (queue) -> [`SignalReceiver`] -> the client's socket. Rule: a
//! room never waits for a reader; a queue that is full in messages or bytes ends the connection behind it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use auralink_proto::livekit;
use bytes::Bytes;
use livekit::signal_response::Message;
use prost::Message as _;
use tokio::sync::mpsc;

/// A signal response with its encodings, made at most once each.
#[derive(Debug)]
pub struct SignalMessage {
    message: livekit::SignalResponse,
    bytes: usize,
    binary: OnceLock<Bytes>,
    text: OnceLock<Arc<str>>,
}

impl SignalMessage {
    /// Wraps a response.
    pub fn new(message: Message) -> Arc<Self> {
        let message = livekit::SignalResponse { message: Some(message) };
        let bytes = message.encoded_len();
        Arc::new(Self { message, bytes, binary: OnceLock::new(), text: OnceLock::new() })
    }

    /// The message itself.
    pub fn message(&self) -> &Message {
        self.message.message.as_ref().expect("made with a message")
    }

    /// Protobuf, for binary frames.
    pub fn binary(&self) -> Bytes {
        self.binary.get_or_init(|| Bytes::from(self.message.encode_to_vec())).clone()
    }

    /// Protobuf's JSON, for text frames.
    pub fn text(&self) -> Arc<str> {
        self.text.get_or_init(|| Arc::from(serde_json::to_string(&self.message).expect("protobuf messages have a JSON form"))).clone()
    }
}

/// Why a connection is ended by the server, after everything queued before was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The session is over; a leave was sent before.
    Ended,
    /// Another connection of the same session took over.
    Replaced,
    /// The client is to find out by itself (simulated failures).
    Dropped,
}

/// What a client's connection reads.
#[derive(Debug)]
pub enum Outgoing {
    /// To be written.
    Message(Arc<SignalMessage>),
    /// Write no more and close.
    Close(Close),
}

/// The room's end of a client's queue.
#[derive(Debug, Clone)]
pub struct SignalSender {
    queue: mpsc::Sender<Outgoing>,
    queued_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The connection's end of a client's queue.
#[derive(Debug)]
pub struct SignalReceiver {
    queue: mpsc::Receiver<Outgoing>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The client does not read, or its connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// Too many messages or bytes wait.
    Full,
    /// The connection has ended.
    Gone,
}

/// A queue of at most `messages_max` messages and `bytes_max` bytes (one larger message fits into an empty queue).
pub fn queue(messages_max: usize, bytes_max: usize) -> (SignalSender, SignalReceiver) {
    // One place is kept for the last message, the close.
    let (sender, receiver) = mpsc::channel(messages_max.max(1) + 1);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    (SignalSender { queue: sender, queued_bytes: queued_bytes.clone(), bytes_max }, SignalReceiver { queue: receiver, queued_bytes })
}

impl SignalSender {
    /// Queues a message; never waits.
    pub fn send(&self, message: Arc<SignalMessage>) -> Result<(), SendError> {
        let queued = self.queued_bytes.load(Ordering::Relaxed);
        if queued > 0 && queued + message.bytes > self.bytes_max || self.queue.capacity() <= 1 {
            return Err(if self.queue.is_closed() { SendError::Gone } else { SendError::Full });
        }
        self.queued_bytes.fetch_add(message.bytes, Ordering::Relaxed);
        self.queue.try_send(Outgoing::Message(message)).map_err(|_| SendError::Gone)
    }

    /// Queues the end of the connection.
    pub fn close(&self, why: Close) {
        // A full queue or a gone reader: the receiver sees the end when the sender is dropped.
        let _ = self.queue.try_send(Outgoing::Close(why));
    }
}

impl SignalReceiver {
    /// The next thing to write; `None` when the room has let go of the connection. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.recv().await;
        if let Some(Outgoing::Message(message)) = &outgoing {
            self.queued_bytes.fetch_sub(message.bytes, Ordering::Relaxed);
        }
        outgoing
    }

    /// The next thing that is there already.
    pub fn try_recv(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.try_recv().ok();
        if let Some(Outgoing::Message(message)) = &outgoing {
            self.queued_bytes.fetch_sub(message.bytes, Ordering::Relaxed);
        }
        outgoing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(timestamp: i64) -> Arc<SignalMessage> {
        SignalMessage::new(Message::Pong(timestamp))
    }

    #[test]
    fn a_reader_that_does_not_read_is_bounded_in_messages() {
        let (sender, mut receiver) = queue(3, 1 << 20);
        assert_eq!([1, 2, 3, 4].map(|n| sender.send(pong(n))), [Ok(()), Ok(()), Ok(()), Err(SendError::Full)]);
        sender.close(Close::Ended);
        for _ in 0..3 {
            assert!(matches!(receiver.try_recv(), Some(Outgoing::Message(_))));
        }
        assert!(matches!(receiver.try_recv(), Some(Outgoing::Close(Close::Ended))), "the close always fits");
    }

    #[test]
    fn a_reader_that_does_not_read_is_bounded_in_bytes() {
        let (sender, mut receiver) = queue(100, 1000);
        let large = || SignalMessage::new(Message::RefreshToken("x".repeat(600)));
        assert_eq!(sender.send(large()), Ok(()));
        assert_eq!(sender.send(large()), Err(SendError::Full));
        receiver.try_recv().unwrap();
        assert_eq!(sender.send(large()), Ok(()));
        receiver.try_recv().unwrap();
        let oversize = SignalMessage::new(Message::RefreshToken("x".repeat(5000)));
        assert_eq!(sender.send(oversize), Ok(()), "one message always fits into an empty queue");
        drop(receiver);
        assert_eq!(sender.send(pong(1)), Err(SendError::Gone));
    }

    #[test]
    fn both_encodings_say_the_same() {
        let message = pong(7);
        let decoded = livekit::SignalResponse::decode(message.binary()).unwrap();
        let parsed: livekit::SignalResponse = serde_json::from_str(&message.text()).unwrap();
        assert_eq!(decoded, parsed);
    }
}
