//! A stream of tokens cut into sequences: what a model is given, and what it has to predict.

use std::ops::Range;

use super::packing::{pieces, Packed};
use super::TokenStream;
use crate::TrainError;

/// `B` sequences of `S` tokens and, for each token, the one that follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B * S]` tokens, row by row.
    pub inputs: Vec<u32>,
    /// `[B * S]` tokens to predict: those of the stream one place further on.
    pub targets: Vec<u32>,
    /// `[B * S]` weights of the predictions in the loss: 1, or 0 for the tokens of a prompt and the first ones of what is kept apart.
    pub weights: Vec<f32>,
    /// `B`.
    pub batch: usize,
    /// `S`.
    pub sequence: usize,
    /// Lengths of the stretches of `inputs` that do not see each other, each within a sequence (see [`Apart`](super::Apart)).
    pub stretches: Vec<u32>,
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
            stretches: Vec::new(),
        }
    }

    /// Adds the window of `S + 1` tokens that these pieces of the stream make, which see each other.
    pub(super) fn push(&mut self, stream: &TokenStream, pieces: impl Iterator<Item = Range<usize>>) {
        let begin = self.targets.len();
        for piece in pieces {
            // the first token of the window is given alone, the last one predicted alone
            let is_first = self.targets.len() == begin && self.inputs.len() == begin;
            self.inputs.extend(&stream.tokens()[piece.clone()]);
            self.predict(stream, piece.start + usize::from(is_first)..piece.end);
        }
        self.inputs.pop();
        self.stretches.push(self.sequence as u32);
        self.end_window();
    }

    /// Adds a window of pieces that do not see each other, `S` predictions at most: of each piece the first token is given alone, and the last one predicted
    /// alone. What room is left has the same pieces again, of which nothing counts: whoever counts positions does so on text as the window has it.
    pub(super) fn push_apart(&mut self, stream: &TokenStream, pieces: &[Range<usize>]) {
        let end = self.targets.len() + self.sequence;
        for (index, piece) in pieces.iter().cycle().enumerate() {
            let predicted = (piece.len() - 1).min(end - self.targets.len());
            if predicted == 0 {
                break;
            }
            let targets = piece.start + 1..piece.start + 1 + predicted;
            self.inputs.extend(&stream.tokens()[targets.start - 1..targets.end - 1]);
            self.stretches.push(predicted as u32);
            self.predict(stream, targets);
            if index >= pieces.len() {
                let from = self.weights.len() - predicted;
                self.weights[from..].fill(0.0);
            }
        }
        self.end_window();
    }

    fn predict(&mut self, stream: &TokenStream, targets: Range<usize>) {
        self.targets.extend(&stream.tokens()[targets.clone()]);
        self.weights
            .extend(targets.map(|position| if stream.counts(position) { 1.0 } else { 0.0 }));
    }

    fn end_window(&mut self) {
        self.batch += 1;
        let tokens = self.batch * self.sequence;
        debug_assert_eq!((self.inputs.len(), self.targets.len()), (tokens, tokens));
    }

    /// The batch of the windows that begin at `starts`.
    fn of(stream: &TokenStream, sequence: usize, starts: &[usize]) -> Self {
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

/// The batches over which perplexity is measured: every token but the first of what is kept apart is predicted exactly once.
///
/// Of a text: windows of `sequence + 1` tokens with stride `sequence`, of which the last token of one is the first of the next. What remains at the end, shorter
/// than a window, is predicted too, as a batch of one shorter sequence. All other batches have `batch` sequences, the last of them perhaps fewer.
///
/// Where something is kept apart, windows have pieces of it, whole but for what is longer than a window; those of which nothing counts are left out.
///
/// # Errors
/// As [`check_length`]; a batch of 0.
pub fn evaluation_batches(
    stream: &TokenStream,
    sequence: usize,
    batch: usize,
) -> Result<Box<dyn Iterator<Item = Batch> + '_>, TrainError> {
    check_length(stream, sequence, "the text")?;
    if batch == 0 {
        return Err(TrainError::Setting {
            setting: "batch",
            value: "0".into(),
            expected: "at least 1",
        });
    }
    let together = move |windows: usize| {
        (0..windows)
            .step_by(batch)
            .map(move |first| first..windows.min(first + batch))
    };
    if stream.is_kept_apart() {
        let packed = Packed::of(pieces(stream, sequence, |_| 0), sequence);
        return Ok(Box::new(together(packed.len()).map(move |windows| {
            let mut batch = Batch::new(sequence);
            windows.for_each(|window| batch.push_apart(stream, packed.window(window)));
            batch
        })));
    }
    let predicted = stream.len() - 1;
    let whole = together(predicted / sequence).map(move |windows| {
        let starts: Vec<usize> = windows.map(|window| window * sequence).collect();
        Batch::of(stream, sequence, &starts)
    });
    let rest = predicted % sequence;
    let rest = (rest > 0).then(|| Batch::of(stream, rest, &[predicted - rest]));
    Ok(Box::new(whole.chain(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Apart;
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

    /// What a batch says of its stretches, and which of its predictions count.
    fn cut(stream: &TokenStream, sequence: usize) -> Vec<(Vec<u32>, Vec<usize>)> {
        let batches = evaluation_batches(stream, sequence, 1).unwrap();
        let cut = batches.map(|batch| {
            let counts = (0..batch.sequence).filter(|&at| batch.weights[at] == 1.0);
            (batch.stretches.clone(), counts.collect())
        });
        cut.collect()
    }

    #[test]
    fn records_are_stretches_of_their_own_and_their_first_tokens_are_not_predicted() {
        // records of 3 tokens: 0 1 2, 3 4 5, 6 7 8, 9 10 11
        let records = TokenStream::of_records((0..12).collect(), vec![true; 12], 3);
        assert_eq!(records.counted(), 12 - 4);
        // two of them whole; the second time without room for a second one, and what there is of the first does not count again
        let two = (vec![2, 2], vec![0, 1, 2, 3]);
        assert_eq!(cut(&records, 4), [two.clone(), two]);
        let one = (vec![2, 1], vec![0, 1]);
        assert_eq!(cut(&records, 3), [one.clone(), one.clone(), one.clone(), one]);
        let batch = evaluation_batches(&records, 5, 2).unwrap().next().unwrap();
        assert_eq!(batch.inputs, [0, 1, 3, 4, 0, 6, 7, 9, 10, 6]);
        assert_eq!(batch.targets, [1, 2, 4, 5, 1, 7, 8, 10, 11, 7]);
        assert_eq!(batch.weights, [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        let together = records.with_apart(Apart::Nothing);
        assert_eq!(together.counted(), 12);
        assert_eq!(cut(&together, 4)[0], (vec![4], vec![0, 1, 2, 3]));
    }

    #[test]
    fn documents_of_a_text_see_each_other_unless_they_are_kept_apart() {
        let mut text = TokenStream::of_records((0..12).collect(), vec![true; 12], 3);
        text.make_one_text();
        assert_eq!(cut(&text, 4)[0], (vec![4], vec![0, 1, 2, 3]));
        assert_eq!(
            cut(&text.with_apart(Apart::Documents), 4)[0],
            (vec![2, 2], vec![0, 1, 2, 3])
        );
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
