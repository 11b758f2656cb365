//! The JSON of control frames.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// This protocol's version. Both sides refuse another.
pub const VERSION: u32 = 1;

/// Most bytes of a path.
pub const MAX_PATH: usize = 4095;

/// What the client asks or tells. Those above the line open a channel; those below belong to one that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First of all, on channel 0.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Fresh random bytes in hexadecimal, mixed into the sandbox's generator.
        entropy: String,
        /// Nanoseconds since 1970, to set the clock where the agent may.
        clock: Option<u64>,
    },
    /// The same again later: after a snapshot was begun from, two sandboxes would otherwise make the same "random" numbers.
    Reseed {
        /// Fresh random bytes in hexadecimal.
        entropy: String,
        /// Nanoseconds since 1970.
        clock: Option<u64>,
    },
    /// Runs a program: [`Reply::Started`], content of kinds stdout and stderr, [`Reply::Exited`].
    Exec(Exec),
    /// [`Reply::Ready`], then the client sends exactly `size` bytes of data, then [`Reply::Done`].
    WriteFile {
        /// Absolute, or from the root.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
    },
    /// [`Reply::File`], data, [`Reply::Done`].
    ReadFile {
        /// Absolute, or from the root.
        path: String,
    },
    /// [`Reply::File`], data (a JSON array of [`Entry`]), [`Reply::Done`].
    ListFolder {
        /// Absolute, or from the root.
        path: String,
        /// Most entries.
        limit: u32,
    },
    /// Connects to a TCP port on the loopback: [`Reply::Ready`], data both ways, [`Reply::Closed`].
    Dial {
        /// Port.
        port: u16,
    },
    /// [`Reply::Usage`].
    Usage,
    /// [`Reply::Done`].
    Ping,
    /// An agent that was begun with `--owned` no longer ends with its connection: [`Reply::Done`].
    Keep {
        /// The largest file that it and its programs may write from now on.
        file_bytes: u64,
    },
    /// Gives the sandbox an address, a route and name servers: [`Reply::Done`].
    Network(Interface),
    /// [`Reply::Done`], then everything is ended: a virtual machine powers off, elsewhere the agent exits.
    Shutdown {
        /// Milliseconds between asking programs to end and killing them.
        grace_ms: u64,
    },

    // ---- on an open channel ----
    /// A signal to a program's process group.
    Signal {
        /// Its number on Linux.
        signal: i32,
    },
    /// A terminal has another size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters.
        columns: u16,
    },
    /// A program's standard input, or the client's half of a connection, ends.
    Eof,
    /// The client wants no more of it: a program is killed, a half-written file removed, a connection cut.
    Close,
}

/// A program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Beside the agent's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Folder; empty: the agent's own.
    #[serde(default)]
    pub cwd: String,
    /// Name or number, with `:group` if wanted; empty: the agent's own.
    #[serde(default)]
    pub user: String,
    /// Lines and characters of a terminal; none: pipes.
    #[serde(default)]
    pub tty: Option<(u16, u16)>,
    /// Killed after this.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// The one network interface of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// IPv4 address.
    pub address: std::net::Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
    /// Default route.
    pub gateway: Option<std::net::Ipv4Addr>,
    /// For `/etc/resolv.conf`.
    pub name_servers: Vec<std::net::IpAddr>,
    /// Hardware address; none: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To a hello.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The agent's own version.
        agent: String,
        /// Whether the kernel credited the entropy (only a virtual machine's own root may make it).
        reseeded: bool,
    },
    /// A program runs.
    Started {
        /// Its number in the sandbox.
        pid: u32,
    },
    /// A program is over, and all it wrote was sent.
    Exited(Exit),
    /// Go on.
    Ready,
    /// Content follows.
    File {
        /// Bytes that follow, if the file does not change meanwhile.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// It is done.
    Done,
    /// The sandbox's half of a connection ended.
    Eof,
    /// A connection is over.
    Closed,
    /// How much is used.
    Usage(Usage),
    /// It was not done.
    Error {
        /// Which kind of error.
        code: ErrorCode,
        /// What was wrong, with which value.
        message: String,
    },
}

/// How a program ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// Its time was over.
    pub timed_out: bool,
    /// The kernel killed something for memory meanwhile, and this died of SIGKILL.
    pub out_of_memory: bool,
}

/// What is used. A control group's figures where the agent is in one of its own, the machine's otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Microseconds of CPU time.
    pub cpu_us: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes; 0 when unknown.
    pub memory_peak_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes in use of the disk under `/`.
    pub disk_bytes: u64,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// `file`, `folder`, `link`, `other`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// There is no such program.
    NoProgram,
    /// No such file or folder, nobody listens.
    NotFound,
    /// The request is wrong.
    Invalid,
    /// Processes, memory, disk or channels are used up.
    Exhausted,
    /// The sandbox does not let the agent do this.
    Denied,
    /// Something else failed.
    Failed,
}

/// Hexadecimal of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

/// Bytes of hexadecimal; none when it is not.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(hex(&[0, 15, 255]), "000fff");
        assert_eq!(unhex("000fff"), Some(vec![0, 15, 255]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }

    #[test]
    fn requests_are_readable_json() {
        let exec = Request::Exec(Exec { argv: vec!["ls".into()], ..Exec::default() });
        let text = serde_json::to_string(&exec).unwrap();
        assert!(text.starts_with(r#"{"exec":{"argv":["ls"]"#), "{text}");
        assert_eq!(serde_json::from_str::<Request>(r#"{"exec":{"argv":["ls"]}}"#).unwrap(), exec);
    }
}
