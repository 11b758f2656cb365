//! What the agent does in a container of Docker or Podman: it is the first process, and it does the small things that the engine's API
//! has no call for. The words: [`auralink_guest::container`].
//!
//! Place: bound read-only into the container by `vm::container`, which runs these words by the engine's own exec. Rule: it has no more
//! rights than the programs beside it, holds no socket, and reads nothing that those programs could have written but `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use auralink_guest::container::{CONNECTED, DENIED, Entry, NO_FOLDER, NO_PROGRAM, NOT_FOUND, belonging};
use rustix::event::{Timespec, poll};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, kill_process, set_dumpable_behavior, wait};

use rustix::termios::{Winsize, tcsetwinsize};

use crate::agent::sys;

/// Does what the words say.
pub fn run(words: &[String]) -> ExitCode {
    // Programs of the same user shall neither trace it nor read its memory.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["keep"] => keep(),
        ["signal", tag, number] => number.parse().map_err(io::Error::other).and_then(|number| signal(tag, number)),
        ["list", path, limit] => limit.parse().map_err(io::Error::other).and_then(|limit| list(path, limit)),
        ["terminal", rows, columns, program @ ..] => terminal(rows, columns, program),
        ["dial", port] => port.parse().map_err(io::Error::other).and_then(dial),
        _ => Err(io::Error::other(
            "the words are: keep | signal TAG NUMBER | list PATH LIMIT | terminal ROWS COLUMNS PROGRAM... | dial PORT",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auralink-guest: {error}");
            ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => NOT_FOUND,
                io::ErrorKind::NotADirectory => NO_FOLDER,
                io::ErrorKind::PermissionDenied => DENIED,
                _ => 1,
            })
        }
    }
}

fn keep() -> io::Result<()> {
    sys::watch_for_termination();
    // A signal ends the wait at once; orphans are looked for once a second.
    while !sys::is_terminated() {
        let _ = poll(&mut [], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        reap();
    }
    sys::signal_everyone(Signal::TERM);
    while processes().iter().any(|pid| *pid != 1) {
        reap();
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// The processes that `/proc` shows.
fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A program may fork while its processes are looked through, so a killing goes on until nobody with the mark is left.
fn signal(tag: &str, number: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(number).ok_or_else(|| io::Error::other(format!("{number} is no signal")))?;
    let mut signalled = false;
    let myself = rustix::process::getpid().as_raw_nonzero().get();
    for round in 0..200 {
        let found = belonging(&processes(), tag, None);
        let others: Vec<Pid> = found.into_iter().filter(|pid| *pid != myself && *pid != 1).filter_map(Pid::from_raw).collect();
        if others.is_empty() {
            // A program that is just becoming another (exec) shows no mark for a moment.
            if signalled || round >= 20 {
                break;
            }
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        for pid in others {
            signalled |= kill_process(pid, signal).is_ok();
        }
        if signal != Signal::KILL {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn list(path: &str, limit: usize) -> io::Result<()> {
    // What is kept never exceeds the limit, however many entries the folder has.
    let mut kept: BTreeMap<Vec<u8>, fs::DirEntry> = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        kept.insert(entry.file_name().as_bytes().to_vec(), entry);
        if kept.len() > limit {
            kept.pop_last();
        }
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (name, entry) in kept {
        // One that was deleted meanwhile is not in the folder any more.
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        let named = match () {
            () if kind.is_file() => "file",
            () if kind.is_dir() => "folder",
            () if kind.is_symlink() => "link",
            () => "other",
        };
        let size = if kind.is_file() { metadata.len() } else { 0 };
        let line = Entry { name: String::from_utf8_lossy(&name).into_owned(), kind: named.into(), size, mode: metadata.mode() & 0o7777 };
        serde_json::to_writer(&mut out, &line).map_err(io::Error::other)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Docker's API before 1.42 sets a terminal's size only after the program has begun, and has perhaps asked for it.
fn terminal(rows: &str, columns: &str, argv: &[&str]) -> io::Result<()> {
    let number = |text: &str| text.parse::<u16>().map_err(io::Error::other);
    let size = Winsize { ws_row: number(rows)?, ws_col: number(columns)?, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(rustix::stdio::stdin(), size)?;
    let Some((program, arguments)) = argv.split_first() else { return Err(io::Error::other("no program")) };
    let there = is_program(program);
    io::stdout().write_all(&[if there { CONNECTED } else { NO_PROGRAM }])?;
    io::stdout().flush()?;
    if there { Err(Command::new(program).args(arguments).exec()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn is_program(name: &str) -> bool {
    let runs = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0);
    if name.contains('/') {
        return runs(Path::new(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| runs(&folder.join(name)))
}

fn dial(port: u16) -> io::Result<()> {
    let addresses = [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))];
    let to = TcpStream::connect(addresses.as_slice())?;
    let mut from = to.try_clone()?;
    let mut sink = to.try_clone()?;
    io::stdout().write_all(&[CONNECTED])?;
    io::stdout().flush()?;
    // The process ends when the other side has sent all; what standard input still holds then has nobody to go to. This is a process of
    // its own, not the agent: two directions, two threads.
    #[expect(clippy::disallowed_methods, reason = "one thread for each direction of one connection, in a process of its own")]
    thread::spawn(move || {
        let _ = copy(&mut io::stdin().lock(), &mut sink);
        let _ = sink.shutdown(Shutdown::Write);
    });
    copy(&mut from, &mut io::stdout().lock())
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        to.flush()?;
    }
}
