//! How often a speaker's captions are sent: at most [`PER_SECOND`] updates in any second. What comes too early waits and is
//! replaced by newer text. Slots are kept free for what readers wait for: a final may take any, newly committed words all but
//! one, text that may still change half of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Updates a second and speaker. More would only flicker; fewer lag behind speech.
const PER_SECOND: usize = 4;

/// Of these, what updates with newly committed words may take: the rest is for a final.
const COMMITTING: usize = 3;

/// Of these, what text that may still change may take: the rest is for what will stay.
const CHANGEABLE: usize = 2;

/// Least time after the last update for text that may still change.
const CHANGEABLE_GAP: Duration = Duration::from_millis(300);

/// The updates of one speaker that wait or were sent.
#[derive(Debug)]
pub struct Limiter<T> {
    sent: VecDeque<Instant>,
    finals: VecDeque<T>,
    interim: Option<T>,
    /// The waiting interim text has committed words that nobody has seen.
    committing: bool,
}

impl<T> Default for Limiter<T> {
    fn default() -> Self {
        Self { sent: VecDeque::with_capacity(PER_SECOND), finals: VecDeque::new(), interim: None, committing: false }
    }
}

impl<T> Limiter<T> {
    /// New text of the open segment, `committing` when more of it will stay than before; older waiting text is forgotten.
    pub fn push_interim(&mut self, update: T, committing: bool) {
        self.interim = Some(update);
        self.committing |= committing;
    }

    /// A closed segment; its interim text is not needed any more. Finals are never dropped.
    pub fn push_final(&mut self, update: T) {
        self.interim = None;
        self.committing = false;
        self.finals.push_back(update);
    }

    /// The next update that may be sent now.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.due()?.is_some_and(|due| due > now) {
            return None;
        }
        if self.sent.len() == PER_SECOND {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
        self.finals.pop_front().or_else(|| {
            self.committing = false;
            self.interim.take()
        })
    }

    /// When [`Self::poll`] has something: `None`: nothing waits; `Some(None)`: at once.
    pub fn due(&self) -> Option<Option<Instant>> {
        // When fewer than so many were sent within the last second.
        let fewer_than = |limit: usize| self.sent.len().checked_sub(limit).map(|oldest| self.sent[oldest] + Duration::from_secs(1));
        if !self.finals.is_empty() {
            return Some(fewer_than(PER_SECOND));
        }
        self.interim.as_ref()?;
        if self.committing {
            return Some(fewer_than(COMMITTING));
        }
        Some(fewer_than(CHANGEABLE).max(self.sent.back().map(|last| *last + CHANGEABLE_GAP)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_four_in_any_second_and_finals_are_never_lost() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let mut sent = Vec::new();
        for step in 0..500_u64 {
            let now = start + Duration::from_millis(10 * step);
            if step % 7 == 0 {
                limiter.push_final(("final", step));
            } else if step < 400 {
                limiter.push_interim(("interim", step), step % 3 == 0);
            }
            if let Some(update) = limiter.poll(now) {
                sent.push((now, update));
            }
        }
        for window in sent.windows(PER_SECOND + 1) {
            assert!(window[PER_SECOND].0 - window[0].0 >= Duration::from_secs(1));
        }
        let mut later = start + Duration::from_secs(6);
        while limiter.due().is_some() {
            later += Duration::from_millis(10);
            sent.extend(limiter.poll(later).map(|update| (later, update)));
        }
        assert_eq!(sent.iter().filter(|(_, (kind, _))| *kind == "final").count(), 500_usize.div_ceil(7));
    }

    #[test]
    fn newer_interim_replaces_older() {
        let now = Instant::now();
        let mut limiter = Limiter::default();
        limiter.push_interim(1, false);
        assert_eq!(limiter.poll(now), Some(1));
        limiter.push_interim(2, false);
        limiter.push_interim(3, false);
        assert_eq!(limiter.poll(now + Duration::from_millis(100)), None);
        assert_eq!(limiter.poll(now + Duration::from_millis(300)), Some(3));
        assert_eq!(limiter.due(), None);
    }

    #[test]
    fn committed_words_do_not_wait_behind_changing_text_nor_finals_behind_committed_words() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut limiter = Limiter::default();
        for (ms, committing) in [(0, false), (300, false), (310, true)] {
            limiter.push_interim(ms, committing);
            assert_eq!(limiter.poll(at(ms)), Some(ms));
        }
        limiter.push_interim(320, true);
        limiter.push_interim(330, false);
        assert_eq!(limiter.poll(at(330)), None, "three went within this second");
        assert_eq!(limiter.due(), Some(Some(at(1_000))), "newer text still carries the committed words");
        limiter.push_final(340);
        assert_eq!(limiter.poll(at(340)), Some(340));
    }
}
