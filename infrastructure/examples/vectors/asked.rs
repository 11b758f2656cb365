//! Times and hits of queries, and their rows in the table.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::data::K;

#[derive(Default)]
pub struct Asked {
    times: Vec<Duration>,
    hits: usize,
}

impl Asked {
    pub fn add(&mut self, start: Instant, found: &[String], truth: &HashSet<String>) {
        self.times.push(start.elapsed());
        self.hits += found.iter().filter(|id| truth.contains(*id)).count();
    }

    /// In milliseconds.
    pub fn at(&self, percent: usize) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
    }

    pub fn row(&self, name: &str, records: usize, insert: Option<Duration>) {
        let recall = self.hits as f64 / (self.times.len() * K) as f64;
        let rate = insert.map_or_else(|| "-".into(), |insert| format!("{:.0}", records as f64 / insert.as_secs_f64()));
        println!("{name:<34} {records:>8} {recall:>10.4} {:>9.2} {:>9.2} {rate:>10}", self.at(50), self.at(99));
    }
}

pub fn head() {
    println!("{:<34} {:>8} {:>10} {:>9} {:>9} {:>10}", "engine", "records", "recall@10", "p50 ms", "p99 ms", "insert/s");
}
