//! Remote ICE candidates as clients trickle them.

use str0m::Candidate;

use super::NegotiationError;

/// Longest candidate line that is read, in bytes. Real ones stay below 200.
const MAX_LINE: usize = 512;

/// Whether a candidate (what follows `candidate:`) can be used: UDP, component 1, an address rather than a host name.
/// Chromium hides host addresses behind mDNS names that nobody here can resolve; the peer-reflexive candidate does it.
fn is_usable(candidate: &str) -> bool {
    let words: Vec<&str> = candidate.split_whitespace().take(6).collect();
    words.len() == 6 && words[1] == "1" && words[2].eq_ignore_ascii_case("udp") && words[4].parse::<std::net::IpAddr>().is_ok()
}

/// Reads a trickled line, with or without `a=`. None: nothing to add (the end of candidates, a host name, TCP).
///
/// # Errors
///
/// [`NegotiationError::Candidate`] with the line, when it is no candidate.
pub(super) fn parse(line: &str) -> Result<Option<Candidate>, NegotiationError> {
    let line = line.trim();
    let line = line.strip_prefix("a=").unwrap_or(line);
    if line.is_empty() || line == "end-of-candidates" {
        return Ok(None);
    }
    let refuse = || NegotiationError::Candidate(line.chars().take(100).collect());
    let body = line.strip_prefix("candidate:").ok_or_else(refuse)?;
    if line.len() > MAX_LINE || body.split_whitespace().count() < 8 {
        return Err(refuse());
    }
    if !is_usable(body) {
        return Ok(None);
    }
    Candidate::from_sdp_string(line).map(Some).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_send() {
        let host = "candidate:1 1 udp 2113937151 192.0.2.7 54400 typ host generation 0 ufrag aB+/ network-cost 999";
        assert_eq!(parse(host).unwrap().unwrap().addr(), "192.0.2.7:54400".parse().unwrap());
        let mdns = "candidate:1 1 udp 2113937151 0d9a3f0c-1111-2222-3333-444455556666.local 54400 typ host";
        assert!(parse(mdns).unwrap().is_none());
        let tcp = "candidate:1 1 tcp 1518280447 192.0.2.7 9 typ host tcptype active";
        assert!(parse(tcp).unwrap().is_none());
        assert!(parse("").unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_with_the_line() {
        assert_eq!(parse("hello").unwrap_err().to_string(), "the ICE candidate cannot be read: hello");
        assert!(parse("candidate:1 1 udp x 192.0.2.7 port typ host").is_err());
        assert!(parse(&format!("candidate:{}", "a ".repeat(1000))).is_err());
    }
}
