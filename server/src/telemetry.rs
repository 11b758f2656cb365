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
    /// Started twice.
    #[error("logs or metrics were started twice")]
    Twice,
}

/// Starts logs. Once per process.
pub fn start_logs(config: &LoggingConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|source| TelemetryError::Filter { level: config.level.clone(), source })?;
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let done = if config.json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).compact().try_init() };
    done.map_err(|_| TelemetryError::Twice)
}

/// Starts metrics; the handle renders them for `/metrics`.
pub fn start_metrics() -> Result<PrometheusHandle, TelemetryError> {
    PrometheusBuilder::new().install_recorder().map_err(|_| TelemetryError::Twice)
}
