//! The command line. `auralink` alone serves; everything else is a sub-command.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Print an access token for a room, and the page's URL that uses it.
    Token(TokenArgs),
    /// Put a sound file into a room as a participant.
    Play(PlayArgs),
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
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub room: String,
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
    #[arg(long)]
    pub admin: bool,
    /// May only listen and watch.
    #[arg(long)]
    pub listen_only: bool,
    /// The page's address, to print a link that joins with the token.
    #[arg(long, value_name = "URL")]
    pub page: Option<String>,
    /// Where the key is.
    #[command(flatten)]
    pub client: ClientArgs,
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
    fn durations_are_read_and_bounded() {
        assert_eq!(parse_duration("6h"), Ok(Duration::from_secs(21_600)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("0s").is_err());
        assert!(parse_duration("99999999999999999999d").is_err());
        assert!(parse_duration("5y").unwrap_err().contains("unit"));
    }
}
