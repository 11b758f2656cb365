//! The command line.

use auralink_guest::message::unhex;

/// How the server reaches the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A unix socket that the agent makes.
    Unix(String),
    /// A listening socket that was inherited.
    ListenFd(i32),
    /// A connected socket that was inherited; the agent ends with it.
    Fd(i32),
    /// A virtio serial port: its device, or its name as QEMU was given it.
    Serial(String),
    /// A port of AF_VSOCK.
    Vsock(u32),
}

/// What the agent was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// At least one.
    pub transports: Vec<Transport>,
    /// What begins a connection on a serial port.
    pub key: Option<[u8; 16]>,
    /// The agent is a virtual machine's first program: it sets the machine up before it listens.
    pub init: bool,
    /// The agent ends with its first connection, unless it is told otherwise there: nobody wants it yet.
    pub owned: bool,
    /// The `memory.events` file to find the kernel's memory kills in; otherwise looked for.
    pub memory_events: Option<String>,
}

const USAGE: &str = "usage: auralink-guest [--unix PATH] [--listen-fd N] [--fd N] [--serial PATH|NAME --key HEX] [--vsock PORT] \
                     [--memory-events FILE] [--mark TEXT] [--init] [--owned]";

impl Options {
    /// Reads the arguments behind the program's name. As a machine's process 1 there may be none: the kernel's command line has them.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.peekable();
        if rustix::process::getpid() == rustix::process::Pid::INIT && arguments.peek().is_none() {
            options.init = true;
            return Ok(options);
        }
        while let Some(name) = arguments.next() {
            if name == "--init" || name == "--owned" {
                options.init |= name == "--init";
                options.owned |= name == "--owned";
                continue;
            }
            if name == "--version" {
                println!("auralink-guest {}", env!("CARGO_PKG_VERSION"));
                std::process::exit(0);
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
            options.set(&name, value)?;
        }
        Ok(options)
    }

    /// One option by name, as the command line and the kernel's command line have it.
    pub fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let number = || value.parse::<u32>().map_err(|_| format!("{name} wants a number, not {value:?}"));
        let descriptor = || number().and_then(|n| i32::try_from(n).map_err(|_| format!("{name} wants a descriptor, not {value:?}")));
        match name {
            "--unix" => self.transports.push(Transport::Unix(value)),
            "--listen-fd" => self.transports.push(Transport::ListenFd(descriptor()?)),
            "--fd" => self.transports.push(Transport::Fd(descriptor()?)),
            "--serial" => self.transports.push(Transport::Serial(value)),
            "--vsock" => self.transports.push(Transport::Vsock(number()?)),
            // For whoever looks for the agent among the machine's processes; it says nothing to the agent.
            "--mark" => {}
            "--memory-events" => self.memory_events = Some(value),
            "--key" => {
                let key = unhex(&value).and_then(|bytes| bytes.try_into().ok());
                self.key = Some(key.ok_or("--key wants 32 hexadecimal digits")?);
            }
            _ => return Err(format!("unknown option {name:?}; {USAGE}")),
        }
        Ok(())
    }

    /// The descriptors that it names.
    pub fn descriptors(&self) -> Vec<i32> {
        let fd = |transport: &Transport| match transport {
            Transport::Fd(fd) | Transport::ListenFd(fd) => Some(*fd),
            Transport::Unix(_) | Transport::Serial(_) | Transport::Vsock(_) => None,
        };
        self.transports.iter().filter_map(fd).collect()
    }
}
