//! How often a caller may ask: a token bucket each, in a table of fixed size.
//!
//! The table is set-associative, as a processor's cache: a caller's hash (keyed at random, so that nobody can aim at another's set) names a
//! set of [`WAYS`] buckets. When a set is full, the fullest bucket is given to the newcomer: its owner owes least, and a full one owes
//! nothing at all. So memory is bounded, a look costs [`WAYS`] comparisons, and nobody is refused for the sake of the table.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Sets of the table.
const SETS: usize = 2_048;

/// Buckets of a set: 8,192 callers have one each at a time; the table takes about 330 KB.
const WAYS: usize = 4;

/// How often a caller may ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests a second in the long run; 0: as many as it likes.
    pub per_second: f64,
    /// Requests at once, after a pause.
    pub burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    caller: u64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn filled(self, rate: Rate, now: Instant) -> f64 {
        (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second).min(rate.burst)
    }
}

type Set = Mutex<[Option<Bucket>; WAYS]>;

/// The buckets of all callers. Clones share them.
#[derive(Clone)]
pub struct Limiter {
    rate: Rate,
    hasher: RandomState,
    sets: Arc<[Set]>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Limiter {
    /// Full buckets for everybody.
    pub fn new(rate: Rate) -> Self {
        Self { rate, hasher: RandomState::new(), sets: (0..SETS).map(|_| Set::default()).collect() }
    }

    /// Takes one request of `caller`'s, or says how long until there is one.
    pub fn take(&self, caller: &impl Hash, now: Instant) -> Result<(), Duration> {
        if self.rate.per_second <= 0.0 {
            return Ok(());
        }
        let caller = self.hasher.hash_one(caller);
        let set = &self.sets[caller as usize % SETS];
        let mut set = set.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bucket = self.bucket(&mut set, caller, now);
        let tokens = bucket.filled(self.rate, now);
        (bucket.tokens, bucket.at) = (tokens, now);
        if tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - tokens) / self.rate.per_second));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// The caller's bucket: its own, a free one, or the fullest of the set.
    fn bucket<'a>(&self, set: &'a mut [Option<Bucket>; WAYS], caller: u64, now: Instant) -> &'a mut Bucket {
        let own = set.iter().position(|way| way.is_some_and(|bucket| bucket.caller == caller));
        let new = Bucket { caller, tokens: self.rate.burst, at: now };
        let at = own.or_else(|| set.iter().position(Option::is_none)).unwrap_or_else(|| {
            let fill = |way: &Option<Bucket>| way.map_or(f64::INFINITY, |bucket| bucket.filled(self.rate, now));
            let fullest = (0..WAYS).max_by(|a, b| fill(&set[*a]).total_cmp(&fill(&set[*b]))).unwrap_or_default();
            if fill(&set[fullest]) < self.rate.burst {
                metrics::counter!("auralink_limit_hits_total", "limit" => "callers").increment(1);
            }
            set[fullest] = None;
            fullest
        });
        set[at].get_or_insert(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 3.0 };

    #[test]
    fn a_burst_then_the_rate_and_each_caller_for_itself() {
        let (limiter, start) = (Limiter::new(RATE), Instant::now());
        for _ in 0..3 {
            assert_eq!(limiter.take(&"ana", start), Ok(()));
        }
        assert_eq!(limiter.take(&"ana", start), Err(Duration::from_millis(500)));
        assert_eq!(limiter.take(&"ben", start), Ok(()), "another caller has its own");
        assert!(limiter.take(&"ana", start + Duration::from_millis(499)).is_err());
        assert_eq!(limiter.take(&"ana", start + Duration::from_millis(501)), Ok(()), "refused requests cost nothing");
        assert!(limiter.take(&"ana", start + Duration::from_millis(502)).is_err());
        let later = start + Duration::from_secs(3_600);
        assert_eq!((0..10).filter(|_| limiter.take(&"ana", later).is_ok()).count(), 3, "no more than the burst is saved");
    }

    #[test]
    fn no_limit_when_the_rate_is_zero() {
        let limiter = Limiter::new(Rate { per_second: 0.0, burst: 0.0 });
        assert!((0..1_000).all(|_| limiter.take(&"ana", Instant::now()).is_ok()));
    }

    #[test]
    fn a_flood_of_callers_neither_grows_the_table_nor_frees_the_one_who_owes_most() {
        let (limiter, start) = (Limiter::new(RATE), Instant::now());
        for _ in 0..3 {
            assert!(limiter.take(&"greedy", start).is_ok());
        }
        for stranger in 0..200_000_u32 {
            assert!(limiter.take(&stranger, start).is_ok(), "a newcomer is served");
        }
        assert!(limiter.take(&"greedy", start).is_err(), "its empty bucket was kept");
        assert_eq!(limiter.sets.len() * WAYS, 8_192);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let (limiter, start) = (Limiter::new(RATE), Instant::now() + Duration::from_secs(60));
        assert!((0..3).all(|_| limiter.take(&"ana", start).is_ok()));
        assert!(limiter.take(&"ana", start - Duration::from_secs(30)).is_err());
    }
}
