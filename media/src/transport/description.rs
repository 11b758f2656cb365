//! Session descriptions as text, read and written section by section (RFC 8866, RFC 8829). str0m makes and takes them;
//! this is what must be said differently: our SSRCs and msid, a track's codecs alone, our ICE credentials.
//!
//! Rule: lines that are not understood stay as they are.

mod formats;

use std::collections::HashSet;
use std::fmt;

pub(super) use self::formats::{DEPENDENCY_DESCRIPTOR, Format, negotiated_extensions, negotiated_payloads};
use super::NegotiationError;
use crate::packet::MediaKind;

/// A whole description.
#[derive(Debug, Clone)]
pub(super) struct Description {
    session: Vec<String>,
    pub(super) sections: Vec<Section>,
}

/// One `m=` section.
#[derive(Debug, Clone)]
pub(super) struct Section {
    lines: Vec<String>,
    /// Named in the session's BUNDLE group.
    bundled: bool,
}

/// Direction attribute as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub(super) fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    pub(super) fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    fn attribute(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn parse(attribute: &str) -> Option<Direction> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|direction| direction.attribute() == attribute)
    }
}

impl Description {
    /// Splits text into its sections.
    ///
    /// # Errors
    ///
    /// [`NegotiationError::Sdp`] when the text does not begin like SDP, [`NegotiationError::Limit`] above `max_sections`.
    pub(super) fn parse(text: &str, max_sections: usize) -> Result<Description, NegotiationError> {
        if !text.starts_with("v=0") {
            return Err(NegotiationError::Sdp("it does not begin with v=0".to_owned()));
        }
        let mut description = Description { session: vec![], sections: vec![] };
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if line.starts_with("m=") {
                description.sections.push(Section { lines: vec![], bundled: false });
            }
            match description.sections.last_mut() {
                Some(section) => section.lines.push(line.to_owned()),
                None => description.session.push(line.to_owned()),
            }
        }
        let count = description.sections.len();
        if count > max_sections {
            return Err(NegotiationError::Limit { what: "media sections", count, limit: max_sections });
        }
        let bundle: HashSet<String> = description
            .session
            .iter()
            .filter_map(|line| line.strip_prefix("a=group:BUNDLE "))
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect();
        for section in &mut description.sections {
            section.bundled = bundle.contains(section.mid());
            let mid = section.mid();
            // str0m keeps 16 letters and digits of a mid; anything else would be found again under another name.
            if mid.is_empty() || mid.len() > 16 || !mid.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(NegotiationError::Sdp(format!("mid {mid:?} is not 1 to 16 letters and digits")));
            }
        }
        Ok(description)
    }

    /// The section with this mid.
    pub(super) fn section(&self, mid: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.mid() == mid)
    }

    /// Replaces every ICE ufrag and password.
    pub(super) fn set_ice(&mut self, ufrag: &str, pwd: &str) {
        for line in self.lines_mut() {
            if line.starts_with("a=ice-ufrag:") {
                *line = format!("a=ice-ufrag:{ufrag}");
            } else if line.starts_with("a=ice-pwd:") {
                *line = format!("a=ice-pwd:{pwd}");
            } else if line.starts_with("a=candidate:") {
                *line = with_candidate_ufrag(line, ufrag);
            }
        }
    }

    /// Takes the candidate lines out; answers those of the session and the first section, into which all others are bundled: their
    /// ports end with the answer.
    pub(super) fn take_candidates(&mut self) -> Vec<String> {
        let is_candidate = |line: &mut String| line.starts_with("a=candidate:");
        let mut taken: Vec<String> = self.session.extract_if(.., is_candidate).collect();
        for (index, section) in self.sections.iter_mut().enumerate() {
            let lines = section.lines.extract_if(.., is_candidate);
            if index == 0 {
                taken.extend(lines);
            } else {
                lines.for_each(drop);
            }
        }
        taken
    }

    /// The first ICE ufrag.
    pub(super) fn ice_ufrag(&self) -> Option<&str> {
        self.first("a=ice-ufrag:")
    }

    /// The first ICE ufrag and password.
    pub(super) fn ice_credentials(&self) -> Option<(&str, &str)> {
        self.ice_ufrag().zip(self.first("a=ice-pwd:"))
    }

    fn first(&self, prefix: &str) -> Option<&str> {
        let sections = self.sections.iter().flat_map(|section| section.lines.iter());
        self.session.iter().chain(sections).find_map(|line| line.strip_prefix(prefix))
    }

    fn lines_mut(&mut self) -> impl Iterator<Item = &mut String> {
        self.session.iter_mut().chain(self.sections.iter_mut().flat_map(|section| section.lines.iter_mut()))
    }
}

/// A candidate line whose `ufrag` attribute, if it has one, names other credentials.
fn with_candidate_ufrag(line: &str, ufrag: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    if let Some(at) = words.iter().position(|word| *word == "ufrag")
        && let Some(value) = words.get_mut(at + 1)
    {
        *value = ufrag;
    }
    words.join(" ")
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = self.sections.iter().flat_map(|section| section.lines.iter());
        self.session.iter().chain(sections).try_for_each(|line| write!(f, "{line}\r\n"))
    }
}

impl Section {
    fn attributes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.lines.iter().filter_map(move |line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
    }

    /// `a=mid`, or empty.
    pub(super) fn mid(&self) -> &str {
        self.attributes("mid").next().unwrap_or_default()
    }

    /// Audio or video; None for data channels and what else there may be.
    pub(super) fn kind(&self) -> Option<MediaKind> {
        let first = self.lines.first()?;
        if first.starts_with("m=audio ") {
            Some(MediaKind::Audio)
        } else if first.starts_with("m=video ") {
            Some(MediaKind::Video)
        } else {
            None
        }
    }

    /// Direction; `sendrecv` where nothing is said (RFC 8866 section 6.7).
    pub(super) fn direction(&self) -> Direction {
        self.lines.iter().filter_map(|line| line.strip_prefix("a=")).find_map(Direction::parse).unwrap_or(Direction::SendRecv)
    }

    /// Writes another direction.
    pub(super) fn set_direction(&mut self, direction: Direction) {
        let line = format!("a={}", direction.attribute());
        let at = self.lines.iter().position(|line| line.strip_prefix("a=").and_then(Direction::parse).is_some());
        match at {
            Some(at) => self.lines[at] = line,
            None => self.lines.push(line),
        }
    }

    /// Track id of the msid, the second word of `a=msid` (or of `a=ssrc:.. msid:`); empty where there is none.
    pub(super) fn track_id(&self) -> &str {
        let by_ssrc = || self.attributes("ssrc").find_map(|ssrc| ssrc.split_once(" msid:").map(|(_, msid)| msid));
        let msid = self.attributes("msid").next().or_else(by_ssrc);
        msid.and_then(|msid| msid.split(' ').nth(1)).unwrap_or_default()
    }

    /// Simulcast rids that the section sends, in its order; empty where it does not do simulcast by rid.
    pub(super) fn send_rids(&self) -> Vec<String> {
        let Some(simulcast) = self.attributes("simulcast").next() else {
            return vec![];
        };
        let mut words = simulcast.split_whitespace();
        while let Some(word) = words.next() {
            if word == "send" {
                let list = words.next().unwrap_or_default().trim_start_matches("rid=");
                return list
                    .split(';')
                    .map(|alternatives| alternatives.split(',').next().unwrap_or_default().trim_start_matches('~'))
                    .filter(|rid| !rid.is_empty())
                    .map(str::to_owned)
                    .collect();
            }
        }
        vec![]
    }

    /// Removes our msid and SSRC lines, then writes the given ones: (stream id, track id, cname, SSRC, RTX SSRC).
    pub(super) fn set_source(&mut self, source: Option<Source<'_>>) {
        self.lines.retain(|line| !["a=msid:", "a=ssrc:", "a=ssrc-group:"].iter().any(|prefix| line.starts_with(prefix)));
        let Some(Source { stream_id, track_id, cname, ssrc, rtx_ssrc }) = source else {
            return;
        };
        self.lines.push(format!("a=msid:{stream_id} {track_id}"));
        if let Some(rtx_ssrc) = rtx_ssrc {
            self.lines.push(format!("a=ssrc-group:FID {ssrc} {rtx_ssrc}"));
        }
        for ssrc in std::iter::once(ssrc).chain(rtx_ssrc) {
            self.lines.push(format!("a=ssrc:{ssrc} cname:{cname}"));
            self.lines.push(format!("a=ssrc:{ssrc} msid:{stream_id} {track_id}"));
        }
    }

    /// True when the section is rejected or stopped: port 0 and not bundled. Firefox offers each section after the first of its
    /// kind with port 0, as `bundle-only` (RFC 9143 section 6), and means it.
    pub(super) fn is_rejected(&self) -> bool {
        let port_zero = self.lines.first().and_then(|line| line.split(' ').nth(1)) == Some("0");
        port_zero && !self.bundled && !self.lines.iter().any(|line| line == "a=bundle-only")
    }
}

/// What a section that we send on says about its source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) stream_id: &'a str,
    pub(super) track_id: &'a str,
    pub(super) cname: &'a str,
    pub(super) ssrc: u32,
    pub(super) rtx_ssrc: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99 108 109 127\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:old\r\na=ice-pwd:oldpwd\r\n\
        a=candidate:1 1 udp 1 127.0.0.1 9 typ host ufrag old\r\na=mid:0\r\na=sendonly\r\na=msid:- cid-1\r\n\
        a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
        a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
        a=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\na=rtpmap:99 rtx/90000\r\na=fmtp:99 apt=98\r\n\
        a=rtpmap:127 H264/90000\r\na=fmtp:127 packetization-mode=1;profile-level-id=42001f\r\n\
        a=rtpmap:108 H264/90000\r\na=fmtp:108 packetization-mode=1;profile-level-id=42e01f\r\n\
        a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\n\
        a=ssrc:5 msid:- cid-1\r\na=simulcast:send q;~h;f\r\n";

    pub(super) fn section() -> Section {
        Description::parse(OFFER, 10).unwrap().sections.remove(0)
    }

    #[test]
    fn facts_are_read() {
        let section = section();
        assert_eq!((section.mid(), section.kind(), section.track_id()), ("0", Some(MediaKind::Video), "cid-1"));
        assert_eq!(section.direction(), Direction::SendOnly);
        assert_eq!(section.send_rids(), ["q", "h", "f"]);
    }

    #[test]
    fn source_and_credentials_are_replaced() {
        let mut description = Description::parse(OFFER, 10).unwrap();
        description.set_ice("new", "newpwd");
        description.sections[0].set_source(Some(Source {
            stream_id: "PA_1|TR_1",
            track_id: "TR_1",
            cname: "c",
            ssrc: 7,
            rtx_ssrc: Some(8),
        }));
        description.sections[0].set_direction(Direction::Inactive);
        let text = description.to_string();
        assert!(text.contains("a=ice-ufrag:new\r\na=ice-pwd:newpwd\r\n") && text.contains("typ host ufrag new\r\n"));
        assert!(text.contains("a=msid:PA_1|TR_1 TR_1\r\na=ssrc-group:FID 7 8\r\na=ssrc:7 cname:c\r\n"));
        assert!(!text.contains("cid-1") && text.contains("a=inactive"));
    }

    #[test]
    fn port_zero_is_a_rejection_unless_the_section_is_bundled() {
        let read = |text: &str| Description::parse(text, 10).unwrap().sections[0].is_rejected();
        let zero = OFFER.replace("m=video 9", "m=video 0");
        assert!(!read(OFFER) && !read(&zero));
        assert!(read(&zero.replace("BUNDLE 0", "BUNDLE 1")));
        assert!(!read(&zero.replace("BUNDLE 0", "BUNDLE 1").replace("a=mid:0", "a=mid:0\r\na=bundle-only")));
    }

    #[test]
    fn what_is_not_sdp_or_too_much_is_refused() {
        assert!(matches!(Description::parse("hello", 10), Err(NegotiationError::Sdp(_))));
        assert!(matches!(Description::parse(OFFER, 0), Err(NegotiationError::Limit { count: 1, limit: 0, .. })));
        assert!(Description::parse(&OFFER.replace("a=mid:0", "a=mid:../0"), 10).is_err());
    }
}
