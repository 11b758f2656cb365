//! Whether bytes are framed like an ONNX file, before an engine sees them, and what stands in the file about itself.
//!
//! Place: in front of the pure-Rust engine, whose reader does not end on some bytes that are no protobuf; and for metadata, which
//! engines give in ways of their own or not at all. Rule: the outermost message is walked once; field numbers are those of
//! `ModelProto` (onnx.proto).

use std::collections::BTreeMap;

/// Field of `ModelProto` that holds the graph.
const GRAPH: u64 = 7;
/// The highest field number that `ModelProto` may have with some room for later versions.
const MAX_FIELD: u64 = 100;

/// Field of `ModelProto` that holds a pair of the metadata: a message with the key as field 1 and the value as field 2.
const METADATA: u64 = 14;

/// Walks the fields of the outermost message.
///
/// # Errors
/// A sentence saying where the bytes stop to make sense.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut graph = false;
    walk(bytes, |field, _| graph |= field == GRAPH)?;
    if graph { Ok(()) } else { Err("it is no ONNX file: it has no graph".to_owned()) }
}

/// The pairs of `metadata_props`.
///
/// # Errors
/// As [`check`].
pub(super) fn metadata(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    walk(bytes, |field, content| {
        if field == METADATA {
            let (mut key, mut value) = (String::new(), String::new());
            let read = walk(content, |field, text| match field {
                1 => key = String::from_utf8_lossy(text).into_owned(),
                2 => value = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            });
            if read.is_ok() {
                pairs.insert(key, value);
            }
        }
    })?;
    Ok(pairs)
}

/// Gives `visit` each field's number and, where it has a length, its content.
fn walk<'a>(mut bytes: &'a [u8], mut visit: impl FnMut(u64, &'a [u8])) -> Result<(), String> {
    let length = bytes.len();
    while !bytes.is_empty() {
        let at = length - bytes.len();
        let wrong = || format!("it is no ONNX file, or cut short: its framing breaks at byte {at} of {length}");
        let tag = varint(&mut bytes).ok_or_else(wrong)?;
        let field = tag >> 3;
        let size = match tag & 7 {
            0 => varint(&mut bytes).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut bytes),
            5 => Some(4),
            _ => None,
        };
        let parts = size.and_then(|size| bytes.split_at_checked(usize::try_from(size).ok()?));
        let (content, rest) = parts.filter(|_| (1..=MAX_FIELD).contains(&field)).ok_or_else(wrong)?;
        visit(field, if tag & 7 == 2 { content } else { &[] });
        bytes = rest;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::{check, metadata};

    #[test]
    fn only_whole_messages_with_a_graph_pass() {
        // ir_version 8, then a graph of two bytes.
        let whole = [0x08, 8, 0x3a, 2, 0x0a, 0];
        assert_eq!(check(&whole), Ok(()));
        for cut in 1..whole.len() {
            assert!(check(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for bytes in [&[][..], b"not a model", &[0xff; 1000], &[0x08, 8], &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert!(check(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn metadata_is_read() {
        let pair = [0x72, 8, 0x0a, 1, b'T', 0x12, 3, b'4', b'5', b'!'];
        let two = [&[0x08, 8, 0x3a, 0][..], &pair, &[0x72, 2, 0x0a, 0]].concat();
        let expected = [("T", "45!"), ("", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(metadata(&two), Ok(expected.into()));
        assert!(metadata(&two[..two.len() - 1]).is_err());
    }
}
