//! Does a packet start a key frame? Per codec, from the payload alone, because layers are switched only there.
//!
//! Rule: takes any bytes, never panics; what cannot be read is not a key frame.

use crate::packet::Codec;
use crate::vp8::Vp8Descriptor;

/// True when `payload` is the first packet of a frame that can be decoded without earlier ones. Audio always is.
pub fn starts_key_frame(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Opus | Codec::Red => true,
        Codec::Vp8 => Vp8Descriptor::parse(payload).is_some_and(|d| d.key_frame),
        Codec::H264 => h264(payload),
        Codec::Vp9 => vp9(payload),
        // N bit of the aggregation header (AOM "RTP Payload Format For AV1" section 4.4): first packet of a coded video sequence.
        Codec::Av1 => payload.first().is_some_and(|b| b & 0x08 != 0),
    }
}

/// RFC 6184: a sequence parameter set or an IDR slice, alone (5.6), in a STAP-A (5.7.1) or at the start of an FU-A (5.8).
fn h264(payload: &[u8]) -> bool {
    const IDR: u8 = 5;
    const SPS: u8 = 7;
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let Some(&first) = payload.first() else { return false };
    match first & 0x1f {
        IDR | SPS => true,
        STAP_A => {
            let mut rest = &payload[1..];
            while let [high, low, unit, ..] = *rest {
                if matches!(unit & 0x1f, IDR | SPS) {
                    return true;
                }
                let size = usize::from(u16::from_be_bytes([high, low]));
                match rest.get(2 + size..) {
                    Some(next) => rest = next,
                    None => return false,
                }
            }
            false
        }
        FU_A => payload.get(1).is_some_and(|b| b & 0x80 != 0 && matches!(b & 0x1f, IDR | SPS)),
        _ => false,
    }
}

/// RFC 9628 section 4.2: not inter-predicted (P = 0), beginning of a frame (B = 1), lowest spatial layer.
fn vp9(payload: &[u8]) -> bool {
    let Some(&first) = payload.first() else { return false };
    let (picture_id, inter, layers, begins) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x20 != 0, first & 0x08 != 0);
    if inter || !begins {
        return false;
    }
    let mut at = 1;
    if picture_id {
        match payload.get(at) {
            Some(b) if b & 0x80 != 0 => at += 2,
            Some(_) => at += 1,
            None => return false,
        }
    }
    !layers || payload.get(at).is_some_and(|b| (b >> 1) & 0x07 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn h264_parameter_sets_and_idr_slices_start_key_frames() {
        assert!(h264(&[0x67, 1, 2]));
        assert!(h264(&[0x65, 1, 2]));
        assert!(!h264(&[0x41, 1, 2]));
        assert!(h264(&[0x78, 0, 2, 0x06, 0, 0, 2, 0x67, 0]), "second unit of a STAP-A");
        assert!(h264(&[0x7c, 0x85, 0]), "start of a fragmented IDR");
        assert!(!h264(&[0x7c, 0x05, 0]), "middle of a fragmented IDR");
    }

    #[test]
    fn vp9_key_frames_are_intra_and_at_a_frame_start() {
        assert!(vp9(&[0x88, 0x05]));
        assert!(!vp9(&[0xc8, 0x05]), "inter-predicted");
        assert!(!vp9(&[0x80, 0x05]), "not the beginning");
        assert!(!vp9(&[0xa8, 0x05, 0x02]), "spatial layer 1");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for codec in [Codec::Opus, Codec::Red, Codec::Vp8, Codec::H264, Codec::Vp9, Codec::Av1] {
                starts_key_frame(codec, &bytes);
            }
        }
    }
}
