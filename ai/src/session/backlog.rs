//! Audio that waits for its windows: samples, and silence as a number.
//!
//! Rule: what comes in is made sane here, once: finite and in [-1, 1].

use std::collections::VecDeque;

enum Piece {
    Pcm(VecDeque<f32>),
    Silence(u64),
}

/// A queue of audio.
#[derive(Default)]
pub struct Backlog {
    pieces: VecDeque<Piece>,
    length: u64,
    /// How much of it is samples.
    sound: u64,
}

impl Backlog {
    /// Samples that wait.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Samples that wait and are not silence by number, which costs next to nothing.
    pub fn sound(&self) -> u64 {
        self.sound
    }

    pub fn push_pcm(&mut self, samples: &[f32]) {
        if samples.is_empty() {
            return;
        }
        self.length += samples.len() as u64;
        self.sound += samples.len() as u64;
        let sane = samples.iter().map(|&sample| if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 });
        match self.pieces.back_mut() {
            Some(Piece::Pcm(pcm)) => pcm.extend(sane),
            _ => self.pieces.push_back(Piece::Pcm(sane.collect())),
        }
    }

    pub fn push_silence(&mut self, length: u64) {
        if length == 0 {
            return;
        }
        self.length += length;
        match self.pieces.back_mut() {
            Some(Piece::Silence(silence)) => *silence += length,
            _ => self.pieces.push_back(Piece::Silence(length)),
        }
    }

    /// Moves samples into `window` until it holds `capacity`, or nothing is left.
    pub fn take(&mut self, window: &mut Vec<f32>, capacity: usize) {
        while window.len() < capacity {
            let wanted = capacity - window.len();
            let emptied = match self.pieces.front_mut() {
                Some(Piece::Pcm(pcm)) => {
                    let taken = wanted.min(pcm.len());
                    window.extend(pcm.drain(..taken));
                    self.length -= taken as u64;
                    self.sound -= taken as u64;
                    pcm.is_empty()
                }
                Some(Piece::Silence(silence)) => {
                    let taken = (wanted as u64).min(*silence);
                    window.resize(window.len() + taken as usize, 0.0);
                    *silence -= taken;
                    self.length -= taken;
                    *silence == 0
                }
                None => return,
            };
            if emptied {
                self.pieces.pop_front();
            }
        }
    }

    /// Takes the silence at the front, if there is any.
    pub fn take_silence(&mut self) -> Option<u64> {
        let &Piece::Silence(length) = self.pieces.front()? else { return None };
        self.pieces.pop_front();
        self.length -= length;
        Some(length)
    }

    /// Drops everything but the newest `keep` samples; returns how many were dropped.
    pub fn drop_oldest(&mut self, keep: u64) -> u64 {
        let excess = self.length.saturating_sub(keep);
        let mut left = excess;
        while left > 0 {
            let emptied = match self.pieces.front_mut() {
                Some(Piece::Pcm(pcm)) => {
                    let taken = left.min(pcm.len() as u64);
                    pcm.drain(..taken as usize);
                    left -= taken;
                    self.sound -= taken;
                    pcm.is_empty()
                }
                Some(Piece::Silence(silence)) => {
                    let taken = left.min(*silence);
                    *silence -= taken;
                    left -= taken;
                    *silence == 0
                }
                None => break,
            };
            if emptied {
                self.pieces.pop_front();
            }
        }
        self.length -= excess;
        excess
    }
}
