//! Whether bytes are framed like an ONNX file, before an engine sees them.
//!
//! Place: in front of the pure-Rust engine, whose reader does not end on some bytes that are no protobuf. Rule: the outermost
//! message is walked once; field numbers are those of `ModelProto` (onnx.proto).

/// Field of `ModelProto` that holds the graph.
const GRAPH: u64 = 7;
/// The highest field number that `ModelProto` may have with some room for later versions.
const MAX_FIELD: u64 = 100;

/// Walks the fields of the outermost message.
///
/// # Errors
/// A sentence saying where the bytes stop to make sense.
pub(super) fn check(mut bytes: &[u8]) -> Result<(), String> {
    let length = bytes.len();
    let mut graph = false;
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
        let rest = size.and_then(|size| bytes.get(usize::try_from(size).ok()?..)).filter(|_| (1..=MAX_FIELD).contains(&field));
        bytes = rest.ok_or_else(wrong)?;
        graph |= field == GRAPH;
    }
    if graph { Ok(()) } else { Err("it is no ONNX file: it has no graph".to_owned()) }
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
    use super::check;

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
}
