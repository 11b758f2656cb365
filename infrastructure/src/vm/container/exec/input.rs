//! What goes to a running program. Rule: a program that does not read its input can still be signalled and resized, and no more than
//! [`HELD`] bytes wait for it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

use super::Program;
use crate::vm::ExecInput;

/// Bytes that wait while a program does not read; more hold the sender back.
const HELD: usize = 1 << 20;

/// Carries until the program is over.
pub(super) async fn carry(
    program: Program,
    mut stdin: OwnedWriteHalf,
    mut inputs: mpsc::Receiver<ExecInput>,
    mut over: oneshot::Receiver<()>,
) {
    let mut waiting: VecDeque<Bytes> = VecDeque::new();
    let (mut held, mut listening, mut ends, mut open) = (0, true, false, true);
    loop {
        tokio::select! {
            _ = &mut over => return,
            written = write(&mut stdin, waiting.front()), if open && !waiting.is_empty() => match written {
                Ok(written) => {
                    held -= written;
                    if let Some(front) = waiting.front_mut() {
                        front.advance(written);
                    }
                    if waiting.front().is_some_and(Bytes::is_empty) {
                        waiting.pop_front();
                    }
                }
                // It reads no more: what is sent to it is nobody's.
                Err(_) => { open = false; waiting.clear(); held = 0; }
            },
            input = inputs.recv(), if listening && held < HELD => match input {
                Some(ExecInput::Stdin(bytes)) if open && !ends && !bytes.is_empty() => { held += bytes.len(); waiting.push_back(bytes); }
                Some(ExecInput::Stdin(_)) => {}
                Some(ExecInput::CloseStdin) => ends = true,
                Some(ExecInput::Resize(size)) => program.resize(size).await,
                Some(ExecInput::Signal(number)) => {
                    if let Err(error) = program.signal(number).await {
                        tracing::warn!(sandbox = %program.id, number, %error, "a signal was not delivered");
                    }
                }
                None => { listening = false; ends = true; }
            },
        }
        if ends && open && waiting.is_empty() {
            open = false;
            let _ = stdin.shutdown().await;
        }
        if !listening && !open {
            // The half must live on: dropping it would close what is left of the connection.
            let _ = over.await;
            return;
        }
    }
}

async fn write(stdin: &mut OwnedWriteHalf, front: Option<&Bytes>) -> std::io::Result<usize> {
    match front {
        Some(bytes) => stdin.write(bytes).await,
        None => Ok(0),
    }
}
