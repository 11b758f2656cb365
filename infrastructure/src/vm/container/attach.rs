//! The two-way stream of a program that the engine runs: its standard input one way, its output the other.
//!
//! Place: under `exec`. Rule: nothing is gathered; a frame of any length is handed on in pieces of at most 32 KiB, and who does not read
//! holds the program back.
//!
//! Written here because the client library guesses from a terminal's first byte whether a frame header follows: a program that prints
//! `\x01` there can make it wait for, and keep, 4 GiB. What a stream is was said when it was asked for, so nothing need be guessed.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::io::poll_read_buf;

/// Largest piece handed on.
const PIECE: usize = 32 << 10;
/// Largest answer head.
const HEAD: usize = 16 << 10;
/// Largest error text that is read.
const TEXT: u64 = 64 << 10;
/// How long the daemon may take to answer the request; the program itself may run as long as it likes.
const ANSWER: Duration = Duration::from_secs(60);

/// Why there is no stream.
#[derive(Debug)]
pub(super) enum Refused {
    /// The daemon said so: HTTP status and its words.
    Answered(u16, String),
    /// The connection failed.
    Io(std::io::Error),
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the program sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Standard output, or the terminal's.
    Out(Bytes),
    /// Standard error.
    Err(Bytes),
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Output {
    from: OwnedReadHalf,
    frames: Frames,
    buffer: BytesMut,
}

/// Starts a prepared exec and attaches to it.
pub(super) async fn start(socket: &Path, exec: &str, tty: bool) -> Result<(Output, OwnedWriteHalf), Refused> {
    let late = || Refused::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the daemon did not answer within 60 s"));
    tokio::time::timeout(ANSWER, ask(socket, exec, tty)).await.map_err(|_| late())?
}

async fn ask(socket: &Path, exec: &str, tty: bool) -> Result<(Output, OwnedWriteHalf), Refused> {
    let mut stream = UnixStream::connect(socket).await?;
    let body = format!(r#"{{"Detach":false,"Tty":{tty}}}"#);
    let head = format!(
        "POST /exec/{exec}/start HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut buffer = BytesMut::with_capacity(PIECE);
    let (status, head_length) = loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the daemon closed the connection without an answer").into());
        }
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break (status_of(&buffer[..end])?, end + 4);
        }
        if buffer.len() > HEAD {
            return Err(std::io::Error::other("the daemon's answer has no end of headers in 16 KiB").into());
        }
    };
    buffer.advance(head_length);
    let (mut from, to) = stream.into_split();
    if status == 101 || status == 200 {
        return Ok((Output { from, frames: if tty { Frames::Raw } else { Frames::Header }, buffer }, to));
    }
    let mut text = buffer.to_vec();
    // The connection stays open after an error's answer, so its end is the end of the JSON object.
    while serde_json::from_slice::<serde::de::IgnoredAny>(trim_chunk(&text)).is_err() && (text.len() as u64) < TEXT {
        if from.read_buf(&mut text).await? == 0 {
            break;
        }
    }
    Err(Refused::Answered(status, message(trim_chunk(&text))))
}

fn status_of(head: &[u8]) -> Result<u16, std::io::Error> {
    let line = String::from_utf8_lossy(head.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|code| code.parse().ok());
    status.ok_or_else(|| std::io::Error::other(format!("the daemon does not speak HTTP: {:?}", line.chars().take(80).collect::<String>())))
}

/// The JSON object in a body, which may come in chunks.
fn trim_chunk(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| *b == b'{').unwrap_or(0);
    let end = text.iter().rposition(|b| *b == b'}').map_or(text.len(), |at| at + 1);
    text.get(start..end).unwrap_or_default()
}

fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        message: String,
    }
    match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

impl Output {
    /// The next piece; `None` when the program's output ended. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Piece>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Output::next`].
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<Option<Piece>>> {
        loop {
            if let Some(piece) = self.frames.next(&mut self.buffer)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            self.buffer.reserve(PIECE);
            if ready!(poll_read_buf(Pin::new(&mut self.from), context, &mut self.buffer))? == 0 {
                return Poll::Ready(Ok(None));
            }
        }
    }
}

/// Where in the stream of frames one is: 8 bytes of header (the stream's number, three zeros, the length, most significant byte first),
/// then the payload.
#[derive(Debug)]
enum Frames {
    /// A terminal: no frames at all.
    Raw,
    Header,
    Payload {
        stream: u8,
        left: usize,
    },
}

impl Frames {
    fn next(&mut self, buffer: &mut BytesMut) -> std::io::Result<Option<Piece>> {
        loop {
            match self {
                Self::Raw if buffer.is_empty() => return Ok(None),
                Self::Raw => {
                    let length = buffer.len().min(PIECE);
                    return Ok(Some(Piece::Out(buffer.split_to(length).freeze())));
                }
                Self::Header if buffer.len() < 8 => return Ok(None),
                Self::Header => {
                    let header = buffer.split_to(8);
                    if header[0] > 3 || header[1..4] != [0, 0, 0] {
                        return Err(std::io::Error::other(format!("the daemon's stream has no frame header but {:?}", &header[..])));
                    }
                    let left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
                    *self = if left == 0 { Self::Header } else { Self::Payload { stream: header[0], left } };
                }
                Self::Payload { .. } if buffer.is_empty() => return Ok(None),
                Self::Payload { stream, left } => {
                    let length = buffer.len().min(PIECE).min(*left);
                    let bytes = buffer.split_to(length).freeze();
                    let stream = *stream;
                    *left -= length;
                    if *left == 0 {
                        *self = Self::Header;
                    }
                    // 0 and 1 are output; 2 is standard error; 3 is the daemon's own word about the stream.
                    return Ok(Some(if stream < 2 { Piece::Out(bytes) } else { Piece::Err(bytes) }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frames: &mut Frames, bytes: &[u8], step: usize) -> std::io::Result<Vec<Piece>> {
        let (mut pieces, mut buffer) = (Vec::new(), BytesMut::new());
        for chunk in bytes.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(piece) = frames.next(&mut buffer)? {
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }

    fn joined(pieces: Vec<Piece>) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Out(bytes) => out.extend(bytes),
                Piece::Err(bytes) => err.extend(bytes),
            }
        }
        (out, err)
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let stream = [&b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x03err\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01!"[..]].concat();
        for step in 1..stream.len() {
            assert_eq!(joined(all(&mut Frames::Header, &stream, step).unwrap()), (b"hello!".to_vec(), b"err".to_vec()), "step {step}");
        }
    }

    #[test]
    fn a_terminal_that_prints_a_header_is_a_terminal() {
        let bytes = b"\x01\0\0\0\xff\xff\xff\xffabc";
        assert_eq!(joined(all(&mut Frames::Raw, bytes, 3).unwrap()).0, bytes);
    }

    #[test]
    fn a_frame_of_4_gib_is_not_gathered() {
        let mut buffer = BytesMut::from(&b"\x01\0\0\0\xff\xff\xff\xff"[..]);
        buffer.extend_from_slice(&[7; 100]);
        assert_eq!(Frames::Header.next(&mut buffer).unwrap(), Some(Piece::Out(Bytes::from(vec![7; 100]))));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert!(Frames::Header.next(&mut BytesMut::from(&b"HTTP/1.1"[..])).is_err());
    }

    #[test]
    fn an_error_answer_gives_its_message() {
        assert_eq!(message(trim_chunk(b"1b\r\n{\"message\":\"no such exec\"}\n\r\n0\r\n\r\n")), "no such exec");
        assert_eq!(status_of(b"HTTP/1.1 404 Not Found\r\nA: b").unwrap(), 404);
        assert!(status_of(b"SSH-2.0-OpenSSH").is_err());
    }
}
