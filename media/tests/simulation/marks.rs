//! Payloads that say where they come from: every byte follows from publication, layer and packet number, so that a receiver can
//! tell any change.

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub publication: u64,
    pub layer: u8,
    pub seq: u64,
    pub frame: u32,
}

const MARK: usize = 21;

/// A body of `len` bytes, at least the mark itself.
pub fn body(mark: Mark, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len.max(MARK));
    bytes.extend(mark.publication.to_be_bytes());
    bytes.push(mark.layer);
    bytes.extend(mark.seq.to_be_bytes());
    bytes.extend(mark.frame.to_be_bytes());
    let mut filler = fastrand::Rng::with_seed(mark.publication ^ mark.seq << 8 ^ u64::from(mark.layer));
    while bytes.len() < len {
        bytes.push(filler.u8(..));
    }
    bytes
}

/// Reads a mark and checks every byte behind it.
pub fn check(bytes: &[u8]) -> Mark {
    assert!(bytes.len() >= MARK, "a body of {} bytes was cut", bytes.len());
    let mark = Mark {
        publication: u64::from_be_bytes(bytes[..8].try_into().unwrap()),
        layer: bytes[8],
        seq: u64::from_be_bytes(bytes[9..17].try_into().unwrap()),
        frame: u32::from_be_bytes(bytes[17..21].try_into().unwrap()),
    };
    assert_eq!(bytes, body(mark, bytes.len()), "the body of {mark:?} was changed");
    mark
}

/// A VP8 payload: descriptor with 15-bit picture id, TL0PICIDX and TID, one byte of frame header, then the body.
pub fn vp8(mark: Mark, picture_id: u16, tl0: u8, first_of_frame: bool, key: bool, len: usize) -> Vec<u8> {
    let id = (0x8000 | picture_id & 0x7fff).to_be_bytes();
    let mut bytes = vec![if first_of_frame { 0x90 } else { 0x80 }, 0xe0, id[0], id[1], tl0, 0, u8::from(!key)];
    bytes.extend(body(mark, len));
    bytes
}

/// A RED payload of one redundant block (960 earlier) and the primary.
pub fn red(redundant: Option<&[u8]>, primary: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(block) = redundant {
        bytes.extend([0x80 | 111, (960u32 >> 6) as u8, ((960u32 & 0x3f) << 2) as u8 | (block.len() >> 8) as u8, block.len() as u8]);
    }
    bytes.push(111);
    bytes.extend(redundant.unwrap_or_default());
    bytes.extend(primary);
    bytes
}
