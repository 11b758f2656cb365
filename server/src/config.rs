//! The configuration: one strict YAML file over defaults that work on a laptop. LiveKit's keys are accepted where they
//! mean the same. An unknown key is an error that names the nearest one.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use auralink_ai::runtime::Provider;
use auralink_infrastructure::secret::{SecretError, SecretSource};
use auralink_infrastructure::state::StateConfig;
use auralink_infrastructure::storage::StorageConfig;
use auralink_media::control::MAX_SHARDS;
use serde::Deserialize;

mod ai;
mod queue;
mod rtc;
mod vectors;

pub use ai::{AiConfig, CaptionsConfig, EmbeddingsConfig, Runtime};
pub use queue::QueueSection;
pub use rtc::{PortRange, RtcConfig};
pub use vectors::{VectorEngine, VectorsConfig};

use crate::keys::Keys;
use crate::sandboxes::SandboxesConfig;

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// HTTP and WebSocket, TCP port.
    pub port: u16,
    /// gRPC, TCP port; 0 turns it off.
    pub grpc_port: u16,
    /// Addresses for HTTP, gRPC and media.
    pub bind_addresses: Vec<IpAddr>,
    /// Keys, certificates, models.
    pub data_dir: Option<PathBuf>,
    /// API key -> secret.
    pub keys: Keys,
    /// File with `key: secret` lines, reread when it changes.
    pub key_file: Option<PathBuf>,
    /// Media.
    pub rtc: RtcConfig,
    /// Rooms.
    pub room: RoomConfig,
    /// HTTPS.
    pub tls: TlsConfig,
    /// What is written to standard error.
    pub logging: LoggingConfig,
    /// Who is captioned.
    pub captions: CaptionsConfig,
    /// How speech is recognised.
    pub ai: AiConfig,
    /// REST and gRPC.
    pub api: ApiConfig,
    /// How texts become vectors.
    pub embeddings: EmbeddingsConfig,
    /// Where vectors are kept.
    pub vectors: VectorsConfig,
    /// Where files are.
    pub storage: StorageConfig,
    /// What outlives the process.
    pub state: StateSection,
    /// Jobs.
    pub queue: QueueSection,
    /// How sandboxes are run.
    pub sandboxes: SandboxesConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 7880,
            grpc_port: 7890,
            bind_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            data_dir: None,
            keys: Keys::default(),
            key_file: None,
            rtc: RtcConfig::default(),
            room: RoomConfig::default(),
            tls: TlsConfig::default(),
            logging: LoggingConfig::default(),
            captions: CaptionsConfig::default(),
            ai: AiConfig::default(),
            api: ApiConfig::default(),
            embeddings: EmbeddingsConfig::default(),
            vectors: VectorsConfig::default(),
            storage: StorageConfig::default(),
            state: StateSection::default(),
            queue: QueueSection::default(),
            sandboxes: SandboxesConfig::default(),
        }
    }
}

/// Rooms.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomConfig {
    /// A join makes the room if there is none.
    pub auto_create: bool,
    /// Seconds a room lives that nobody joined.
    pub empty_timeout: u32,
    /// Seconds a room lives after the last one left.
    pub departure_timeout: u32,
    /// 0: no limit but the server's.
    pub max_participants: u32,
}

impl Default for RoomConfig {
    fn default() -> Self {
        Self { auto_create: true, empty_timeout: 300, departure_timeout: 20, max_participants: 0 }
    }
}

/// HTTPS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM chain; reread when it changes.
    pub cert_file: Option<PathBuf>,
    /// PEM key.
    pub key_file: Option<PathBuf>,
    /// Make a certificate at the first start.
    pub self_signed: bool,
}

/// Logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    /// error, warn, info, debug, trace, or a filter such as `info,auralink_media=debug`.
    pub level: String,
    /// One JSON object a line.
    pub json: bool,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

/// REST and gRPC.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Requests a second of one caller in the long run; 0: as many as it likes.
    pub requests_per_second: f64,
    /// Requests of one caller at once, after a pause.
    pub burst: u32,
    /// Largest body of a request, bytes; files are streamed and have limits of their own.
    pub max_body_bytes: usize,
    /// The description and the page to try it.
    pub docs: bool,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { requests_per_second: 50.0, burst: 200, max_body_bytes: 8 * 1024 * 1024, docs: true }
    }
}

/// Where API keys, jobs and the like are kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateSection {
    /// A PostgreSQL database instead of `auralink.db` in the data folder.
    pub postgres: Option<PostgresConfig>,
}

/// A PostgreSQL database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, read from the environment or a file.
    pub url: SecretSource,
    /// Connections at once, 2 to 1,000.
    #[serde(default = "PostgresConfig::default_connections")]
    pub connections: u32,
}

impl PostgresConfig {
    fn default_connections() -> u32 {
        10
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its text is wrong.
    #[error("{origin}: {message}")]
    Parse {
        /// File or variable.
        origin: String,
        /// What, where, and the nearest key.
        message: String,
    },
    /// A value is outside its range.
    #[error("{key} is {value}: {rule}")]
    Range {
        /// Key.
        key: &'static str,
        /// Value.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
}

impl Config {
    /// Reads YAML text. `origin` names it in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config: Self = serde_yaml_ng::from_str(text)
            .map_err(|error| ConfigError::Parse { origin: origin.to_owned(), message: with_nearest_key(&error.to_string()) })?;
        config.check()?;
        Ok(config)
    }

    /// Reads a file.
    pub fn read(path: &std::path::Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |key, value: String, ok, rule| if ok { Ok(()) } else { Err(ConfigError::Range { key, value, rule }) };
        range("bind_addresses", "empty".into(), !self.bind_addresses.is_empty(), "name at least one address, for example 127.0.0.1")?;
        let silence = self.captions.endpoint_silence_ms;
        range("captions.endpoint_silence_ms", silence.to_string(), (200..=5_000).contains(&silence), "200 to 5000")?;
        range("ai.threads", self.ai.threads.to_string(), (1..=64).contains(&self.ai.threads), "1 to 64")?;
        let threads = self.ai.threads_per_run;
        range("ai.threads_per_run", threads.to_string(), (1..=64).contains(&threads), "1 to 64")?;
        for name in &self.ai.providers {
            let known = name.parse::<Provider>().is_ok();
            range("ai.providers", name.clone(), known, "any of cuda, tensorrt, openvino, coreml, xnnpack")?;
        }
        let threads = self.ai.translation_threads;
        range("ai.translation_threads", threads.to_string(), (1..=64).contains(&threads), "1 to 64")?;
        range("ai.max_streams", self.ai.max_streams.to_string(), (1..=4_096).contains(&self.ai.max_streams), "1 to 4096")?;
        let rate = self.api.requests_per_second;
        range("api.requests_per_second", rate.to_string(), (0.0..=1e6).contains(&rate), "0 (no limit) to 1000000")?;
        range("api.burst", self.api.burst.to_string(), (1..=1_000_000).contains(&self.api.burst), "1 to 1000000")?;
        let body = self.api.max_body_bytes;
        range("api.max_body_bytes", body.to_string(), (1_024..=1 << 30).contains(&body), "1024 to 1073741824")?;
        if let Some((key, value, rule)) = self.sandboxes.wrong() {
            return Err(ConfigError::Range { key, value, rule });
        }
        let threads = self.embeddings.threads;
        range("embeddings.threads", threads.to_string(), (1..=64).contains(&threads), "1 to 64")?;
        let timeout = self.vectors.timeout_ms;
        range("vectors.timeout_ms", timeout.to_string(), (100..=600_000).contains(&timeout), "100 to 600000")?;
        let connections = self.state.postgres.as_ref().map_or(2, |postgres| postgres.connections);
        range("state.postgres.connections", connections.to_string(), (2..=1_000).contains(&connections), "2 to 1000")?;
        self.queue.check()?;
        let (start, end) = (self.rtc.port_range_start, self.rtc.port_range_end);
        range(
            "rtc.port_range_start",
            format!("{start:?} to {end:?}"),
            start.is_some() == end.is_some() && start <= end,
            "port_range_start and port_range_end belong together, the smaller one first",
        )?;
        let (shards, udp) = (self.rtc.shards, self.rtc.udp_ports());
        range("rtc.shards", shards.to_string(), shards <= MAX_SHARDS, "0 to 256")?;
        let fits = udp.first == udp.last || shards <= usize::from(udp.last - udp.first) + 1;
        range(
            "rtc.shards",
            shards.to_string(),
            fits,
            "at most one for each port of the range `rtc.udp_port`; a single port takes any number",
        )?;
        let tls = &self.tls;
        range(
            "tls",
            "half of a certificate".into(),
            tls.cert_file.is_some() == tls.key_file.is_some(),
            "cert_file and key_file belong together",
        )?;
        Ok(())
    }

    /// Where state is kept; a URL is read now.
    pub fn state(&self) -> Result<StateConfig, SecretError> {
        Ok(match &self.state.postgres {
            None => StateConfig::Sqlite { folder: self.data_dir() },
            Some(postgres) => StateConfig::Postgres { url: postgres.url.read()?, connections: postgres.connections },
        })
    }

    /// The data folder: configured, or the platform's place for an application's state.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_dir)
    }
}

/// `$XDG_DATA_HOME/auralink`, else `~/.local/share/auralink`.
pub fn default_data_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("XDG_DATA_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("auralink")
}

/// Adds "did you mean" to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = message.contains("unknown field").then(|| quoted.next()).flatten() else {
        return message.to_owned();
    };
    if LIVEKIT_ONLY.contains(&unknown) {
        return format!("{message}; LiveKit has `{unknown}`, AuraLink does not yet: take it out");
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(unknown, known);
    // A key that is as far away as it is long is no help.
    match quoted.min_by_key(distance).filter(|known| distance(known) <= unknown.len() / 2) {
        Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
        None => message.to_owned(),
    }
}

/// Keys of LiveKit's own configuration that mean nothing here yet.
const LIVEKIT_ONLY: [&str; 33] = [
    "redis",
    "turn",
    "webhook",
    "ingress",
    "sip",
    "agents",
    "audio",
    "video",
    "region",
    "limit",
    "prometheus",
    "prometheus_port",
    "node_selector",
    "signal_relay",
    "psrpc",
    "metric",
    "trace",
    "development",
    "debug_handler_port",
    "log_level",
    "tcp_port",
    "use_external_ip",
    "stun_servers",
    "turn_servers",
    "interfaces",
    "ips",
    "enable_loopback_candidate",
    "congestion_control",
    "allow_tcp_fallback",
    "packet_buffer_size_video",
    "packet_buffer_size_audio",
    "enabled_codecs",
    "enable_remote_unmute",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_text_is_the_default() {
        let config = Config::parse("", "test").unwrap();
        assert_eq!(config.port, 7880);
        assert_eq!(config.bind_addresses, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[test]
    fn the_example_file_holds_the_defaults_and_every_key() {
        let example = include_str!("../../auralink.example.yaml");
        let config = Config::parse(example, "auralink.example.yaml").unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        // Debug output names each field once, as `name: value`.
        let debug = format!("{:?}", Config::default());
        let names = debug.split([' ', '{']).filter_map(|word| word.strip_suffix(':'));
        for name in names.filter(|name| !["first", "last"].contains(name)) {
            assert!(example.contains(&format!("{name}:")), "`{name}` is not in the example file");
        }
    }

    #[test]
    fn the_configurations_of_the_containers_are_accepted_and_say_what_their_compose_files_do() {
        let embedded = Config::parse(include_str!("../../infrastructure/deploy/compose/auralink.yaml"), "auralink.yaml").unwrap();
        assert!(embedded.state.postgres.is_none() && embedded.queue.redis.is_none() && embedded.vectors == VectorsConfig::default());
        let engines = include_str!("../../infrastructure/deploy/compose/auralink.engines.yaml");
        let engines = Config::parse(engines, "auralink.engines.yaml").unwrap();
        let secret = |name: &str| SecretSource::File(format!("/run/secrets/{name}").into());
        assert_eq!(engines.state.postgres.unwrap().url, secret("postgres_url"));
        assert_eq!(engines.queue.redis.unwrap().url, secret("redis_url"));
        assert_eq!((engines.vectors.engine, engines.vectors.url.as_deref()), (VectorEngine::Chroma, Some("http://chroma:8000")));
        assert_eq!((embedded.port, embedded.grpc_port), (7880, 7890), "the ports that are published");
        assert_eq!(embedded.rtc.udp_ports(), PortRange { first: 7882, last: 7882 });
    }

    #[test]
    fn livekit_keys_mean_the_same() {
        let config = Config::parse(
            "port: 7000\nrtc:\n  udp_port: 7882-7885\n  use_ice_lite: true\nkeys:\n  k: s\nroom:\n  empty_timeout: 5\n",
            "test",
        )
        .unwrap();
        assert_eq!((config.port, config.rtc.udp_ports()), (7000, PortRange { first: 7882, last: 7885 }));
        let older = Config::parse("rtc: {port_range_start: 50000, port_range_end: 60000}", "test").unwrap();
        assert_eq!(older.rtc.udp_ports(), PortRange { first: 50_000, last: 60_000 });
        assert_eq!(config.keys.0["k"], "s");
    }

    #[test]
    fn unknown_key_names_the_nearest_and_the_line() {
        let error = Config::parse("port: 1\nrtc:\n  udp_prot: 7882\n", "auralink.yaml").unwrap_err().to_string();
        assert!(error.contains("auralink.yaml") && error.contains("udp_prot") && error.contains("did you mean `udp_port`"), "{error}");
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn what_only_livekit_has_is_said_to_be_so_and_nothing_far_away_is_suggested() {
        for (text, key) in [("redis: {address: x}", "redis"), ("rtc: {tcp_port: 7881}", "tcp_port"), ("turn: {enabled: true}", "turn")] {
            let error = Config::parse(text, "test").unwrap_err().to_string();
            assert!(error.contains(&format!("LiveKit has `{key}`")) && !error.contains("did you mean"), "{error}");
        }
    }

    #[test]
    fn a_wrong_kind_under_keys_is_named_and_its_value_is_not() {
        for (text, place) in
            [("keys: s3cret", "key: secret"), ("keys: 31337", "key: secret"), ("keys: {k: [s3cret]}", "keys.k"), ("keys: {k: ''}", "`k`")]
        {
            let error = Config::parse(text, "auralink.yaml").unwrap_err().to_string();
            assert!(error.contains("auralink.yaml") && error.contains(place), "{error}");
            assert!(!error.contains("s3cret") && !error.contains("31337"), "{error}");
        }
    }

    #[test]
    fn the_url_of_a_database_stands_in_the_environment_or_a_file_alone_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        std::fs::write(&file, "postgres://a:s3cret@b/c\n").unwrap();
        let config = Config::parse(&format!("state: {{postgres: {{url: {{file: {}}}}}}}", file.display()), "test").unwrap();
        let state = config.state().unwrap();
        assert!(matches!(&state, StateConfig::Postgres { url, connections: 10 } if url.reveal() == "postgres://a:s3cret@b/c"));
        assert!(!format!("{config:?} {state:?}").contains("s3cret"));
        std::fs::remove_file(&file).unwrap();
        assert!(config.state().unwrap_err().to_string().contains("url"));
        let quoted = Config::parse("state: {postgres: {url: 'postgres://a:s3cret@b/c'}}", "test").unwrap_err().to_string();
        assert!(!quoted.contains("s3cret"), "{quoted}");
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        assert_eq!(Config::parse("rtc: {shards: 3, udp_port: 7882}", "test").unwrap().rtc.shards, 3);
        for text in [
            "rtc: {shards: 300}",
            "rtc: {shards: 3, udp_port: 7882-7883}",
            "ai: {threads: 0}",
            "ai: {threads_per_run: 65}",
            "ai: {providers: [cuda, gpu]}",
            "ai: {translation_threads: 0}",
            "captions: {endpoint_silence_ms: 10}",
            "rtc: {udp_port: 9-3}",
            "rtc: {port_range_start: 9}",
            "rtc: {port_range_start: 9, port_range_end: 3}",
            "tls: {cert_file: a}",
            "api: {requests_per_second: -1}",
            "api: {requests_per_second: .nan}",
            "api: {burst: 0}",
            "embeddings: {threads: 0}",
            "sandboxes: {engines: [xen]}",
            "sandboxes: {default_engine: docker}",
            "sandboxes: {execs_per_sandbox: 0}",
            "sandboxes: {log_bytes: 1}",
            "state: {postgres: {url: {env: X}, connections: 1}}",
            "state: {postgres: {url: 'postgres://a:s3cret@b/c'}}",
            "state: {postgres: {}}",
            "api: {max_body_bytes: 10}",
            "queue: {redis: {}}",
            "queue: {concurrency: 2000}",
            "queue: {redis: {url: {env: X}, loss: perhaps}}",
            "queue: {max_pending: 0}",
            "bind_addresses: []",
        ] {
            assert!(Config::parse(text, "test").is_err(), "{text}");
        }
    }
}
