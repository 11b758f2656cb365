//! The outermost layer of protobuf messages: enough for what is read from ONNX and SentencePiece files.
//!
//! Rule: bounded by the bytes given; a message that does not end where it should is an error, never a guess.

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Content<'a> {
    /// An integer or truth value.
    Varint(u64),
    /// Eight bytes: no file that is read here uses them.
    Fixed64,
    /// A text, bytes or message.
    Bytes(&'a [u8]),
    /// A float.
    Fixed32([u8; 4]),
}

/// Gives `visit` each field of a message. Field numbers above `max_field` are an error: bytes that are no protobuf rarely get far.
///
/// # Errors
/// The position at which the bytes stop to make sense.
pub(crate) fn walk<'a>(mut bytes: &'a [u8], max_field: u64, mut visit: impl FnMut(u64, Content<'a>)) -> Result<(), usize> {
    let length = bytes.len();
    while !bytes.is_empty() {
        let at = length - bytes.len();
        let tag = varint(&mut bytes).ok_or(at)?;
        let field = tag >> 3;
        if !(1..=max_field).contains(&field) {
            return Err(at);
        }
        let content = match tag & 7 {
            0 => varint(&mut bytes).map(Content::Varint),
            1 => take(&mut bytes, 8).map(|_| Content::Fixed64),
            2 => {
                let size = varint(&mut bytes).and_then(|size| usize::try_from(size).ok());
                size.and_then(|size| take(&mut bytes, size)).map(Content::Bytes)
            }
            5 => take(&mut bytes, 4).and_then(|four| four.try_into().ok()).map(Content::Fixed32),
            _ => None,
        };
        visit(field, content.ok_or(at)?);
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
