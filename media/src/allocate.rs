//! Which layer each subscription of one participant gets: a pure function of bandwidth estimate, wishes and priorities.
//!
//! Order of what is given up when bandwidth is short: high layers first, then pictures of low priority, sound last.
//! Called at most once a second, or at once when the estimate says congestion.

use crate::packet::MediaKind;

/// Headroom that going up to a layer needs beyond what is spent. More: quality rises later; less: it flaps.
const UPGRADE_HEADROOM: f64 = 1.15;

/// Part of the estimate that may be spent; the rest is for retransmissions and data.
const USABLE: f64 = 0.95;

/// One subscription's wish.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Audio or video.
    pub kind: MediaKind,
    /// Bits per second of each layer, lowest first; 0 is a layer that is not sent now.
    pub rates_bps: Vec<u64>,
    /// Highest layer wanted; `None` is nothing.
    pub wanted: Option<u8>,
    /// Higher first.
    pub priority: u32,
    /// What it has now.
    pub current: Option<u8>,
}

impl Wish {
    /// Layers that are both wanted and sent, lowest first; a wanted track of which nothing is measured counts with its lowest.
    fn usable(&self) -> impl Iterator<Item = u8> + '_ {
        let wanted = self.wanted.map_or(0, |w| usize::from(w) + 1).min(self.rates_bps.len());
        (0..wanted as u8).filter(|&l| self.rate(l) > 0)
    }

    fn rate(&self, layer: u8) -> u64 {
        self.rates_bps.get(usize::from(layer)).copied().unwrap_or(0)
    }
}

/// Gives each wish a layer or `None` (paused), in the order of `wishes`. `estimate_bps` of `None` is unknown: everyone gets what
/// they want.
pub fn allocate(estimate_bps: Option<u64>, wishes: &[Wish]) -> Vec<Option<u8>> {
    let mut given: Vec<Option<u8>> = vec![None; wishes.len()];
    let Some(estimate) = estimate_bps else {
        for (wish, slot) in wishes.iter().zip(&mut given) {
            *slot = wish.usable().last().or(wish.wanted.map(|_| 0));
        }
        return given;
    };
    let budget = (estimate as f64 * USABLE) as u64;
    let mut spent = 0;
    for (wish, slot) in wishes.iter().zip(&mut given) {
        if wish.kind == MediaKind::Audio && wish.wanted.is_some() {
            *slot = Some(0);
            spent += wish.rate(0);
        }
    }
    let mut order: Vec<usize> = (0..wishes.len()).filter(|&i| wishes[i].kind == MediaKind::Video && wishes[i].wanted.is_some()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(wishes[i].priority));
    for &index in &order {
        let lowest = wishes[index].usable().next();
        let rate = lowest.map_or(0, |l| wishes[index].rate(l));
        if spent + rate <= budget {
            spent += rate;
            // Nothing is sent of it yet: be ready for its lowest layer.
            given[index] = lowest.or(Some(0));
        }
    }
    // One step up for each in turn, so that a few tracks do not take everything.
    let mut rose = true;
    while rose {
        rose = false;
        for &index in &order {
            let (wish, Some(now)) = (&wishes[index], given[index]) else { continue };
            let Some(next) = wish.usable().find(|&l| l > now) else { continue };
            let cost = wish.rate(next).saturating_sub(wish.rate(now));
            let headroom = if wish.current.is_some_and(|c| c >= next) { 1.0 } else { UPGRADE_HEADROOM };
            if (spent + cost) as f64 * headroom <= budget as f64 {
                spent += cost;
                given[index] = Some(next);
                rose = true;
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn video(rates: &[u64], wanted: u8, priority: u32) -> Wish {
        Wish { kind: MediaKind::Video, rates_bps: rates.to_vec(), wanted: Some(wanted), priority, current: None }
    }

    fn audio() -> Wish {
        Wish { kind: MediaKind::Audio, rates_bps: vec![32_000], wanted: Some(0), priority: 0, current: Some(0) }
    }

    const SIMULCAST: [u64; 3] = [150_000, 500_000, 1_700_000];

    #[test]
    fn an_unknown_estimate_grants_every_wish() {
        assert_eq!(allocate(None, &[video(&SIMULCAST, 2, 0), video(&SIMULCAST, 0, 0), audio()]), [Some(2), Some(0), Some(0)]);
    }

    #[test]
    fn layers_fall_before_pictures_and_sound_stays() {
        let wishes = [video(&SIMULCAST, 2, 1), video(&SIMULCAST, 2, 0), audio()];
        assert_eq!(allocate(Some(10_000_000), &wishes), [Some(2), Some(2), Some(0)]);
        assert_eq!(allocate(Some(1_300_000), &wishes), [Some(1), Some(1), Some(0)]);
        assert_eq!(allocate(Some(400_000), &wishes), [Some(0), Some(0), Some(0)]);
        assert_eq!(allocate(Some(250_000), &wishes), [Some(0), None, Some(0)]);
        assert_eq!(allocate(Some(10_000), &wishes), [None, None, Some(0)]);
    }

    #[test]
    fn a_layer_held_is_kept_where_it_would_not_be_entered() {
        let mut wish = video(&SIMULCAST, 1, 0);
        assert_eq!(allocate(Some(560_000), &[wish.clone()]), [Some(0)]);
        wish.current = Some(1);
        assert_eq!(allocate(Some(560_000), &[wish]), [Some(1)]);
    }

    #[test]
    fn a_layer_that_is_not_sent_is_passed_over() {
        assert_eq!(allocate(Some(5_000_000), &[video(&[150_000, 0, 1_700_000], 1, 0)]), [Some(0)]);
        assert_eq!(allocate(None, &[video(&[0, 500_000, 0], 2, 0)]), [Some(1)]);
    }

    proptest! {
        #[test]
        fn the_budget_is_kept_and_more_bandwidth_never_takes_away(
            rates in proptest::collection::vec(proptest::collection::vec(1u64..3_000_000, 1..4), 1..8),
            estimate in 0u64..20_000_000,
        ) {
            let wishes: Vec<Wish> = rates
                .iter()
                .map(|r| {
                    let mut sorted = r.clone();
                    sorted.sort_unstable();
                    video(&sorted, 2, 0)
                })
                .collect();
            let given = allocate(Some(estimate), &wishes);
            let spent: u64 = wishes.iter().zip(&given).filter_map(|(w, g)| g.map(|l| w.rate(l))).sum();
            prop_assert!(spent <= estimate);
            let all = allocate(Some(u64::MAX / 4), &wishes);
            prop_assert!(all.iter().zip(&wishes).all(|(g, w)| *g == Some(w.rates_bps.len() as u8 - 1)));
        }
    }
}
