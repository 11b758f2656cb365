//! Programs: input, output, signals, a terminal in raw mode, and the exit code passed on.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use auralink_proto::v1::*;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sandbox_exec_request::Request as Part;
use sandbox_exec_response::Response as Out;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, refused};
use crate::cli::sandbox::ExecArgs;

/// Runs a program; answers its exit code.
pub async fn exec(client: &Client, args: ExecArgs) -> anyhow::Result<u8> {
    let program = SandboxProgram {
        sandbox: args.sandbox,
        argv: args.argv,
        env: args.env.into_iter().collect(),
        cwd: args.cwd,
        user: args.user,
        tty: None,
        timeout_ms: args.timeout.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    };
    run(client, program, args.tty).await
}

/// A shell with a terminal.
pub async fn shell(client: &Client, sandbox: String, shell: String) -> anyhow::Result<u8> {
    let env = [("TERM".to_owned(), std::env::var("TERM").unwrap_or_else(|_| "xterm".into()))].into();
    run(client, SandboxProgram { sandbox, argv: vec![shell], env, ..SandboxProgram::default() }, true).await
}

async fn run(client: &Client, mut program: SandboxProgram, tty: bool) -> anyhow::Result<u8> {
    if tty {
        program.tty = Some(window().unwrap_or(SandboxTtySize { rows: 24, columns: 80 }));
    }
    let (parts, stream) = mpsc::channel(8);
    let send = |part| SandboxExecRequest { request: Some(part) };
    parts.send(send(Part::Program(program))).await?;
    let mut answers = client.client.clone().exec(client.request(ReceiverStream::new(stream))).await.map_err(refused)?.into_inner();
    let _raw = tty.then(Raw::enter).flatten();
    tokio::spawn(input(parts.clone()));
    tokio::spawn(signals(parts, tty));
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    while let Some(answer) = answers.message().await.map_err(refused)? {
        match answer.response {
            Some(Out::Stdout(bytes)) => {
                out.write_all(&bytes)?;
                out.flush()?;
            }
            Some(Out::Stderr(bytes)) => {
                err.write_all(&bytes)?;
                err.flush()?;
            }
            Some(Out::Exit(exit)) => {
                if exit.timed_out {
                    eprintln!("auralink: the program's time was over");
                }
                if exit.out_of_memory {
                    eprintln!("auralink: the memory limit ended the program");
                }
                return Ok(u8::try_from(exit.code).unwrap_or(1));
            }
            Some(Out::Started(_)) | None => {}
        }
    }
    anyhow::bail!("the program's end was not seen: the sandbox or the server ended")
}

async fn input(parts: mpsc::Sender<SandboxExecRequest>) {
    let mut buffer = vec![0; 32 << 10];
    // Without a standard input there is none to hand on.
    let Ok(mut stdin) = super::transfer::stdin() else { return };
    loop {
        let part = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => Part::CloseStdin(true),
            Ok(count) => Part::Stdin(buffer[..count].to_vec()),
        };
        let last = matches!(part, Part::CloseStdin(_));
        if parts.send(SandboxExecRequest { request: Some(part) }).await.is_err() || last {
            return;
        }
    }
}

/// Window sizes, and the signals that a terminal in raw mode does not make itself. This task also keeps the stream of requests open.
async fn signals(parts: mpsc::Sender<SandboxExecRequest>, tty: bool) {
    let (Ok(mut window_changed), Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::window_change()), signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        let part = tokio::select! {
            _ = window_changed.recv() => match window().filter(|_| tty) {
                Some(size) => Part::Resize(size),
                None => continue,
            },
            _ = interrupt.recv() => Part::Signal(2),
            _ = terminate.recv() => Part::Signal(15),
            () = parts.closed() => return,
        };
        if parts.send(SandboxExecRequest { request: Some(part) }).await.is_err() {
            return;
        }
    }
}

fn window() -> Option<SandboxTtySize> {
    let size = tcgetwinsize(std::io::stdout().as_fd()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0)?;
    Some(SandboxTtySize { rows: size.ws_row.into(), columns: size.ws_col.into() })
}

/// The terminal hands every key on; as it was when this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok().filter(|_| stdin.is_terminal())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing restored.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}
