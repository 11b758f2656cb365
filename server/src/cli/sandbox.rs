//! `auralink sandbox`: its words.

use std::path::PathBuf;
use std::time::Duration;

use auralink_infrastructure::tenant::Tenant;
use clap::{Args, Subcommand};

use super::{ClientArgs, parse_duration};

/// Where the server is, and as whom it is asked.
#[derive(Debug, Clone, Args)]
pub struct GrpcArgs {
    /// The server's gRPC address.
    #[arg(long, env = "AURALINK_GRPC", default_value = "http://127.0.0.1:7890", global = true)]
    pub server: String,
    /// Ask with this API key or access token; default: a token made with the server's own key, on its machine.
    #[arg(long, env = "AURALINK_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
    /// Ask for this tenant; an API key or token has its own.
    #[arg(long, default_value = Tenant::DEFAULT, global = true)]
    pub tenant: Tenant,
    /// Trust this certificate (PEM) of a server with a self-signed one; default: the one in the data folder.
    #[arg(long, value_name = "FILE", global = true)]
    pub certificate: Option<PathBuf>,
    /// Where the key is.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `auralink sandbox`.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// Where the server is.
    #[command(flatten)]
    pub grpc: GrpcArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: SandboxCommand,
}

/// What can be done with sandboxes. A sandbox is named by its id or its name.
#[derive(Debug, Clone, Subcommand)]
pub enum SandboxCommand {
    /// Make a sandbox and start it; prints its id.
    Create(Box<CreateArgs>),
    /// List sandboxes.
    List {
        /// Those that have this label, KEY=VALUE; repeat for several.
        #[arg(long, value_parser = parse_pair)]
        label: Vec<(String, String)>,
    },
    /// Show a sandbox and what it uses.
    Show {
        /// Id or name.
        sandbox: String,
    },
    /// Run a program; its exit code becomes this command's.
    Exec(ExecArgs),
    /// A shell with a terminal.
    Shell {
        /// Id or name.
        sandbox: String,
        /// The shell.
        #[arg(default_value = "/bin/sh")]
        shell: String,
    },
    /// Copy a file: `FILE SANDBOX:/PATH` or `SANDBOX:/PATH FILE`.
    Cp {
        /// From.
        from: String,
        /// To.
        to: String,
    },
    /// Make a port of the sandbox one of this machine, on 127.0.0.1.
    Forward {
        /// Id or name.
        sandbox: String,
        /// `LOCAL:REMOTE`, or one port for both; local 0: any.
        #[arg(value_parser = parse_ports)]
        ports: (u16, u16),
    },
    /// Print the newest output of its programs.
    Logs {
        /// Id or name.
        sandbox: String,
        /// Only of this program, by number.
        #[arg(long, default_value_t = 0)]
        exec: u32,
    },
    /// Print events as they happen.
    Events {
        /// Id or name; without it, all of the tenant's.
        sandbox: Option<String>,
    },
    /// Start it.
    Start {
        /// Id or name.
        sandbox: String,
    },
    /// Stop it; its files stay.
    Stop {
        /// Id or name.
        sandbox: String,
        /// How long it is asked before it is killed: `5s`.
        #[arg(long, default_value = "10s", value_parser = parse_duration)]
        grace: Duration,
    },
    /// Freeze it.
    Pause {
        /// Id or name.
        sandbox: String,
    },
    /// Let it go on.
    Resume {
        /// Id or name.
        sandbox: String,
    },
    /// Take a snapshot; prints its id.
    Snapshot {
        /// Id or name.
        sandbox: String,
    },
    /// Delete sandboxes with all that they hold.
    Delete {
        /// Ids or names.
        #[arg(required = true)]
        sandboxes: Vec<String>,
    },
    /// Images that sandboxes begin from.
    Images {
        /// What to do.
        #[command(subcommand)]
        command: ImagesCommand,
    },
    /// Show the engines of the server, what they can do or what is missing.
    Engines,
}

/// `auralink sandbox images`.
#[derive(Debug, Clone, Subcommand)]
pub enum ImagesCommand {
    /// Import a root filesystem from a `.tar` or `.tar.gz`; `-` reads standard input.
    Import {
        /// Name, such as `busybox:1`.
        name: String,
        /// The archive.
        file: PathBuf,
        /// For every tenant.
        #[arg(long)]
        shared: bool,
    },
    /// List images.
    List,
    /// Delete an image.
    Delete {
        /// Name.
        name: String,
        /// The one for every tenant.
        #[arg(long)]
        shared: bool,
    },
}

/// `auralink sandbox create`.
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Name among the tenant's.
    #[arg(long, default_value = "")]
    pub name: String,
    /// Engine; default: the server's.
    #[arg(long, default_value = "")]
    pub engine: String,
    /// Begin from an image; without it, the host's own programs, read-only.
    #[arg(long, conflicts_with_all = ["snapshot", "rootfs"])]
    pub image: Option<String>,
    /// Begin from a snapshot.
    #[arg(long, conflicts_with = "rootfs")]
    pub snapshot: Option<String>,
    /// Begin from a folder or archive on the server.
    #[arg(long)]
    pub rootfs: Option<String>,
    /// CPUs, such as 0.5.
    #[arg(long, value_parser = parse_cpus)]
    pub cpus: Option<u32>,
    /// Memory, such as 512M.
    #[arg(long, value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Disk, such as 2G.
    #[arg(long, value_parser = parse_size)]
    pub disk: Option<u64>,
    /// Processes and threads at once.
    #[arg(long)]
    pub processes: Option<u32>,
    /// How long it may live, such as 2h.
    #[arg(long, value_parser = parse_duration)]
    pub lifetime: Option<Duration>,
    /// A network that reaches the world, never this machine.
    #[arg(long, conflicts_with = "allow")]
    pub nat: bool,
    /// A network that reaches this alone: ADDRESS, ADDRESS/PREFIX or ADDRESS:PORT; repeat for several.
    #[arg(long)]
    pub allow: Vec<String>,
    /// Environment, KEY=VALUE; repeat for several.
    #[arg(long, value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
    /// Labels, KEY=VALUE; repeat for several.
    #[arg(long, value_parser = parse_pair)]
    pub label: Vec<(String, String)>,
    /// Folder that programs run in.
    #[arg(long, default_value = "")]
    pub workdir: String,
    /// `runsc` and such, where the engine takes one.
    #[arg(long, default_value = "")]
    pub runtime: String,
    /// Do not start it.
    #[arg(long)]
    pub stopped: bool,
}

/// `auralink sandbox exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Id or name.
    pub sandbox: String,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub argv: Vec<String>,
    /// A terminal.
    #[arg(long, short)]
    pub tty: bool,
    /// Environment, KEY=VALUE; repeat for several.
    #[arg(long, value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
    /// Folder to run in.
    #[arg(long, default_value = "")]
    pub cwd: String,
    /// User, by name or number.
    #[arg(long, default_value = "")]
    pub user: String,
    /// Kill it after this: `30s`.
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` has no '=': write KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    match (local.parse(), remote.parse::<u16>()) {
        (Ok(local), Ok(remote)) if remote > 0 => Ok((local, remote)),
        _ => Err(format!("`{text}` names no ports: write 8080:80, or 80 for both")),
    }
}

/// `0.5` -> 500 thousandths.
fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus: f64 = text.parse().map_err(|_| format!("`{text}` is no number of CPUs: write 0.5 or 2"))?;
    if (0.01..=1_024.0).contains(&cpus) {
        Ok((cpus * 1_000.0).round() as u32)
    } else {
        Err(format!("`{text}` is outside 0.01 to 1024 CPUs"))
    }
}

/// `512M`, `2G`, `65536`; powers of 1,024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write 65536, 512K, 512M, 2G or 1T");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let unit = (bytes.max(1).ilog2() / 10).min(4);
    let value = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    let decimals = usize::from(unit > 0 && value < 10.0);
    format!("{value:.decimals$}{}", units[unit as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_ports_and_cpus_are_read_and_bounded() {
        assert_eq!((parse_size("512M"), parse_size("2g"), parse_size("7")), (Ok(512 << 20), Ok(2 << 30), Ok(7)));
        assert!(["", "M", "1X", "-1", "99999999999T", "1.5G"].iter().all(|text| parse_size(text).is_err()));
        assert_eq!(
            (size(0), size(1_023), size(1_536), size(512 << 20), size(5 << 40)),
            ("0B".into(), "1023B".into(), "1.5K".into(), "512M".into(), "5.0T".into())
        );
        assert_eq!((parse_ports("8080:80"), parse_ports("80")), (Ok((8080, 80)), Ok((80, 80))));
        assert!(parse_ports("80:0").is_err() && parse_ports("a").is_err() && parse_ports("70000").is_err());
        assert_eq!((parse_cpus("0.5"), parse_cpus("2")), (Ok(500), Ok(2_000)));
        assert!(["0", "-1", "nan", "x"].iter().all(|text| parse_cpus(text).is_err()));
    }
}
