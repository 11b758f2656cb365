//! Sender reports with their source description (RFC 3550 sections 6.4.1 and 6.5) and the clock they are stamped with.

use std::time::{Duration, Instant};

/// Seconds between 1900 and 2026: where a report clock starts. Receivers use NTP times of one sender relative to each
/// other only, so any origin serves; this one looks like a date in a packet dump.
const NTP_ORIGIN_SECONDS: u64 = 3_976_214_400;
/// Round trips above this are a broken report.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(30);

/// Turns instants into NTP timestamps, from the first instant that a transport knew.
#[derive(Debug, Clone, Copy)]
pub struct ReportClock {
    origin: Instant,
}

impl ReportClock {
    /// A clock that starts now.
    pub fn new(origin: Instant) -> ReportClock {
        ReportClock { origin }
    }

    /// 32.32 fixed point seconds.
    pub fn ntp(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin);
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        (NTP_ORIGIN_SECONDS + since.as_secs()) << 32 | fraction
    }

    /// Round trip from a report block's LSR and DLSR (RFC 3550 section 6.4.1), None when there was no report yet or the
    /// numbers make no sense.
    pub fn round_trip(&self, now: Instant, last_report: u32, delay: u32) -> Option<Duration> {
        if last_report == 0 {
            return None;
        }
        let arrival = (self.ntp(now) >> 16) as u32;
        let units = arrival.wrapping_sub(last_report).wrapping_sub(delay);
        let round_trip = Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16);
        (round_trip <= MAX_ROUND_TRIP).then_some(round_trip)
    }
}

/// Appends a sender report without report blocks and a source description with the CNAME.
pub fn write(out: &mut Vec<u8>, ssrc: u32, ntp: u64, timestamp: u32, packets: u32, octets: u32, cname: &str) {
    out.extend_from_slice(&[0x80, 200, 0, 6]);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&ntp.to_be_bytes());
    out.extend_from_slice(&timestamp.to_be_bytes());
    out.extend_from_slice(&packets.to_be_bytes());
    out.extend_from_slice(&octets.to_be_bytes());

    let start = out.len();
    out.extend_from_slice(&[0x81, 202, 0, 0]);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&[1, cname.len() as u8]);
    out.extend_from_slice(cname.as_bytes());
    // At least one zero ends the items, then zeros to the word boundary.
    out.push(0);
    while !(out.len() - start).is_multiple_of(4) {
        out.push(0);
    }
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test drives the clock")]
mod tests {
    use str0m::rtp::rtcp::{Rtcp, SdesType};

    use super::*;

    #[test]
    fn an_independent_parser_reads_the_report() {
        let mut out = vec![];
        write(&mut out, 7, 0x0102_0304_0506_0708, 9, 10, 11, "aura-cname");
        let Ok(Rtcp::SenderReport(report)) = Rtcp::try_from(&out[..28]) else { panic!("a sender report") };
        assert_eq!((*report.sender_info.ssrc, report.sender_info.sender_packet_count), (7, 10));
        let Ok(Rtcp::SourceDescription(description)) = Rtcp::try_from(&out[28..]) else { panic!("a description") };
        let sdes = description.reports.iter().next().unwrap();
        assert_eq!(sdes.values.iter().next().unwrap(), &(SdesType::CNAME, "aura-cname".to_string()));
    }

    #[test]
    fn round_trip_is_what_passed_less_what_the_peer_waited() {
        let origin = Instant::now();
        let clock = ReportClock::new(origin);
        let sent = origin + Duration::from_millis(1500);
        let last_report = (clock.ntp(sent) >> 16) as u32;
        let back = sent + Duration::from_millis(340);
        let round_trip = clock.round_trip(back, last_report, 65_536 / 5).unwrap();
        assert!((139..=141).contains(&round_trip.as_millis()), "{round_trip:?}");
        assert_eq!(clock.round_trip(back, 0, 0), None);
        assert_eq!(clock.round_trip(sent, last_report, 65_536), None, "negative");
    }
}
