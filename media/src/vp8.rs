//! The VP8 payload descriptor (RFC 7741 section 4.2): read it, and write it anew with a subscriber's own numbers.
//!
//! A subscriber that is moved from one simulcast layer to another must see one stream: its picture ids and TL0PICIDX go on
//! without a step. Rule: parsing takes any bytes and never panics; what cannot be parsed is forwarded unchanged.

/// A parsed VP8 payload descriptor. Fields that are absent in the packet are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8Descriptor {
    /// First byte as received: X, R, N, S and PID bits.
    first: u8,
    /// Start of a VP8 partition.
    pub start_of_partition: bool,
    /// Partition index, 0 to 7.
    pub partition: u8,
    /// Picture id, 7 or 15 bits.
    pub picture_id: Option<u16>,
    /// The picture id had 15 bits.
    pub wide_picture_id: bool,
    /// Running index of temporal base layer frames.
    pub tl0_pic_idx: Option<u8>,
    /// T, Y and KEYIDX byte as received, when T or K was set.
    tid_key: Option<u8>,
    /// The T bit: the temporal layer is valid.
    has_tid: bool,
    /// The K bit: KEYIDX is valid.
    has_key_idx: bool,
    /// Bytes that the descriptor takes in the payload.
    pub len: usize,
    /// The payload starts a key frame.
    pub key_frame: bool,
}

/// Longest descriptor that [`Vp8Descriptor::write`] produces: first byte, X byte, 2 bytes picture id, TL0PICIDX, T/Y/KEYIDX.
pub const MAX_DESCRIPTOR: usize = 6;

impl Vp8Descriptor {
    /// Reads the descriptor at the start of an RTP payload. `None` when the payload ends within it.
    pub fn parse(payload: &[u8]) -> Option<Vp8Descriptor> {
        let first = *payload.first()?;
        let mut at = 1;
        let mut next = || {
            let byte = payload.get(at).copied();
            at += 1;
            byte
        };
        let mut picture_id = None;
        let mut wide_picture_id = false;
        let mut tl0_pic_idx = None;
        let mut tid_key = None;
        let (mut has_tid, mut has_key_idx) = (false, false);
        if first & 0x80 != 0 {
            let extension = next()?;
            if extension & 0x80 != 0 {
                let high = next()?;
                if high & 0x80 != 0 {
                    wide_picture_id = true;
                    picture_id = Some((u16::from(high & 0x7f) << 8) | u16::from(next()?));
                } else {
                    picture_id = Some(u16::from(high));
                }
            }
            if extension & 0x40 != 0 {
                tl0_pic_idx = Some(next()?);
            }
            has_tid = extension & 0x20 != 0;
            has_key_idx = extension & 0x10 != 0;
            if has_tid || has_key_idx {
                tid_key = Some(next()?);
            }
        }
        let start_of_partition = first & 0x10 != 0;
        let partition = first & 0x07;
        // RFC 7741 section 4.3: bit 0 of the first payload byte of a frame is 0 for a key frame.
        let key_frame = start_of_partition && partition == 0 && payload.get(at).is_some_and(|b| b & 1 == 0);
        (at <= payload.len()).then_some(Vp8Descriptor {
            first,
            start_of_partition,
            partition,
            picture_id,
            wide_picture_id,
            tl0_pic_idx,
            tid_key,
            has_tid,
            has_key_idx,
            len: at,
            key_frame,
        })
    }

    /// Temporal layer, 0 the base; `None` when the packet does not say.
    pub fn temporal_layer(&self) -> Option<u8> {
        self.has_tid.then_some(self.tid_key? >> 6)
    }

    /// Writes the descriptor with other numbers into `out` and returns the bytes written. A picture id is always written
    /// with 15 bits, so that layers whose encoders use different widths still make one stream.
    pub fn write(&self, picture_id: u16, tl0_pic_idx: u8, out: &mut [u8; MAX_DESCRIPTOR]) -> usize {
        out[0] = self.first;
        if self.first & 0x80 == 0 {
            return 1;
        }
        out[1] = (u8::from(self.picture_id.is_some()) << 7)
            | (u8::from(self.tl0_pic_idx.is_some()) << 6)
            | (u8::from(self.has_tid) << 5)
            | (u8::from(self.has_key_idx) << 4);
        let mut at = 2;
        if self.picture_id.is_some() {
            out[at..at + 2].copy_from_slice(&(0x8000 | (picture_id & 0x7fff)).to_be_bytes());
            at += 2;
        }
        if self.tl0_pic_idx.is_some() {
            out[at] = tl0_pic_idx;
            at += 1;
        }
        if let Some(byte) = self.tid_key {
            out[at] = byte;
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_descriptor_of_a_key_frame_is_read() {
        // X=1 S=1 | I L T K | M=1, id 0x1234 | TL0 7 | TID 1 Y 1 KEYIDX 3 | key frame byte
        let payload = [0x90, 0xf0, 0x92, 0x34, 7, 0b0110_0011, 0x10, 0, 0];
        let d = Vp8Descriptor::parse(&payload).unwrap();
        assert_eq!(d.picture_id, Some(0x1234));
        assert_eq!(d.tl0_pic_idx, Some(7));
        assert_eq!(d.temporal_layer(), Some(1));
        assert_eq!(d.len, 6);
        assert!(d.key_frame);
    }

    #[test]
    fn a_payload_that_ends_within_the_descriptor_is_refused() {
        let payload = [0x90, 0xf0, 0x92, 0x34, 7, 0x63];
        for cut in 0..payload.len() {
            assert_eq!(Vp8Descriptor::parse(&payload[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_minimal_descriptor_is_one_byte_and_stays_so() {
        let d = Vp8Descriptor::parse(&[0x10, 0x01]).unwrap();
        assert_eq!((d.len, d.picture_id, d.key_frame), (1, None, false));
        let mut out = [0; MAX_DESCRIPTOR];
        assert_eq!(d.write(5, 5, &mut out), 1);
        assert_eq!(out[0], 0x10);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Some(d) = Vp8Descriptor::parse(&bytes) {
                prop_assert!(d.len <= bytes.len());
                let mut out = [0; MAX_DESCRIPTOR];
                let n = d.write(0x7abc, 0x42, &mut out);
                prop_assert!(n <= MAX_DESCRIPTOR);
                let mut again = out[..n].to_vec();
                again.extend_from_slice(&bytes[d.len..]);
                let e = Vp8Descriptor::parse(&again).unwrap();
                prop_assert_eq!(e.picture_id, d.picture_id.map(|_| 0x7abc));
                prop_assert_eq!(e.tl0_pic_idx, d.tl0_pic_idx.map(|_| 0x42));
                prop_assert_eq!(e.temporal_layer(), d.temporal_layer());
                prop_assert_eq!(e.key_frame, d.key_frame);
                prop_assert_eq!(&again[e.len..], &bytes[d.len..]);
            }
        }
    }
}
