//! A program in the sandbox, as the two channels of an [`Exec`].

use auralink_guest::frame::{CHUNK, Kind};
use auralink_guest::message::{Exec as Wanted, Reply, Request};
use tokio::sync::mpsc;

use super::wire::{Channel, ChannelSender, Event, Wire};
use super::{VmError, late};
use crate::vm::{Exec, ExecInput, ExecOutput, ExecSpec, ExitStatus};

/// Pieces of output, or of input, that wait for whoever takes them.
const WAITING: usize = 8;

pub async fn exec(wire: &Wire, spec: ExecSpec) -> Result<Exec, VmError> {
    let request = Request::Exec(Wanted {
        argv: spec.argv,
        env: spec.env,
        cwd: spec.cwd,
        user: spec.user,
        tty: spec.tty.map(|size| (size.rows, size.columns)),
        timeout_ms: spec.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    });
    let channel = late("starting a program in the sandbox", async {
        let mut channel = wire.open(&request).await?;
        match channel.reply().await? {
            Reply::Started { .. } => Ok(channel),
            other => Err(wire.unexpected(&other)),
        }
    })
    .await?;
    let (input, inputs) = mpsc::channel(WAITING);
    let (outputs, output) = mpsc::channel(WAITING);
    tokio::spawn(pass_input(channel.sender(), inputs));
    tokio::spawn(pass_output(channel, outputs));
    Ok(Exec { input, output })
}

/// Until the program is over, or nobody has the output any more.
async fn pass_output(mut channel: Channel, output: mpsc::Sender<Result<ExecOutput, VmError>>) {
    loop {
        let event = tokio::select! {
            event = channel.event() => event,
            () = output.closed() => return,
        };
        let (item, length) = match event {
            Ok(Event::Content(Kind::Stdout, bytes)) => (Ok(ExecOutput::Stdout(bytes.clone())), bytes.len()),
            Ok(Event::Content(Kind::Stderr, bytes)) => (Ok(ExecOutput::Stderr(bytes.clone())), bytes.len()),
            Ok(Event::Reply(Reply::Exited(exit))) => {
                channel.finish();
                let status =
                    ExitStatus { code: exit.code, signal: exit.signal, timed_out: exit.timed_out, out_of_memory: exit.out_of_memory };
                let _ = output.send(Ok(ExecOutput::Exited(status))).await;
                return;
            }
            Ok(Event::Reply(other)) => (Err(channel.wire().unexpected(&other)), 0),
            Ok(Event::Content(..)) => (Err(channel.wire().broken("data of no file, from a program".into())), 0),
            Err(error) => (Err(error), 0),
        };
        let is_last = item.is_err();
        if output.send(item).await.is_err() || is_last {
            return;
        }
        channel.passed_on(length).await;
    }
}

/// Until the input is dropped or the program is over.
async fn pass_input(sender: ChannelSender, mut input: mpsc::Receiver<ExecInput>) {
    loop {
        let item = tokio::select! {
            item = input.recv() => item,
            () = sender.closed() => return,
        };
        let told = match item {
            Some(ExecInput::Stdin(bytes)) => {
                for part in bytes.chunks(CHUNK) {
                    if !sender.content(Kind::Stdin, part).await {
                        return;
                    }
                }
                continue;
            }
            Some(ExecInput::CloseStdin) => sender.tell(&Request::Eof).await,
            Some(ExecInput::Resize(size)) => sender.tell(&Request::Resize { rows: size.rows, columns: size.columns }).await,
            Some(ExecInput::Signal(signal)) => sender.tell(&Request::Signal { signal }).await,
            None => {
                let _ = sender.tell(&Request::Eof).await;
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}
