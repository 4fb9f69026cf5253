//! A stream of tokens cut into sequences: what a model is given, and what it has to predict.

use std::ops::Range;

use super::TokenStream;
use crate::TrainError;

/// `B` sequences of `S` tokens and, for each token, the one that follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B * S]` tokens, row by row.
    pub inputs: Vec<u32>,
    /// `[B * S]` tokens to predict: those of the stream one place further on.
    pub targets: Vec<u32>,
    /// `[B * S]` weights of the predictions in the loss: 1, or 0 for the tokens of a prompt.
    pub weights: Vec<f32>,
    /// `B`.
    pub batch: usize,
    /// `S`.
    pub sequence: usize,
}

impl Batch {
    /// An empty batch of sequences of `sequence` tokens.
    pub(super) fn new(sequence: usize) -> Self {
        Self {
            inputs: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
            batch: 0,
            sequence,
        }
    }

    /// Adds the window of `S + 1` tokens that these pieces of the stream make.
    pub(super) fn push(&mut self, stream: &TokenStream, pieces: impl Iterator<Item = Range<usize>>) {
        let begin = self.targets.len();
        for piece in pieces {
            // the first token of the window is given alone, the last one predicted alone
            let is_first = self.targets.len() == begin && self.inputs.len() == begin;
            let predicted = piece.start + usize::from(is_first)..piece.end;
            self.inputs.extend(&stream.tokens()[piece]);
            self.targets.extend(&stream.tokens()[predicted.clone()]);
            self.weights
                .extend(predicted.map(|position| if stream.counts(position) { 1.0 } else { 0.0 }));
        }
        self.inputs.pop();
        self.batch += 1;
        debug_assert_eq!(
            (self.inputs.len(), self.targets.len()),
            (begin + self.sequence, begin + self.sequence)
        );
    }

    /// The batch of the windows that begin at `starts`.
    pub(super) fn of(stream: &TokenStream, sequence: usize, starts: &[usize]) -> Self {
        let mut batch = Self::new(sequence);
        for &start in starts {
            batch.push(stream, std::iter::once(start..start + sequence + 1));
        }
        batch
    }

    /// Sum of the weights: the number of predictions that count.
    pub fn counted(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }
}

/// Checks that the stream has the `sequence + 1` tokens of one window. `text` is what messages call it.
///
/// # Errors
/// [`TrainError::TooFewTokens`] with both numbers, [`TrainError::Setting`] for a sequence of 0.
pub fn check_length(stream: &TokenStream, sequence: usize, text: &str) -> Result<(), TrainError> {
    if sequence == 0 {
        return Err(TrainError::Setting {
            setting: "sequence length",
            value: "0".into(),
            expected: "at least 1",
        });
    }
    // `tokens <= sequence` and not `tokens < sequence + 1`: the sum could overflow.
    if stream.len() <= sequence {
        return Err(TrainError::TooFewTokens {
            text: text.to_owned(),
            tokens: stream.len(),
            window: sequence.saturating_add(1),
        });
    }
    Ok(())
}

/// The batches over which perplexity is measured.
///
/// Windows of `sequence + 1` tokens with stride `sequence`: the last token of one is the first of the next, so that every
/// token of the stream but the first is predicted exactly once. What remains at the end, shorter than a window, is
/// predicted too, as a batch of one shorter sequence. All other batches have `batch` sequences, the last of them perhaps
/// fewer.
///
/// # Errors
/// As [`check_length`]; a batch of 0.
pub fn evaluation_batches(
    stream: &TokenStream,
    sequence: usize,
    batch: usize,
) -> Result<impl Iterator<Item = Batch> + '_, TrainError> {
    check_length(stream, sequence, "the text")?;
    if batch == 0 {
        return Err(TrainError::Setting {
            setting: "batch",
            value: "0".into(),
            expected: "at least 1",
        });
    }
    let predicted = stream.len() - 1;
    let starts: Vec<usize> = (0..predicted / sequence).map(|window| window * sequence).collect();
    let rest = predicted % sequence;
    let whole = (0..starts.len().div_ceil(batch)).map(move |index| {
        let last = starts.len().min((index + 1) * batch);
        Batch::of(stream, sequence, &starts[index * batch..last])
    });
    let rest = (rest > 0).then(|| Batch::of(stream, rest, &[predicted - rest]));
    Ok(whole.chain(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counting(tokens: usize) -> TokenStream {
        TokenStream::from_tokens((0..tokens as u32).collect())
    }

    #[test]
    fn the_first_window_is_the_stream_and_the_stream_shifted() {
        let stream = counting(7);
        let batches: Vec<_> = evaluation_batches(&stream, 2, 2).unwrap().collect();
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].inputs, [0, 1, 2, 3]);
        assert_eq!(batches[0].targets, [1, 2, 3, 4]);
        assert_eq!((batches[0].batch, batches[0].sequence), (2, 2));
        assert_eq!(
            (&batches[1].inputs[..], &batches[1].targets[..]),
            (&[4, 5][..], &[5, 6][..])
        );
    }

    #[test]
    fn forty_thousand_tokens_make_156_windows_and_a_rest_of_63() {
        let stream = counting(40_000);
        let batches: Vec<_> = evaluation_batches(&stream, 256, 8).unwrap().collect();
        assert_eq!(
            batches
                .iter()
                .filter(|batch| batch.sequence == 256)
                .map(|batch| batch.batch)
                .sum::<usize>(),
            156
        );
        let rest = batches.last().unwrap();
        assert_eq!((rest.batch, rest.sequence), (1, 63));
    }

    #[test]
    fn too_short_names_both_numbers() {
        let error = evaluation_batches(&counting(256), 256, 1).err().unwrap().to_string();
        assert!(error.contains("256 tokens") && error.contains("257"), "{error}");
        assert!(evaluation_batches(&counting(257), 256, 1).is_ok());
        assert!(evaluation_batches(&counting(9), 0, 1).is_err());
        assert!(evaluation_batches(&counting(9), 2, 0).is_err());
        assert!(evaluation_batches(&counting(9), usize::MAX, 1).is_err());
    }

    proptest! {
        #[test]
        fn every_token_but_the_first_is_predicted_once(tokens in 2usize..200, sequence in 1usize..50, batch in 1usize..9) {
            prop_assume!(tokens > sequence);
            let stream = counting(tokens);
            let mut predicted = Vec::new();
            for batch in evaluation_batches(&stream, sequence, batch).unwrap() {
                prop_assert_eq!(batch.inputs.len(), batch.batch * batch.sequence);
                prop_assert_eq!(batch.weights.len(), batch.inputs.len());
                prop_assert!(batch.inputs.iter().zip(&batch.targets).all(|(input, target)| input + 1 == *target));
                predicted.extend(batch.targets);
            }
            prop_assert_eq!(predicted, (1..tokens as u32).collect::<Vec<_>>());
        }
    }
}
