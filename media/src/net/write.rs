//! From the send slab to the socket: datagrams of one turn grouped by destination, runs of equal size as one GSO message.
//!
//! Rule: the order of datagrams to one destination is kept; what the kernel refuses is counted, not sent again.

use std::io;

use super::socket::{Message, UdpSocket};
use crate::transport::{Datagram, SendSlab};

/// Segments that the kernel takes in one message (UDP_MAX_SEGMENTS of older kernels).
const MAX_SEGMENTS: usize = 64;
/// Bytes that one message may hold.
const MAX_MESSAGE: usize = 65_000;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    pub(super) failed: u64,
}

/// Groups and writes. Keeps its memory from turn to turn.
#[derive(Default)]
pub(super) struct Writer {
    datagrams: Vec<Datagram>,
    messages: Vec<Message>,
}

impl Writer {
    /// Writes everything in the slab and clears it.
    pub(super) fn flush(&mut self, socket: &mut UdpSocket, slab: &mut SendSlab) -> Written {
        let mut written = Written::default();
        if slab.datagrams.is_empty() {
            return written;
        }
        let datagrams = &mut self.datagrams;
        datagrams.clear();
        datagrams.append(&mut slab.datagrams);
        if socket.segments {
            // A datagram's place in the slab keeps the order to one destination.
            datagrams.sort_unstable_by_key(|d| (d.destination, d.start));
        }
        group(datagrams, if socket.segments { MAX_SEGMENTS } else { 1 }, &mut self.messages);
        let mut at = 0;
        while at < self.messages.len() {
            let (sent, error) = socket.send(&self.messages[at..], datagrams, &slab.bytes);
            for message in &self.messages[at..at + sent] {
                let segments = &datagrams[message.first_segment..message.first_segment + message.segments];
                let bytes: u64 = segments.iter().map(|d| u64::from(d.len)).sum();
                written.datagrams += message.segments as u64;
                written.bytes += bytes;
            }
            at += sent;
            let Some(error) = error else { break };
            match error.raw_os_error() {
                // The device cannot segment (no checksum offload): one by one from now on.
                Some(libc::EIO | libc::EINVAL) if socket.segments && self.messages[at].segments > 1 => {
                    tracing::info!(%error, "the network device does not take segmented datagrams; sending one by one");
                    socket.segments = false;
                    let first = self.messages[at].first_segment;
                    group(&datagrams[first..], 1, &mut self.messages);
                    for message in &mut self.messages {
                        message.first_segment += first;
                    }
                    at = 0;
                }
                _ if error.kind() == io::ErrorKind::WouldBlock => {
                    // The kernel's buffer is full: what is late is worthless, losses are repaired by retransmission.
                    written.failed += self.messages[at..].iter().map(|m| m.segments as u64).sum::<u64>();
                    break;
                }
                _ => {
                    // This destination cannot be reached now; others can.
                    written.failed += self.messages[at].segments as u64;
                    at += 1;
                }
            }
        }
        slab.bytes.clear();
        written
    }
}

/// Runs of one destination: `n` of one size, the last may be shorter.
fn group(datagrams: &[Datagram], max_segments: usize, messages: &mut Vec<Message>) {
    messages.clear();
    let mut closed = true;
    let mut bytes = 0;
    for (index, datagram) in datagrams.iter().enumerate() {
        if let Some(last) = messages.last_mut().filter(|_| !closed) {
            let size = datagrams[last.first_segment].len;
            let fits = last.destination == datagram.destination
                && last.source == datagram.source
                && last.segments < max_segments
                && datagram.len <= size
                && bytes + datagram.len as usize <= MAX_MESSAGE;
            if fits {
                last.segments += 1;
                last.segment_size = size as u16;
                bytes += datagram.len as usize;
                closed = datagram.len < size;
                continue;
            }
        }
        messages.push(Message {
            source: datagram.source,
            destination: datagram.destination,
            first_segment: index,
            segments: 1,
            segment_size: 0,
        });
        bytes = datagram.len as usize;
        closed = max_segments == 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(port: u16, len: u32) -> Datagram {
        let local = ([127, 0, 0, 1], 1).into();
        Datagram { source: local, destination: ([127, 0, 0, 1], port).into(), start: 0, len }
    }

    fn runs(datagrams: &[Datagram], max: usize) -> Vec<(usize, u16)> {
        let mut messages = Vec::new();
        group(datagrams, max, &mut messages);
        messages.iter().map(|m| (m.segments, m.segment_size)).collect()
    }

    #[test]
    fn equal_sizes_make_one_message_and_a_shorter_one_ends_it() {
        let d = |len| datagram(5, len);
        assert_eq!(runs(&[d(1200), d(1200), d(900), d(1200)], 64), [(3, 1200), (1, 0)]);
        assert_eq!(runs(&[d(900), d(1200), d(1200)], 64), [(1, 0), (2, 1200)]);
        assert_eq!(runs(&[d(1200); 130], 64), [(54, 1200), (54, 1200), (22, 1200)]);
        assert_eq!(runs(&[d(100); 130], 64), [(64, 100), (64, 100), (2, 100)]);
        assert_eq!(runs(&[d(1200); 3], 1), [(1, 0); 3]);
    }

    #[test]
    fn destinations_are_not_mixed() {
        assert_eq!(runs(&[datagram(5, 80), datagram(6, 80), datagram(6, 80)], 64), [(1, 0), (2, 80)]);
    }
}
