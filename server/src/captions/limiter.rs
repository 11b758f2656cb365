//! How often a speaker's captions are sent: at most [`PER_SECOND`] updates in any second. Interim text that comes too early waits
//! and is replaced by newer text; a final goes as soon as the window allows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Updates a second and speaker. More would only flicker; fewer lag behind speech.
const PER_SECOND: usize = 4;

/// Least time between interim updates, so that a final still finds room in the window.
const INTERIM_GAP: Duration = Duration::from_millis(300);

/// The updates of one speaker that wait or were sent.
#[derive(Debug)]
pub struct Limiter<T> {
    sent: VecDeque<Instant>,
    finals: VecDeque<T>,
    interim: Option<T>,
}

impl<T> Default for Limiter<T> {
    fn default() -> Self {
        Self { sent: VecDeque::with_capacity(PER_SECOND), finals: VecDeque::new(), interim: None }
    }
}

impl<T> Limiter<T> {
    /// New text of the open segment; older waiting text of it is forgotten.
    pub fn push_interim(&mut self, update: T) {
        self.interim = Some(update);
    }

    /// A closed segment; its interim text is not needed any more. Finals are never dropped.
    pub fn push_final(&mut self, update: T) {
        self.interim = None;
        self.finals.push_back(update);
    }

    /// The next update that may be sent now.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.wait(now)? > Duration::ZERO {
            return None;
        }
        if self.sent.len() == PER_SECOND {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
        self.finals.pop_front().or_else(|| self.interim.take())
    }

    /// How long until [`Self::poll`] has something; `None`: nothing waits.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let window = (self.sent.len() == PER_SECOND).then(|| self.sent[0] + Duration::from_secs(1));
        let gap = self.sent.back().map(|last| *last + INTERIM_GAP);
        let due = if !self.finals.is_empty() {
            window
        } else if self.interim.is_some() {
            window.max(gap)
        } else {
            return None;
        };
        Some(due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now)))
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
                limiter.push_interim(("interim", step));
            }
            if let Some(update) = limiter.poll(now) {
                sent.push((now, update));
            }
        }
        for window in sent.windows(PER_SECOND + 1) {
            assert!(window[PER_SECOND].0 - window[0].0 >= Duration::from_secs(1));
        }
        let mut later = start + Duration::from_secs(6);
        while limiter.wait(later).is_some() {
            later += Duration::from_millis(10);
            sent.extend(limiter.poll(later).map(|update| (later, update)));
        }
        assert_eq!(sent.iter().filter(|(_, (kind, _))| *kind == "final").count(), 500_usize.div_ceil(7));
    }

    #[test]
    fn newer_interim_replaces_older() {
        let now = Instant::now();
        let mut limiter = Limiter::default();
        limiter.push_interim(1);
        assert_eq!(limiter.poll(now), Some(1));
        limiter.push_interim(2);
        limiter.push_interim(3);
        assert_eq!(limiter.poll(now + Duration::from_millis(100)), None);
        assert_eq!(limiter.poll(now + Duration::from_millis(300)), Some(3));
        assert_eq!(limiter.wait(now), None);
    }
}
