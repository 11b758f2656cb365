//! RTP headers and header extensions (RFC 3550, RFC 8285) as a section negotiated them, written straight into the send slab.

use crate::packet::Extensions;

/// Largest extension payload of the one-byte form.
const ONE_BYTE_MAX_LEN: usize = 16;
/// Largest extension id of the one-byte form.
const ONE_BYTE_MAX_ID: u8 = 14;

/// Extension ids that a section negotiated; None: not to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtensionIds {
    /// RFC 8843.
    pub mid: Option<u8>,
    /// RFC 6464.
    pub audio_level: Option<u8>,
    /// Transport-wide sequence number.
    pub transport_sequence: Option<u8>,
    /// 3GPP video orientation.
    pub orientation: Option<u8>,
    /// AV1 dependency descriptor.
    pub dependency_descriptor: Option<u8>,
    /// Playout delay.
    pub playout_delay: Option<u8>,
}

/// What goes into the fixed part of a header.
#[derive(Debug, Clone, Copy)]
pub struct FixedHeader {
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Marker.
    pub marker: bool,
    /// Low 16 bits of the extended sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// SSRC.
    pub ssrc: u32,
}

/// Appends a header to `out` and answers its length in bytes. `mid` is written where it is given and negotiated, the
/// transport-wide sequence number likewise.
pub fn write(
    out: &mut Vec<u8>,
    fixed: FixedHeader,
    ids: &ExtensionIds,
    mid: Option<&[u8]>,
    transport_sequence: Option<u16>,
    ext: &Extensions,
) -> usize {
    let start = out.len();
    out.push(0x80);
    out.push(fixed.payload_type | if fixed.marker { 0x80 } else { 0 });
    out.extend_from_slice(&fixed.sequence.to_be_bytes());
    out.extend_from_slice(&fixed.timestamp.to_be_bytes());
    out.extend_from_slice(&fixed.ssrc.to_be_bytes());

    let descriptor = ids.dependency_descriptor.zip(ext.dependency_descriptor.as_deref());
    let wide = descriptor.is_some_and(|(_, bytes)| bytes.len() > ONE_BYTE_MAX_LEN || bytes.is_empty()) || ids.any_above(ONE_BYTE_MAX_ID);
    let profile: u16 = if wide { 0x1000 } else { 0xBEDE };
    let block = out.len();
    out.extend_from_slice(&profile.to_be_bytes());
    out.extend_from_slice(&[0, 0]);

    let mut put = |id: u8, bytes: &[u8]| {
        if wide {
            out.push(id);
            out.push(bytes.len() as u8);
        } else {
            out.push(id << 4 | (bytes.len() - 1) as u8);
        }
        out.extend_from_slice(bytes);
    };
    if let Some((id, sequence)) = ids.transport_sequence.zip(transport_sequence) {
        put(id, &sequence.to_be_bytes());
    }
    if let Some((id, mid)) = ids.mid.zip(mid) {
        put(id, mid);
    }
    if let Some((id, level)) = ids.audio_level.zip(ext.audio_level) {
        put(id, &[level & 0x7f | if ext.voice == Some(true) { 0x80 } else { 0 }]);
    }
    if let Some((id, orientation)) = ids.orientation.zip(ext.orientation) {
        put(id, &[orientation]);
    }
    if let Some((id, (min, max))) = ids.playout_delay.zip(ext.playout_delay) {
        let both = u32::from(min & 0xfff) << 12 | u32::from(max & 0xfff);
        put(id, &both.to_be_bytes()[1..]);
    }
    if let Some((id, bytes)) = descriptor {
        put(id, &bytes[..bytes.len().min(255)]);
    }

    if out.len() == block + 4 {
        out.truncate(block);
    } else {
        while !(out.len() - block).is_multiple_of(4) {
            out.push(0);
        }
        let words = ((out.len() - block) / 4 - 1) as u16;
        out[block + 2..block + 4].copy_from_slice(&words.to_be_bytes());
        out[start] |= 0x10;
    }
    out.len() - start
}

impl ExtensionIds {
    fn any_above(&self, limit: u8) -> bool {
        [self.mid, self.audio_level, self.transport_sequence, self.orientation, self.dependency_descriptor, self.playout_delay]
            .into_iter()
            .flatten()
            .any(|id| id > limit)
    }
}

/// What can be read of an RTP header without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peeked {
    /// Payload type.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// SSRC.
    pub ssrc: u32,
    /// Where the payload begins.
    pub header_len: usize,
}

/// Reads an RTP header's fixed part and skips CSRCs and extensions. None: not RTP, or cut short.
pub fn peek(packet: &[u8]) -> Option<Peeked> {
    if packet.len() < 12 || packet[0] >> 6 != 2 {
        return None;
    }
    let mut header_len = 12 + usize::from(packet[0] & 0x0f) * 4;
    if packet[0] & 0x10 != 0 {
        let words = packet.get(header_len + 2..header_len + 4)?;
        header_len += 4 + usize::from(u16::from_be_bytes([words[0], words[1]])) * 4;
    }
    if header_len > packet.len() {
        return None;
    }
    Some(Peeked {
        payload_type: packet[1] & 0x7f,
        sequence: u16::from_be_bytes([packet[2], packet[3]]),
        ssrc: u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]),
        header_len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: ExtensionIds = ExtensionIds {
        mid: Some(4),
        audio_level: Some(1),
        transport_sequence: Some(3),
        orientation: Some(13),
        dependency_descriptor: Some(8),
        playout_delay: Some(5),
    };
    const FIXED: FixedHeader = FixedHeader { payload_type: 111, marker: true, sequence: 0x0102, timestamp: 0x0304_0506, ssrc: 0x0708_090a };

    #[test]
    fn a_header_without_extensions_has_twelve_bytes() {
        let mut out = vec![];
        assert_eq!(write(&mut out, FIXED, &IDS, None, None, &Extensions::default()), 12);
        assert_eq!(out, [0x80, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn one_byte_form_by_hand() {
        let mut out = vec![];
        let ext = Extensions { audio_level: Some(30), voice: Some(true), ..Default::default() };
        let len = write(&mut out, FIXED, &IDS, Some(b"0"), Some(0xabcd), &ext);
        assert_eq!(len, 24);
        assert_eq!(out[0], 0x90);
        assert_eq!(out[12..], [0xbe, 0xde, 0, 2, 0x31, 0xab, 0xcd, 0x40, b'0', 0x10, 0x9e, 0]);
        assert_eq!(peek(&out).unwrap().header_len, 24);
    }

    #[test]
    fn a_long_dependency_descriptor_takes_the_two_byte_form() {
        let mut out = vec![];
        let ext = Extensions { dependency_descriptor: Some(vec![7u8; 40].into()), playout_delay: Some((1, 0x123)), ..Default::default() };
        let len = write(&mut out, FIXED, &IDS, None, Some(1), &ext);
        assert_eq!(out[12..16], [0x10, 0x00, 0, 13]);
        assert_eq!(out[16..25], [3, 2, 0, 1, 5, 3, 0, 0x11, 0x23]);
        assert_eq!(out[25..27], [8, 40]);
        assert_eq!((len, peek(&out).unwrap().header_len), (12 + 4 + 52, 68));
    }
}
