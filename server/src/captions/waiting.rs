//! Microphones that were refused because every stream is taken, in the order in which they asked.

use std::collections::VecDeque;

use auralink_media::ids::{RoomKey, TrackKey};

/// Microphones that may wait, over all rooms; a further one is refused until it is published again.
const LIMIT: usize = 1_024;

/// The queue.
#[derive(Debug, Default)]
pub struct Waiting {
    queue: VecDeque<(RoomKey, TrackKey)>,
}

impl Waiting {
    /// Puts a microphone at the end, unless it waits already. False: too many wait.
    pub fn push(&mut self, room: RoomKey, track: TrackKey) -> bool {
        if self.queue.contains(&(room, track)) {
            return true;
        }
        if self.queue.len() >= LIMIT {
            metrics::counter!("auralink_limit_hits_total", "limit" => "captions_waiting").increment(1);
            return false;
        }
        self.queue.push_back((room, track));
        true
    }

    /// It does not want a stream any more.
    pub fn remove(&mut self, track: TrackKey) {
        self.queue.retain(|(_, other)| *other != track);
    }

    /// The one who asked first.
    pub fn pop(&mut self) -> Option<(RoomKey, TrackKey)> {
        self.queue.pop_front()
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served_and_bounded() {
        let mut waiting = Waiting::default();
        let room = RoomKey(1);
        for number in 0..LIMIT as u64 {
            assert!(waiting.push(room, TrackKey(number)));
        }
        assert!(waiting.push(room, TrackKey(0)), "who waits already keeps the place");
        assert!(!waiting.push(room, TrackKey(5_000)));
        waiting.remove(TrackKey(1));
        assert_eq!(waiting.pop(), Some((room, TrackKey(0))));
        assert_eq!(waiting.pop(), Some((room, TrackKey(2))));
    }
}
