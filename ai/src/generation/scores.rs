//! Arithmetic over one row of scores.

use super::decoder::refused;
use crate::runtime::RuntimeError;

/// Logarithm of the sum of exponentials.
pub(crate) fn log_sum_exp(scores: &[f32]) -> f32 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return largest;
    }
    largest + scores.iter().map(|score| (score - largest).exp()).sum::<f32>().ln()
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
    fn probabilities_sum_up_to_one() {
        let mut scores = [1000.0, 999.0, f32::NEG_INFINITY];
        log_softmax(&mut scores);
        // A float of a thousand has steps of 6e-5.
        assert!((scores.iter().map(|score| score.exp()).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 2]), f32::NEG_INFINITY);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
