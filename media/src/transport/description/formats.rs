//! Codecs and header extensions of a section: what it names, what is kept of it, what both sides agree on.

use std::collections::HashMap;

use super::Section;
use crate::egress::Payload;
use crate::egress::header::ExtensionIds;
use crate::packet::Codec;

/// A payload type of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transport) struct Format {
    pub(in crate::transport) payload_type: u8,
    /// Encoding name in lower case, as in `a=rtpmap`.
    name: String,
    fmtp: String,
}

impl Format {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
    }

    /// Which forwarded codec this is.
    pub(in crate::transport) fn codec(&self) -> Option<Codec> {
        match self.name.as_str() {
            "opus" => Some(Codec::Opus),
            "red" => Some(Codec::Red),
            "vp8" => Some(Codec::Vp8),
            // Profile 2 is 10 bit and travels as a codec of its own that nobody asked for.
            "vp9" => (self.parameter("profile-id").unwrap_or("0") == "0").then_some(Codec::Vp9),
            // Single NAL units (mode 0) are not what publishers send.
            "h264" => (self.parameter("packetization-mode") == Some("1")).then_some(Codec::H264),
            "av1" => Some(Codec::Av1),
            _ => None,
        }
    }

    /// H264's profile_idc and constraint flags, without the level.
    fn profile(&self) -> Option<&str> {
        self.parameter("profile-level-id").and_then(|id| id.get(..4))
    }
}

impl Section {
    /// Payload types in the order of the `m=` line.
    pub(in crate::transport) fn formats(&self) -> Vec<Format> {
        let first = self.lines.first().map(String::as_str).unwrap_or_default();
        let by_type = |name: &'static str| -> HashMap<u8, &str> {
            self.attributes(name)
                .filter_map(|value| value.split_once(' '))
                .filter_map(|(payload_type, rest)| Some((payload_type.parse().ok()?, rest)))
                .collect()
        };
        let (names, fmtp) = (by_type("rtpmap"), by_type("fmtp"));
        first
            .split(' ')
            .skip(3)
            .filter_map(|word| word.parse::<u8>().ok().filter(|payload_type| *payload_type < 128))
            .map(|payload_type| Format {
                payload_type,
                name: names.get(&payload_type).and_then(|name| name.split('/').next()).unwrap_or_default().to_ascii_lowercase(),
                fmtp: fmtp.get(&payload_type).copied().unwrap_or_default().to_owned(),
            })
            .collect()
    }

    /// Puts a codec and its RTX before all others, whose order stays.
    pub(in crate::transport) fn put_first(&mut self, codec: Codec) {
        let formats = self.formats();
        let wished: Vec<u8> = formats.iter().filter(|format| format.codec() == Some(codec)).map(|format| format.payload_type).collect();
        let mut ordered: Vec<u8> = wished.into_iter().flat_map(|wished| [Some(wished), rtx_of(&formats, wished)]).flatten().collect();
        let others = formats.iter().map(|format| format.payload_type).filter(|other| !ordered.contains(other));
        let others: Vec<u8> = others.collect();
        ordered.extend(others);
        self.write_formats(&ordered);
    }

    /// Keeps the codecs of `keep` (best first), their RTX and nothing else. Does nothing where none of them is there:
    /// a section cannot have no format.
    pub(in crate::transport) fn keep_codecs(&mut self, keep: &[Codec]) {
        let formats = self.formats();
        let mut ordered: Vec<u8> = vec![];
        for codec in keep {
            for format in formats.iter().filter(|format| format.codec() == Some(*codec)) {
                ordered.push(format.payload_type);
                ordered.extend(rtx_of(&formats, format.payload_type));
            }
        }
        if ordered.is_empty() {
            return;
        }
        self.write_formats(&ordered);
        self.lines.retain(|line| {
            let Some((_, value)) = ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"].iter().find_map(|prefix| Some(((), line.strip_prefix(prefix)?)))
            else {
                return true;
            };
            let payload_type = value.split(' ').next().unwrap_or_default();
            payload_type == "*" || payload_type.parse().is_ok_and(|payload_type| ordered.contains(&payload_type))
        });
    }

    /// Whether any of its codecs has retransmissions.
    pub(in crate::transport) fn has_rtx(&self) -> bool {
        self.formats().iter().any(|format| format.name == "rtx")
    }

    /// Puts the formats into the peer's order: a client sends the first one of an answer, and its own order is its wish.
    pub(in crate::transport) fn order_like(&mut self, remote: &Section) {
        let wished: Vec<u8> = remote.formats().iter().map(|format| format.payload_type).collect();
        let mut ours: Vec<u8> = self.formats().iter().map(|format| format.payload_type).collect();
        ours.sort_by_key(|ours| wished.iter().position(|theirs| theirs == ours).unwrap_or(usize::MAX));
        self.write_formats(&ours);
    }

    fn write_formats(&mut self, payload_types: &[u8]) {
        let words: Vec<&str> = self.lines[0].split(' ').take(3).collect();
        let list: Vec<String> = payload_types.iter().map(u8::to_string).collect();
        let first = format!("{} {}", words.join(" "), list.join(" "));
        self.lines[0] = first;
    }

    /// Extension ids by URI.
    fn extension_ids(&self) -> HashMap<&str, u8> {
        self.attributes("extmap")
            .filter_map(|value| {
                let (id, uri) = value.split_once(' ')?;
                // An id may carry a direction: `3/sendonly`.
                let id = id.split('/').next()?.parse().ok()?;
                Some((uri.split(' ').next()?, id))
            })
            .collect()
    }
}

/// Payload type of the retransmissions of another.
fn rtx_of(formats: &[Format], payload_type: u8) -> Option<u8> {
    let apt = payload_type.to_string();
    formats.iter().find(|format| format.name == "rtx" && format.parameter("apt") == Some(apt.as_str())).map(|format| format.payload_type)
}

/// What both sides of a section agreed that we may send: the remote's order, payload types that both name alike.
pub(in crate::transport) fn negotiated_payloads(local: &Section, remote: &Section) -> Vec<Payload> {
    let (ours, theirs) = (local.formats(), remote.formats());
    let mut payloads: Vec<Payload> = vec![];
    // Constrained baseline is what every H264 decoder takes: it comes before the other profiles.
    let constrained = |format: &&Format| format.codec() != Some(Codec::H264) || format.profile() == Some("42e0");
    let (first, rest): (Vec<&Format>, Vec<&Format>) = theirs.iter().partition(constrained);
    for format in first.into_iter().chain(rest) {
        let Some(codec) = format.codec() else {
            continue;
        };
        let known = ours.iter().any(|our| our.payload_type == format.payload_type && our.codec() == Some(codec));
        if !known || payloads.iter().any(|payload| payload.codec == codec) {
            continue;
        }
        let rtx = rtx_of(&theirs, format.payload_type).filter(|rtx| rtx_of(&ours, format.payload_type) == Some(*rtx));
        payloads.push(Payload { codec, payload_type: format.payload_type, rtx });
    }
    payloads
}

/// URI of the AV1 dependency descriptor.
pub(in crate::transport) const DEPENDENCY_DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// Extension ids that both sides of a section name alike.
pub(in crate::transport) fn negotiated_extensions(local: &Section, remote: &Section) -> ExtensionIds {
    let (ours, theirs) = (local.extension_ids(), remote.extension_ids());
    let both = |uri: &str| ours.get(uri).copied().filter(|id| theirs.get(uri) == Some(id));
    ExtensionIds {
        mid: both("urn:ietf:params:rtp-hdrext:sdes:mid"),
        audio_level: both("urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
        transport_sequence: both("http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"),
        orientation: both("urn:3gpp:video-orientation"),
        dependency_descriptor: both(DEPENDENCY_DESCRIPTOR),
        playout_delay: both("http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::section;
    use super::*;

    #[test]
    fn only_the_kept_codecs_remain_in_their_order() {
        let mut section = section();
        section.keep_codecs(&[Codec::Vp9, Codec::Vp8]);
        assert!(section.lines[0].ends_with(" 98 99 96 97"), "{}", section.lines[0]);
        assert!(!section.lines.iter().any(|line| line.contains("H264") || line.contains(":109")));
        section.keep_codecs(&[Codec::Av1]);
        assert!(section.lines[0].ends_with(" 98 99 96 97"), "a section keeps what it has when nothing fits");
    }

    #[test]
    fn an_answer_follows_the_clients_order() {
        let remote = section();
        let mut local = section();
        local.keep_codecs(&[Codec::H264, Codec::Vp9, Codec::Vp8]);
        assert!(local.lines[0].ends_with(" 108 109 127 98 99 96 97"), "{}", local.lines[0]);
        local.order_like(&remote);
        assert!(local.lines[0].ends_with(" 96 97 98 99 108 109 127"), "{}", local.lines[0]);
    }

    #[test]
    fn the_wished_codec_goes_first_and_nothing_is_lost() {
        let mut section = section();
        let before = section.formats().len();
        section.put_first(Codec::H264);
        assert!(section.lines[0].ends_with(" 108 109 127 96 97 98 99"), "{}", section.lines[0]);
        section.put_first(Codec::Vp9);
        assert!(section.lines[0].contains("SAVPF 98 99 "), "{}", section.lines[0]);
        let ordered = section.lines[0].clone();
        section.put_first(Codec::Av1);
        assert_eq!((&section.lines[0], section.formats().len()), (&ordered, before), "a codec that is not there changes nothing");
    }

    #[test]
    fn negotiated_is_what_both_name_and_constrained_baseline_goes_first() {
        let remote = section();
        let mut local = section();
        assert_eq!(
            negotiated_payloads(&local, &remote),
            [
                Payload { codec: Codec::Vp8, payload_type: 96, rtx: Some(97) },
                Payload { codec: Codec::Vp9, payload_type: 98, rtx: Some(99) },
                Payload { codec: Codec::H264, payload_type: 108, rtx: Some(109) },
            ]
        );
        local.keep_codecs(&[Codec::Vp8]);
        assert_eq!(negotiated_payloads(&local, &remote).len(), 1);
        assert_eq!(negotiated_extensions(&local, &remote).transport_sequence, Some(3));
    }
}
