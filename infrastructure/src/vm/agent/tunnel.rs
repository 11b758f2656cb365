//! A TCP connection into the sandbox, as a stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use auralink_guest::frame::{CHUNK, Kind};
use auralink_guest::message::{Reply, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{Channel, ChannelSender, Event, Wire};
use super::{VmError, late};
use crate::vm::Stream;

pub async fn dial(wire: &Wire, port: u16) -> Result<Box<dyn Stream>, VmError> {
    let channel = late("connecting to a port in the sandbox", async {
        let mut channel = wire.open(&Request::Dial { port }).await?;
        match channel.reply().await? {
            Reply::Ready => Ok(channel),
            other => Err(wire.unexpected(&other)),
        }
    })
    .await?;
    let (near, far) = tokio::io::duplex(CHUNK);
    let (from, to) = tokio::io::split(far);
    let dropped = CancellationToken::new();
    tokio::spawn(outwards(from, channel.sender(), dropped.clone()));
    tokio::spawn(inwards(to, channel, dropped.clone()));
    Ok(Box::new(Tunnel { stream: near, _dropped: dropped.drop_guard() }))
}

/// Bytes of ours, until we end them.
async fn outwards(mut from: ReadHalf<DuplexStream>, sender: ChannelSender, dropped: CancellationToken) {
    let mut buffer = vec![0; CHUNK];
    let work = async {
        loop {
            match from.read(&mut buffer).await {
                Ok(length) if length > 0 => {
                    if !sender.content(Kind::Data, &buffer[..length]).await {
                        return;
                    }
                }
                _ => break drop(sender.tell(&Request::Eof).await),
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = dropped.cancelled() => {}
    }
}

/// Bytes of the sandbox's, until it or we end the connection.
async fn inwards(mut to: WriteHalf<DuplexStream>, mut channel: Channel, dropped: CancellationToken) {
    loop {
        let event = tokio::select! {
            event = channel.event() => event,
            () = dropped.cancelled() => return,
        };
        match event {
            Ok(Event::Content(Kind::Data, bytes)) => {
                let written = tokio::select! {
                    written = to.write_all(&bytes) => written,
                    () = dropped.cancelled() => return,
                };
                if written.is_err() {
                    return;
                }
                channel.passed_on(bytes.len()).await;
            }
            Ok(Event::Reply(Reply::Eof)) => drop(to.shutdown().await),
            Ok(Event::Reply(Reply::Closed)) => {
                channel.finish();
                let _ = to.shutdown().await;
                return;
            }
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
}

/// Dropping it cuts the connection.
struct Tunnel {
    stream: DuplexStream,
    _dropped: DropGuard,
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
