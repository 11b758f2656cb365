//! Vectors as sentence models make them, without a model: a few latent qualities, the first of which say most; topics of very different
//! sizes that run into each other; a direction that all share; a little noise in every number. And, for the hardest case, vectors without
//! any structure, among which nothing is near to anything.

use std::collections::HashSet;

use auralink_infrastructure::vector::Record;
use auralink_infrastructure::vector::metric::{dot, unit};

pub const DIMENSION: usize = 384;
pub const K: usize = 10;
pub const QUERIES: usize = 500;
pub const BATCH: usize = 500;
/// Latent qualities.
const LATENT: usize = 64;
const TOPICS: usize = 500;

/// Numbers without pattern, the same in every run.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f32::consts::TAU * self.uniform()).cos()
    }

    fn normals(&mut self, many: usize) -> Vec<f32> {
        (0..many).map(|_| self.normal()).collect()
    }
}

pub struct Data {
    pub stored: Vec<Vec<f32>>,
    pub queries: Vec<Vec<f32>>,
}

impl Data {
    /// Like sentences.
    pub fn sentences(records: usize) -> Self {
        let mut noise = Noise(1);
        // Each quality has a direction; the j-th has 1 / sqrt(j) of the first one's spread.
        let directions: Vec<Vec<f32>> = (0..LATENT)
            .map(|j| noise.normals(DIMENSION).iter().map(|number| number / ((j + 1) as f32 * DIMENSION as f32).sqrt()).collect())
            .collect();
        let common: Vec<f32> = noise.normals(DIMENSION).iter().map(|number| number / (DIMENSION as f32).sqrt()).collect();
        let topics: Vec<Vec<f32>> = (0..TOPICS).map(|_| noise.normals(LATENT)).collect();
        let mut one = || {
            // The n-th topic is as large as 1 / n (Zipf).
            let topic = &topics[((TOPICS as f32).powf(noise.uniform()) as usize).min(TOPICS) - 1];
            let qualities: Vec<f32> = topic.iter().map(|centre| centre + noise.normal()).collect();
            let spread = 0.3 / (DIMENSION as f32).sqrt();
            let mut vector: Vec<f32> = common.iter().map(|shared| shared + spread * noise.normal()).collect();
            for (quality, direction) in qualities.iter().zip(&directions) {
                vector.iter_mut().zip(direction).for_each(|(number, part)| *number += quality * part);
            }
            unit(&vector)
        };
        let stored = (0..records).map(|_| one()).collect();
        Self { stored, queries: (0..QUERIES).map(|_| one()).collect() }
    }

    /// Without structure.
    pub fn noise(records: usize) -> Self {
        let mut noise = Noise(2);
        let mut one = || unit(&noise.normals(DIMENSION));
        let stored = (0..records).map(|_| one()).collect();
        Self { stored, queries: (0..QUERIES).map(|_| one()).collect() }
    }

    /// The ids of the nearest of the first `records`, by looking at each, for every query.
    pub fn truth(&self, records: usize) -> Vec<HashSet<String>> {
        let half = self.queries.len() / 2;
        let near = |queries: &[Vec<f32>]| -> Vec<HashSet<String>> { queries.iter().map(|query| self.nearest(query, records)).collect() };
        std::thread::scope(|scope| {
            let rest = scope.spawn(|| near(&self.queries[half..]));
            let mut all = near(&self.queries[..half]);
            all.extend(rest.join().expect("it looks at vectors"));
            all
        })
    }

    /// The ids of the nearest of the first `records`.
    pub fn nearest(&self, query: &[f32], records: usize) -> HashSet<String> {
        let mut all: Vec<(f32, usize)> = self.stored[..records].iter().enumerate().map(|(i, vector)| (-dot(query, vector), i)).collect();
        all.select_nth_unstable_by(K, |a, b| a.0.total_cmp(&b.0));
        all[..K].iter().map(|(_, i)| i.to_string()).collect()
    }

    /// How near the nearest and the tenth are to a query, and a record at random: the medians of cosine similarities.
    pub fn describe(&self) -> String {
        let mut rows: Vec<[f32; 3]> = self.queries[..100]
            .iter()
            .enumerate()
            .map(|(at, query)| {
                let mut all: Vec<f32> = self.stored.iter().map(|vector| dot(query, vector)).collect();
                let random = all[at];
                all.sort_by(|a, b| b.total_cmp(a));
                [all[0], all[K - 1], random]
            })
            .collect();
        let mut median = |of: usize| {
            rows.sort_by(|a, b| a[of].total_cmp(&b[of]));
            rows[rows.len() / 2][of]
        };
        format!("cosine to the nearest {:.2}, to the tenth {:.2}, to any {:.2} (medians)", median(0), median(1), median(2))
    }

    pub fn records(&self, batch: usize) -> Vec<Record> {
        let from = batch * BATCH;
        let part = &self.stored[from..self.stored.len().min(from + BATCH)];
        let record = |(i, vector): (usize, &Vec<f32>)| Record { id: (from + i).to_string(), vector: vector.clone(), ..Record::default() };
        part.iter().enumerate().map(record).collect()
    }

    pub fn batches(&self) -> usize {
        self.stored.len().div_ceil(BATCH)
    }
}
