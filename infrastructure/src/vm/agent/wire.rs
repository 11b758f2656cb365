//! The connection itself: one task reads, one writes, channels are told apart by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use auralink_guest::frame::{self, Kind, WINDOW};
use auralink_guest::message::{ErrorCode, Reply, Request, hex};
use auralink_guest::{Decoder, Frame};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{VmError, brief};

/// Frames that wait for the writer. Each is at most a header and 256 KiB, nearly all are 32 KiB or less.
const WAITING_FRAMES: usize = 32;

/// Bytes of replies of one channel that wait to be taken: two of the longest.
const WAITING_REPLY_BYTES: usize = 512 << 10;

/// What a channel's queue may hold: a window's worth of the smallest frames, and a few replies.
const WAITING_EVENTS: usize = WINDOW / frame::OVERHEAD + 16;

/// Bytes of an earlier connection that may be left on a serial port: what the port, QEMU and the agent can hold between them, with room.
const LEFT_OVER: usize = 8 << 20;

/// Something that came for a channel.
#[derive(Debug)]
pub enum Event {
    Content(Kind, Bytes),
    Reply(Reply),
}

#[derive(Debug)]
struct Inbox {
    /// With each event the bytes that it takes of `replies`.
    events: mpsc::Sender<(Event, usize)>,
    /// Bytes of replies that wait to be taken.
    replies: Arc<AtomicUsize>,
    /// What we may send.
    credit: Arc<Semaphore>,
    /// What the agent may still send.
    allowed: usize,
}

#[derive(Debug, Default)]
struct Table {
    inboxes: HashMap<u32, Inbox>,
    last: u32,
    /// Why the connection is over.
    over: Option<String>,
}

#[derive(Debug)]
struct Shared {
    engine: &'static str,
    table: Mutex<Table>,
    ended: CancellationToken,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: String) {
        let mut table = self.table();
        table.over.get_or_insert(reason);
        for inbox in table.inboxes.drain() {
            inbox.1.credit.close();
        }
        drop(table);
        self.ended.cancel();
    }

    fn ended(&self) -> VmError {
        VmError::Ended(self.table().over.clone().unwrap_or_else(|| "its agent does not answer any more".into()))
    }
}

/// A connection. Clones share it; with the last one its tasks end.
#[derive(Debug, Clone)]
pub struct Wire {
    shared: Arc<Shared>,
    frames: mpsc::Sender<Vec<u8>>,
    _tasks: Arc<DropGuard>,
}

impl Wire {
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, engine: &'static str, rest: Vec<u8>) -> Self {
        let ended = CancellationToken::new();
        let shared = Arc::new(Shared { engine, table: Mutex::default(), ended: ended.clone() });
        let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
        let (reading, writing) = tokio::io::split(stream);
        tokio::spawn(read(reading, rest, shared.clone()));
        tokio::spawn(write(writing, waiting, shared.clone()));
        Self { shared, frames, _tasks: Arc::new(ended.drop_guard()) }
    }

    pub fn is_over(&self) -> bool {
        self.shared.ended.is_cancelled()
    }

    pub async fn over(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Channel 0, once.
    pub async fn hello(&self, hello: &Request) -> Result<Channel, VmError> {
        self.open_numbered(hello, |_| 0).await
    }

    /// Opens a channel with a request.
    pub async fn open(&self, request: &Request) -> Result<Channel, VmError> {
        self.open_numbered(request, |last| last + 1).await
    }

    async fn open_numbered(&self, request: &Request, number: impl FnOnce(u32) -> u32) -> Result<Channel, VmError> {
        let json = encode(request)?;
        // The agent wants numbers in order: a place in the queue is taken before the number is.
        let place = self.frames.reserve().await.map_err(|_| self.shared.ended())?;
        let (events, received) = mpsc::channel(WAITING_EVENTS);
        let replies = Arc::new(AtomicUsize::new(0));
        let credit = Arc::new(Semaphore::new(WINDOW));
        let number = {
            let mut table = self.shared.table();
            if let Some(reason) = &table.over {
                return Err(VmError::Ended(reason.clone()));
            }
            let number = number(table.last);
            table.last = number;
            table.inboxes.insert(number, Inbox { events, replies: replies.clone(), credit: credit.clone(), allowed: WINDOW });
            place.send(framed(Kind::Control, number, &json));
            number
        };
        Ok(Channel {
            sender: ChannelSender { wire: self.clone(), number, credit, closed: CancellationToken::new() },
            events: received,
            replies,
            owed: 0,
            finished: number == 0,
        })
    }

    /// The agent breaks the protocol, or is none: the connection is ended.
    pub fn broken(&self, reason: String) -> VmError {
        metrics::counter!("auralink_sandbox_agent_protocol_errors_total").increment(1);
        self.shared.end(format!("its agent broke the protocol: {reason}"));
        VmError::Engine { engine: self.shared.engine, reason: format!("the sandbox's agent broke the protocol: {reason}") }
    }

    /// A reply that is an error, or does not belong where it came.
    pub fn unexpected(&self, reply: &Reply) -> VmError {
        match reply {
            Reply::Error { code, message } => self.refused(*code, message),
            other => self.broken(format!("an unexpected {}", brief(other))),
        }
    }

    fn refused(&self, code: ErrorCode, message: &str) -> VmError {
        let message: String = message.chars().filter(|c| !c.is_control()).take(500).collect();
        match code {
            ErrorCode::NoProgram => VmError::NoProgram(message),
            ErrorCode::NotFound => VmError::NotFound(message),
            ErrorCode::Invalid | ErrorCode::Denied => VmError::Invalid(message),
            ErrorCode::Exhausted => VmError::Exhausted(message),
            ErrorCode::Failed => VmError::Engine { engine: self.shared.engine, reason: message },
        }
    }
}

/// What a channel sends with.
#[derive(Debug, Clone)]
pub struct ChannelSender {
    wire: Wire,
    number: u32,
    credit: Arc<Semaphore>,
    closed: CancellationToken,
}

impl ChannelSender {
    /// Waits until the channel is over.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Tells something about the channel.
    pub async fn tell(&self, request: &Request) -> Result<(), VmError> {
        let frame = framed(Kind::Control, self.number, &encode(request)?);
        self.wire.frames.send(frame).await.map_err(|_| self.wire.shared.ended())
    }

    /// Sends content of at most a chunk as soon as there is credit. False when the channel is over.
    pub async fn content(&self, kind: Kind, bytes: &[u8]) -> bool {
        let cost = u32::try_from(frame::cost(bytes.len())).unwrap_or(u32::MAX);
        match self.credit.acquire_many(cost).await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        self.wire.frames.send(framed(kind, self.number, bytes)).await.is_ok()
    }
}

/// An open channel. Dropped before it is over, it is closed: what it stands for ends in the sandbox.
#[derive(Debug)]
pub struct Channel {
    sender: ChannelSender,
    events: mpsc::Receiver<(Event, usize)>,
    replies: Arc<AtomicUsize>,
    owed: usize,
    finished: bool,
}

impl Channel {
    pub fn sender(&self) -> ChannelSender {
        self.sender.clone()
    }

    pub fn wire(&self) -> &Wire {
        &self.sender.wire
    }

    /// What comes next. Cancelling loses nothing.
    pub async fn event(&mut self) -> Result<Event, VmError> {
        match self.events.recv().await {
            Some((event, bytes)) => {
                self.replies.fetch_sub(bytes, Ordering::Relaxed);
                Ok(event)
            }
            None => Err(self.sender.wire.shared.ended()),
        }
    }

    /// The next reply; content is not expected here. Errors of the agent become ours.
    pub async fn reply(&mut self) -> Result<Reply, VmError> {
        match self.event().await? {
            Event::Reply(Reply::Error { code, message }) => {
                self.finished = true;
                Err(self.sender.wire.refused(code, &message))
            }
            Event::Reply(reply) => Ok(reply),
            Event::Content(..) => Err(self.sender.wire.broken("content before an answer".into())),
        }
    }

    /// Lets the agent send so much more: its content of that length was passed on.
    pub async fn passed_on(&mut self, length: usize) {
        self.owed += frame::cost(length);
        if self.owed < WINDOW / 8 {
            return;
        }
        let amount = std::mem::take(&mut self.owed);
        if let Some(inbox) = self.sender.wire.shared.table().inboxes.get_mut(&self.sender.number) {
            inbox.allowed += amount;
        }
        let frame = framed(Kind::Credit, self.sender.number, &u32::try_from(amount).unwrap_or(u32::MAX).to_be_bytes());
        let _ = self.sender.wire.frames.send(frame).await;
    }

    /// It is over on the agent's side.
    pub fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let wire = &self.sender.wire;
        wire.shared.table().inboxes.remove(&self.sender.number);
        self.sender.credit.close();
        self.sender.closed.cancel();
        if self.finished || wire.is_over() {
            return;
        }
        let Ok(json) = encode(&Request::Close) else { return };
        if let Err(mpsc::error::TrySendError::Full(frame)) = wire.frames.try_send(framed(Kind::Control, self.sender.number, &json))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let wire = wire.clone();
            runtime.spawn(async move { drop(wire.frames.send(frame).await) });
        }
    }
}

fn encode(request: &Request) -> Result<Vec<u8>, VmError> {
    let json = serde_json::to_vec(request).map_err(|e| VmError::Invalid(format!("a request that JSON cannot carry: {e}")))?;
    if json.len() > frame::MAX_PAYLOAD {
        return Err(VmError::Invalid(format!(
            "arguments and environment are too long: {} bytes, at most {} go through; write them to a file in the sandbox",
            json.len(),
            frame::MAX_PAYLOAD
        )));
    }
    Ok(json)
}

fn framed(kind: Kind, channel: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::encode(&mut frame, kind, channel, payload);
    frame
}

/// 64 fresh random bytes.
pub fn entropy() -> Result<String, VmError> {
    let mut bytes = [0; 64];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| VmError::Io { what: "making random bytes for a sandbox".into(), source: std::io::Error::other("no random bytes") })?;
    Ok(hex(&bytes))
}

/// Nanoseconds since 1970.
pub fn clock() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_nanos()).ok())
}

/// Begins a connection on a serial port; answers what came behind the beginning.
pub async fn begin_serial(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    engine: &'static str,
    key: [u8; 16],
) -> Result<Vec<u8>, VmError> {
    let mut mark = [0; 32];
    mark[..16].copy_from_slice(&key);
    let failed = |reason: String| VmError::Engine { engine, reason: format!("greeting the sandbox's agent: {reason}") };
    aws_lc_rs::rand::fill(&mut mark[16..]).map_err(|_| failed("no random bytes".into()))?;
    stream.write_all(&mark).await.map_err(|e| failed(e.to_string()))?;
    let (mut seen, mut skipped) = (Vec::new(), 0);
    while skipped < LEFT_OVER {
        let begin = seen.len().saturating_sub(mark.len() - 1);
        skipped += begin;
        seen.drain(..begin);
        if stream.read_buf(&mut seen).await.map_err(|e| failed(e.to_string()))? == 0 {
            return Err(failed("the connection was closed".into()));
        }
        if let Some(at) = seen.windows(mark.len()).position(|window| window == mark) {
            return Ok(seen.split_off(at + mark.len()));
        }
    }
    Err(failed(format!("nothing but rubbish in {LEFT_OVER} bytes")))
}

async fn read(mut stream: ReadHalf<impl AsyncRead>, rest: Vec<u8>, shared: Arc<Shared>) {
    let mut decoder = Decoder::default();
    decoder.push(&rest);
    let mut buffer = vec![0; 64 << 10];
    let reason = loop {
        if let Err(reason) = distribute(&mut decoder, &shared) {
            metrics::counter!("auralink_sandbox_agent_protocol_errors_total").increment(1);
            break format!("its agent broke the protocol: {reason}");
        }
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            () = shared.ended.cancelled() => break "it is not needed any more".into(),
        };
        match read {
            Ok(0) => break "its agent closed the connection".into(),
            Ok(length) => decoder.push(&buffer[..length]),
            Err(error) => break format!("its agent cannot be read: {error}"),
        }
    };
    shared.end(reason);
}

fn distribute(decoder: &mut Decoder, shared: &Shared) -> Result<(), String> {
    while let Some(frame) = decoder.next_frame().map_err(|e| e.to_string())? {
        take(frame, &mut shared.table())?;
    }
    Ok(())
}

/// Puts a frame into its channel's queue. It never waits: who overruns a queue has sent more than it may.
fn take(frame: Frame, table: &mut Table) -> Result<(), String> {
    if frame.channel > table.last {
        return Err(format!("a frame for channel {}, which was never opened", frame.channel));
    }
    // On channel 0, behind the greeting, the agent says why it ends the connection.
    let Some(inbox) = table.inboxes.get_mut(&frame.channel) else {
        return match (frame.channel, frame.kind) {
            (0, Kind::Control) => Err(String::from_utf8_lossy(&frame.payload).chars().filter(|c| !c.is_control()).take(300).collect()),
            _ => Ok(()),
        };
    };
    let mut bytes = 0;
    let event = match frame.kind {
        Kind::Credit => {
            let amount = frame.credit().map_err(|e| e.to_string())? as usize;
            let room = WINDOW.saturating_sub(inbox.credit.available_permits());
            inbox.credit.add_permits(amount.min(room));
            return Ok(());
        }
        Kind::Control => {
            // Credit is for content alone: a sandbox whose agent was replaced could fill memory with replies that nobody takes.
            bytes = frame.payload.len();
            if inbox.replies.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_REPLY_BYTES {
                return Err(format!("channel {} was flooded with replies", frame.channel));
            }
            Event::Reply(serde_json::from_slice(&frame.payload).map_err(|e| format!("a reply that is not understood: {e}"))?)
        }
        Kind::Stdout | Kind::Stderr | Kind::Data => {
            let cost = frame::cost(frame.payload.len());
            inbox.allowed =
                inbox.allowed.checked_sub(cost).ok_or_else(|| format!("channel {} sent more than its credit", frame.channel))?;
            Event::Content(frame.kind, Bytes::from(frame.payload))
        }
        Kind::Stdin => return Err("input of a program, from the sandbox".into()),
    };
    match inbox.events.try_send((event, bytes)) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(format!("channel {} was flooded with replies", frame.channel)),
    }
}

async fn write(mut stream: WriteHalf<impl AsyncWrite>, mut frames: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    let work = async {
        while let Some(frame) = frames.recv().await {
            stream.write_all(&frame).await?;
            if frames.is_empty() {
                stream.flush().await?;
            }
        }
        stream.shutdown().await
    };
    let result = tokio::select! {
        result = work => result,
        () = shared.ended.cancelled() => return,
    };
    if let Err(error) = result {
        shared.end(format!("its agent cannot be written to: {error}"));
    }
}
