//! Arithmetic over one row of scores.

use super::decoder::refused;
use crate::runtime::RuntimeError;

/// Logarithm of the sum of exponentials.
pub(crate) fn log_sum_exp(scores: &[f32]) -> f32 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return largest;
    }
    // Eight sums side by side: the compiler makes vectors of them, and each loses less than one long sum would.
    let mut sums = [0.0_f32; 8];
    let (whole, rest) = scores.as_chunks::<8>();
    for scores in whole {
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += exp(score - largest));
    }
    let total = sums.iter().sum::<f32>() + rest.iter().map(|score| exp(score - largest)).sum::<f32>();
    largest + total.ln()
}

/// The exponential of what is at most 0, to 2e-7 of it: half the time of a step of beam search would go into the library's. The exponent is
/// split into a whole power of 2, written into the float's bits, and a rest of at most ln(2) / 2, whose series is short.
fn exp(x: f32) -> f32 {
    // Adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln(2) in two parts, so that a multiple of it loses nothing.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(-87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let value = series.iter().fold(0.0, |value, term| value * rest + term);
    let bits = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    value * f32::from_bits(bits)
}

/// Turns logits into logarithms of probabilities.
pub(super) fn log_softmax(scores: &mut [f32]) {
    let total = log_sum_exp(scores);
    scores.iter_mut().for_each(|score| *score -= total);
}

/// The highest score's place; the first of equals.
pub(super) fn argmax(scores: &[f32]) -> usize {
    let mut best = 0;
    for (index, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = index;
        }
    }
    best
}

/// The last token's logits of a row.
///
/// # Errors
/// [`RuntimeError::Run`] when there are fewer than the row needs, or one is not a number.
pub(super) fn last(logits: &[f32], row: usize, rows: usize, vocabulary: usize) -> Result<&[f32], RuntimeError> {
    let per_row = logits.len() / rows.max(1);
    let end = (row + 1) * per_row;
    let scores = end.checked_sub(vocabulary).and_then(|start| logits.get(start..end)).filter(|_| per_row >= vocabulary);
    let scores =
        scores.ok_or_else(|| refused(format!("{} logits for {rows} rows are fewer than {vocabulary} tokens each", logits.len())))?;
    if scores.iter().any(|score| score.is_nan()) {
        return Err(refused("it gives logits that are not numbers (NaN): the model is damaged, or its 16-bit floats overflow"));
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tokens_logits_are_numbers() {
        let logits = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, f32::NAN];
        assert_eq!(last(&logits[..4], 0, 1, 2).unwrap(), [2.0, 3.0]);
        assert_eq!(last(&logits, 0, 2, 2).unwrap(), [2.0, 3.0]);
        assert!(last(&logits, 1, 2, 2).unwrap_err().to_string().contains("NaN"));
        assert!(last(&logits, 0, 1, 9).is_err());
        assert!(last(&logits, 2, 2, 2).is_err());
    }

    #[test]
    fn the_exponential_is_close() {
        for step in 0..87_000 {
            let x = step as f32 * -1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 2.5e-7 * exact, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn probabilities_sum_up_to_one() {
        let mut scores = [1000.0, 999.0, f32::NEG_INFINITY];
        log_softmax(&mut scores);
        // A float of a thousand has steps of 6e-5.
        assert!((scores.iter().map(|score| score.exp()).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 2]), f32::NEG_INFINITY);
        let many: Vec<f32> = (0..1_003).map(|n| (n % 37) as f32 * -0.3).collect();
        let exact = many.iter().map(|&score| f64::from(score).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&many)) - exact).abs() < 1e-6);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
