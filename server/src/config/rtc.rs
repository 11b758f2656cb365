//! The section `rtc`: ports and addresses of the media.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// A UDP port or a range `7882-7889`: one port per shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortOrRange")]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortOrRange {
    Port(u16),
    Range(String),
}

impl TryFrom<PortOrRange> for PortRange {
    type Error = String;

    fn try_from(value: PortOrRange) -> Result<Self, String> {
        match value {
            PortOrRange::Port(port) => Ok(Self { first: port, last: port }),
            PortOrRange::Range(text) => text.parse(),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let read = |s: &str| s.trim().parse::<u16>().map_err(|_| format!("`{text}` is not a port or a range such as 7882-7889"));
        let range = Self { first: read(first)?, last: read(last)? };
        if range.first > range.last {
            return Err(format!("the range `{text}` ends before it begins"));
        }
        Ok(range)
    }
}

/// Media.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RtcConfig {
    /// One UDP port for all shards (default 7882), or a range with one for each.
    pub udp_port: Option<PortRange>,
    /// The same range in LiveKit's older words; `udp_port` goes first.
    pub port_range_start: Option<u16>,
    /// Its end.
    pub port_range_end: Option<u16>,
    /// Address put into candidates instead of the interfaces' own.
    pub node_ip: Option<IpAddr>,
    /// Answer ICE checks only.
    pub use_ice_lite: bool,
    /// Media threads; 0: cores minus `ai.threads`, at least one, and not more than a range has ports.
    pub shards: usize,
}

impl RtcConfig {
    /// The UDP ports of media.
    pub fn udp_ports(&self) -> PortRange {
        match (self.udp_port, self.port_range_start, self.port_range_end) {
            (Some(range), ..) => range,
            (None, Some(first), Some(last)) => PortRange { first, last },
            _ => PortRange { first: 7882, last: 7882 },
        }
    }
}
