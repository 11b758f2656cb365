//! Logs and metrics. Logs go to standard error, readable or as one JSON object a line; every HTTP request has a correlation id,
//! taken from `x-request-id` or made, that stands on all its lines. Rule: what a peer wrote is logged as text, never by its Display: text
//! is escaped, so that nobody writes lines of the log.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LoggingConfig;

/// Why telemetry did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error("logging.level is `{level}`: {source}; write error, warn, info, debug, trace, or a filter such as info,auralink_media=debug")]
    Filter {
        /// Value.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A word that is no level would be taken for the name of a module and silence all others.
    #[error(
        "logging.level is `{level}`: `{word}` is no level; write off, error, warn, info, debug, trace, or a filter such as info,auralink_media=debug"
    )]
    Level {
        /// Value.
        level: String,
        /// The word.
        word: String,
    },
    /// Started twice.
    #[error("logs or metrics were started twice")]
    Twice,
}

/// Starts logs. Once per process.
pub fn start_logs(config: &LoggingConfig) -> Result<(), TelemetryError> {
    let filter = filter(&config.level)?;
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let done = if config.json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).compact().try_init() };
    done.map_err(|_| TelemetryError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let bare = level.split(',').map(str::trim).filter(|directive| !directive.contains(['=', '[']));
    if let Some(word) = bare.into_iter().find(|word| !levels.contains(&word.to_ascii_lowercase().as_str())) {
        return Err(TelemetryError::Level { level: level.to_owned(), word: word.to_owned() });
    }
    // Each statement with its text and without a message: for who asks for it by name alone.
    let quiet = if level.contains("sqlx") { level.to_owned() } else { format!("{level},sqlx::query=off") };
    EnvFilter::try_new(quiet).map_err(|source| TelemetryError::Filter { level: level.to_owned(), source })
}

/// Starts metrics; the handle renders them for `/metrics`.
pub fn start_metrics() -> Result<PrometheusHandle, TelemetryError> {
    PrometheusBuilder::new().install_recorder().map_err(|_| TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_not_taken_for_a_module() {
        for level in ["verbose", "", "info,loud", "information"] {
            assert!(filter(level).unwrap_err().to_string().contains("write off, error"), "{level}");
        }
        assert!(filter("info,auralink_media=shout").is_err());
        for level in ["info", "WARN", "warn,auralink_media=debug", "off"] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }
}
