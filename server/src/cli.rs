//! The command line. `auralink` alone serves; everything else is a sub-command.

pub mod sandbox;

use std::path::PathBuf;

use auralink_infrastructure::tenant::Tenant;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::caller::Scopes;

/// A real-time media and AI gateway that speaks LiveKit's protocols.
#[derive(Debug, Parser)]
#[command(name = "auralink", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without it the server runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the server.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Everything beside serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server (the default).
    Serve(ServeArgs),
    /// Print an access token for a room or for the API, and the page's URL that uses it.
    Token(TokenArgs),
    /// Put a sound file into a room as a participant.
    Play(PlayArgs),
    /// Bring the state's schema up to date; `serve` does so by itself.
    Migrate(PlaceArgs),
    /// Write the state (API keys, records, jobs that are not in Redis) into one file, also beside a running server.
    Backup(BackupArgs),
    /// Put a backup back, into SQLite or PostgreSQL, whichever it was made of.
    Restore(RestoreArgs),
    /// Run jobs for servers that share a PostgreSQL or a Redis with this machine.
    Worker(WorkerArgs),
    /// Make, use and delete sandboxes of a running server.
    Sandbox(Box<sandbox::SandboxArgs>),
    /// Make, fill, ask and empty collections of vectors of a running server.
    Vectors {
        /// What to do.
        #[command(subcommand)]
        command: VectorsCommand,
    },
    /// Make, list and revoke API keys of a running server.
    Keys {
        /// What to do.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Browse, fetch, send and import files of a running server's stores.
    Files {
        /// What to do.
        #[command(subcommand)]
        command: FilesCommand,
    },
    /// Take recordings to searchable transcripts on this machine, without a server.
    Pipeline {
        /// What to do.
        #[command(subcommand)]
        command: PipelineCommand,
    },
}

/// `auralink vectors`.
#[derive(Debug, Subcommand)]
pub enum VectorsCommand {
    /// List the collections.
    List {
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Make a collection.
    Create {
        /// Its name: 1 to 64 of a-z, 0-9, - and _.
        name: String,
        /// Numbers of a vector.
        #[arg(long)]
        dimension: u32,
        /// cosine, euclidean or dot.
        #[arg(long, default_value = "cosine")]
        metric: String,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Delete a collection with all its records.
    Delete {
        /// Its name.
        name: String,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Write the records of a file of JSON lines: {"id", "vector", "metadata", "document"}.
    Import {
        /// The collection.
        name: String,
        /// The file.
        file: PathBuf,
        /// Pass over the lines before this one, counted from 0: what a stopped import said.
        #[arg(long, default_value_t = 0)]
        from_line: u64,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Write all records to a file of JSON lines.
    Export {
        /// The collection.
        name: String,
        /// The file; - is standard output.
        file: PathBuf,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Find the nearest records to a text or a vector.
    Query {
        /// The collection.
        name: String,
        /// The text, by the server's sentence model.
        #[arg(required_unless_present = "vector")]
        text: Option<String>,
        /// A vector as JSON: [0.1, 0.2].
        #[arg(long, conflicts_with = "text")]
        vector: Option<String>,
        /// At most so many.
        #[arg(short, default_value_t = 10)]
        k: usize,
        /// Only records that this fits: '{"lang": "en"}'.
        #[arg(long)]
        filter: Option<String>,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
}

/// Options of the server; each also stands in the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Configuration file (YAML; LiveKit's keys are understood where they mean the same).
    #[arg(long, env = "AURALINK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Configuration as YAML text, as LiveKit's LIVEKIT_CONFIG.
    #[arg(long, env = "LIVEKIT_CONFIG", value_name = "YAML", hide = true)]
    pub config_body: Option<String>,
    /// Development keys (devkey / secret) instead of random ones; never on a network.
    #[arg(long)]
    pub dev: bool,
    /// Address to listen on; repeat for several. Default 127.0.0.1; 0.0.0.0 for every interface.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub bind: Vec<std::net::IpAddr>,
    /// Port of HTTP and WebSocket. Default 7880.
    #[arg(long)]
    pub port: Option<u16>,
    /// Port of gRPC; 0 turns it off. Default 7890.
    #[arg(long, value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// UDP port of media, or a range such as 7882-7889. Default 7882.
    #[arg(long, env = "UDP_PORT", value_name = "PORT")]
    pub udp_port: Option<crate::config::PortRange>,
    /// Serve HTTPS. Browsers give no camera away from localhost without it.
    #[arg(long, value_enum, value_name = "HOW")]
    pub tls: Option<TlsMode>,
    /// Address that clients reach this machine's media at, when it is not that of an interface.
    #[arg(long, env = "NODE_IP", value_name = "ADDRESS", value_parser = parse_address)]
    pub node_ip: Option<std::net::IpAddr>,
    /// Where keys, certificates and models are kept.
    #[arg(long, env = "AURALINK_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// Made at the first start and kept in the data folder; browsers ask once.
    SelfSigned,
    /// No TLS.
    Off,
}

/// Where a command finds the server and its key.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The server's configuration file: its first key is used.
    #[arg(long, env = "AURALINK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// API key, with --api-secret; default: the configuration's, or the one that the server on this machine made.
    #[arg(long, env = "LIVEKIT_API_KEY", value_name = "KEY")]
    pub api_key: Option<String>,
    /// API secret.
    #[arg(long, env = "LIVEKIT_API_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub api_secret: Option<String>,
    /// Use the development keys.
    #[arg(long)]
    pub dev: bool,
    /// The server's data folder.
    #[arg(long, env = "AURALINK_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `auralink token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// The room that the token opens.
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), required_unless_present = "scopes")]
    pub room: Option<String>,
    /// Who it is for; unique in the room.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub identity: String,
    /// Name that others see.
    #[arg(long)]
    pub name: Option<String>,
    /// How long it is valid: `30m`, `6h`, `2d`.
    #[arg(long, default_value = "6h", value_parser = parse_duration)]
    pub valid_for: std::time::Duration,
    /// Also allow administration of the room (and listing, creating, ending rooms).
    #[arg(long, requires = "room")]
    pub admin: bool,
    /// May only listen and watch.
    #[arg(long, requires = "room")]
    pub listen_only: bool,
    /// What it may do beside rooms, such as `vectors:read,vectors:write`.
    #[arg(long, value_name = "SCOPES")]
    pub scopes: Option<Scopes>,
    /// Whose things it sees with these scopes.
    #[arg(long, default_value = Tenant::DEFAULT)]
    pub tenant: Tenant,
    /// The page's address, to print a link that joins with the token.
    #[arg(long, value_name = "URL")]
    pub page: Option<String>,
    /// Where the key is.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Which state.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// The server's configuration file.
    #[arg(long, env = "AURALINK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The server's data folder.
    #[arg(long, env = "AURALINK_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `auralink backup`.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// A new file.
    pub file: PathBuf,
    /// Which state.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `auralink restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// A backup.
    pub file: PathBuf,
    /// Also when the state holds something; SQLite's old file is kept beside the new one.
    #[arg(long)]
    pub replace: bool,
    /// Which state.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `auralink worker`.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// Jobs at once. Default: `queue.concurrency`.
    #[arg(long, value_name = "JOBS")]
    pub concurrency: Option<usize>,
    /// Which state and queue.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where a command finds a running server's REST API, and as whom it asks.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    /// The server's HTTP address.
    #[arg(long, env = "AURALINK_URL", default_value = "http://127.0.0.1:7880")]
    pub server: String,
    /// Ask with this API key or access token; default: a token made with the server's own key, on its machine.
    #[arg(long, env = "AURALINK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Ask for this tenant; an API key or token has its own.
    #[arg(long, default_value = Tenant::DEFAULT)]
    pub tenant: Tenant,
    /// Trust this certificate (PEM) of a server with a self-signed one; default: the one in the data folder.
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Where the key is.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `auralink keys`.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is printed once and cannot be shown again.
    Create {
        /// For people: what it is for.
        #[arg(long)]
        name: String,
        /// What it may do: jobs:read, jobs:write, sandboxes:read, sandboxes:write, vectors:read, vectors:write, files:read, files:write,
        /// keys:admin.
        #[arg(long)]
        scopes: Scopes,
        /// How long it is good: `30m`, `6h`, `90d`; without it, until it is revoked.
        #[arg(long, value_parser = parse_duration)]
        expires_in: Option<std::time::Duration>,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// List the keys of a tenant.
    List {
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Refuse a key from now on.
    Revoke {
        /// The key's id.
        id: String,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
}

/// `auralink files`. Places are written `STORE:PATH`.
#[derive(Debug, Clone, Subcommand)]
pub enum FilesCommand {
    /// List a folder, or the stores.
    Ls {
        /// STORE:FOLDER.
        at: Option<String>,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Fetch a file.
    Get {
        /// STORE:PATH.
        at: String,
        /// Where to; default: its name, here.
        file: Option<PathBuf>,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Send a file; it is there whole, with its checksum compared, or not at all.
    Put {
        /// The file.
        file: PathBuf,
        /// STORE:PATH; with `/` at its end, a folder.
        at: String,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Copy a file from one store into another; prints the job.
    Import {
        /// STORE:PATH of the file.
        from: String,
        /// STORE:PATH of its copy.
        to: String,
        /// Where the server is.
        #[command(flatten)]
        http: HttpArgs,
    },
    /// Give a store access to a person's Google Drive or Dropbox; on the server's own machine.
    Connect {
        /// The store's name.
        store: String,
        /// The server's configuration file.
        #[arg(long, env = "AURALINK_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        /// The server's data folder.
        #[arg(long, env = "AURALINK_DATA_DIR", value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// `auralink pipeline`.
#[derive(Debug, Clone, Subcommand)]
pub enum PipelineCommand {
    /// Take every recording of a folder through the pipeline; the same again goes on where it was stopped.
    Run {
        /// A folder or a file of this machine, STORE:PATH of a configured store, or a recording's http(s) URL.
        source: String,
        /// Write transcripts into this folder.
        #[arg(long, value_name = "FOLDER")]
        export: Option<PathBuf>,
        /// How they are written; default: in every way.
        #[arg(long, value_delimiter = ',', value_enum)]
        formats: Vec<crate::pipeline::export::Format>,
        /// Where it is kept.
        #[command(flatten)]
        args: PipelineArgs,
    },
    /// Show what was made of each recording.
    Status {
        /// As JSON, one line for each.
        #[arg(long)]
        json: bool,
        /// Where it is kept.
        #[command(flatten)]
        args: PipelineArgs,
    },
    /// Find speech that means what the words mean.
    Search {
        /// The words.
        #[arg(required = true)]
        words: Vec<String>,
        /// Stretches of speech.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// Where it is kept.
        #[command(flatten)]
        args: PipelineArgs,
    },
}

/// Where the pipeline of the command line keeps what it makes.
#[derive(Debug, Clone, Args)]
pub struct PipelineArgs {
    /// The server's configuration file.
    #[arg(long, env = "AURALINK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder.
    #[arg(long, env = "AURALINK_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Whose recordings.
    #[arg(long, default_value = Tenant::DEFAULT)]
    pub tenant: Tenant,
}

/// `auralink play`.
#[derive(Debug, Clone, Args)]
pub struct PlayArgs {
    /// wav, flac, mp3, ogg, opus, m4a, webm or mkv.
    pub file: PathBuf,
    /// The room to play into.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub room: String,
    /// Identity of the participant that plays; default: the file's name.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub identity: Option<String>,
    /// Name that others see; default: the file's name.
    #[arg(long)]
    pub name: Option<String>,
    /// The server's gRPC address.
    #[arg(long, env = "AURALINK_GRPC", default_value = "http://127.0.0.1:7890")]
    pub server: String,
    /// Trust this certificate (PEM) of a server with a self-signed one; default: the one in the data folder.
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Where the key is.
    #[command(flatten)]
    pub client: ClientArgs,
}

fn parse_address(text: &str) -> Result<std::net::IpAddr, String> {
    text.parse().map_err(|_| "not an IP address: write 127.0.0.1, ::1, or 0.0.0.0 for every interface".to_owned())
}

/// `90s`, `30m`, `6h`, `2d`, or plain seconds.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a time; write 90s, 30m, 6h or 2d"))?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("`{unit}` is not a unit of time; write 90s, 30m, 6h or 2d")),
    };
    number
        .checked_mul(seconds)
        .filter(|s| (1..=366 * 86_400).contains(s))
        .map(std::time::Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is outside 1 second to 366 days"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::time::Duration;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_token_opens_a_room_or_has_scopes() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("auralink token --identity a --room r").is_ok());
        assert!(parse("auralink token --identity a --scopes vectors:read --tenant acme").is_ok());
        for wrong in ["", " --scopes vectors:wirte", " --room r --tenant A/B", " --scopes jobs:read --admin"] {
            assert!(parse(&format!("auralink token --identity a{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_and_bounded() {
        assert_eq!(parse_duration("6h"), Ok(Duration::from_secs(21_600)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("0s").is_err());
        assert!(parse_duration("99999999999999999999d").is_err());
        assert!(parse_duration("5y").unwrap_err().contains("unit"));
    }
}
