//! Whether bytes are framed like an ONNX file, before an engine sees them, and what stands in the file about itself.
//!
//! Place: in front of the pure-Rust engine, whose reader does not end on some bytes that are no protobuf; and for metadata, which
//! engines give in ways of their own or not at all. Rule: the outermost message is walked once; field numbers are those of
//! `ModelProto` (onnx.proto).

use std::collections::BTreeMap;

use crate::protobuf::{self, Content};

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
        if let (METADATA, Content::Bytes(content)) = (field, content) {
            let (mut key, mut value) = (String::new(), String::new());
            let read = walk(content, |field, text| match (field, text) {
                (1, Content::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
                (2, Content::Bytes(text)) => value = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            });
            if read.is_ok() {
                pairs.insert(key, value);
            }
        }
    })?;
    Ok(pairs)
}

fn walk<'a>(bytes: &'a [u8], visit: impl FnMut(u64, Content<'a>)) -> Result<(), String> {
    let broken = |at| format!("it is no ONNX file, or cut short: its framing breaks at byte {at} of {}", bytes.len());
    protobuf::walk(bytes, MAX_FIELD, visit).map_err(broken)
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
