//! When each token was said: the cross attention of the heads that follow the sound, and dynamic time warping through it.
//!
//! Source: `_extract_token_timestamps` of `transformers`, after OpenAI's `whisper.timing`.

/// The attention of one sequence, smoothed: a row for each token, a column for each frame.
pub(super) struct Alignment {
    rows: usize,
    frames: usize,
    values: Vec<f32>,
}

impl Alignment {
    /// Of `[heads, all frames]` for each token, of which the first `frames` are sound. Each head is standardised over the tokens, smoothed by a
    /// median over `median` frames, and averaged with the others.
    pub(super) fn new(paid: &[Vec<f32>], heads: usize, frames: usize, median: usize) -> Option<Self> {
        let rows = paid.len();
        let all = paid.first()?.len().checked_div(heads)?;
        let frames = frames.min(all);
        if frames == 0 || paid.iter().any(|row| row.len() != heads * all) {
            return None;
        }
        let mut values = vec![0.0; rows * frames];
        for head in 0..heads {
            let at = |row: usize, frame: usize| paid[row][head * all + frame];
            let mut standard = vec![0.0; rows * frames];
            for frame in 0..frames {
                let mean = (0..rows).map(|row| at(row, frame)).sum::<f32>() / rows as f32;
                let variance = (0..rows).map(|row| (at(row, frame) - mean).powi(2)).sum::<f32>() / rows as f32;
                let deviation = variance.sqrt();
                for row in 0..rows {
                    // A frame that all tokens look at alike says nothing; it sorts after all numbers.
                    standard[row * frames + frame] = if deviation == 0.0 { f32::NAN } else { (at(row, frame) - mean) / deviation };
                }
            }
            for (row, standard) in standard.chunks_exact(frames).enumerate() {
                let smooth = median_filtered(standard, median);
                values[row * frames..][..frames].iter_mut().zip(smooth).for_each(|(value, smooth)| *value += smooth);
            }
        }
        values.iter_mut().for_each(|value| *value /= heads as f32);
        Some(Self { rows, frames, values })
    }

    /// The frame that each token pays most attention to.
    pub(super) fn most_attended(&self) -> Vec<usize> {
        let peak = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(frame, _)| frame);
        self.values.chunks_exact(self.frames).map(peak).collect()
    }

    /// The frame at which each token begins: the cheapest monotonic way through the attention.
    pub(super) fn starts(&self) -> Vec<usize> {
        let (rows, frames) = (self.rows, self.frames);
        let width = frames + 1;
        let mut cost = vec![f32::INFINITY; (rows + 1) * width];
        let mut trace = vec![Move::Frame; (rows + 1) * width];
        cost[0] = 0.0;
        for row in 1..=rows {
            for frame in 1..=frames {
                let both = cost[(row - 1) * width + frame - 1];
                let token = cost[(row - 1) * width + frame];
                let wait = cost[row * width + frame - 1];
                let (least, step) = if both < token && both < wait {
                    (both, Move::Both)
                } else if token < both && token < wait {
                    (token, Move::Token)
                } else {
                    (wait, Move::Frame)
                };
                cost[row * width + frame] = (f64::from(least) - f64::from(self.values[(row - 1) * frames + frame - 1])) as f32;
                trace[row * width + frame] = step;
            }
        }
        (1..=rows).for_each(|row| trace[row * width] = Move::Token);
        let mut starts = vec![0; rows];
        let (mut row, mut frame) = (rows, frames);
        while row > 0 || frame > 0 {
            if row > 0 {
                // The last that is written is the earliest.
                starts[row - 1] = frame.saturating_sub(1);
            }
            match if row == 0 { Move::Frame } else { trace[row * width + frame] } {
                Move::Both => (row, frame) = (row - 1, frame - 1),
                Move::Token => row -= 1,
                Move::Frame => frame -= 1,
            }
        }
        starts
    }
}

#[derive(Clone, Copy)]
enum Move {
    Both,
    Token,
    Frame,
}

/// The median of `width` neighbours, mirrored at the edges.
fn median_filtered(values: &[f32], width: usize) -> Vec<f32> {
    let side = width / 2;
    if side == 0 || values.len() <= side {
        return values.to_vec();
    }
    let last = values.len() as isize - 1;
    let mirrored = |index: isize| {
        let index = if index < 0 { -index } else { index };
        values[(if index > last { 2 * last - index } else { index }) as usize]
    };
    let mut window = Vec::with_capacity(width);
    (0..values.len() as isize)
        .map(|centre| {
            window.clear();
            window.extend((centre - side as isize..=centre + side as isize).map(mirrored));
            window.sort_by(f32::total_cmp);
            window[side]
        })
        .collect()
}
