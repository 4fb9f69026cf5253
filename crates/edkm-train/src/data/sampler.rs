//! The order of the training data, which can be saved at any step and resumed to the same batches.
//!
//! An epoch cuts the stream into windows of `S + 1` tokens with stride `S`, from a random offset below `S` (so that the cuts
//! fall elsewhere in every epoch), and goes through them in random order. Offset and order follow from the seed and the
//! number of the epoch alone, so the position of a run is three numbers.

use serde::{Deserialize, Serialize};

use super::windows::{check_length, Batch};
use super::TokenStream;
use crate::random::{below, generator, shuffle};
use crate::TrainError;

/// Where a run is in its data. What a run checkpoint saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The seed that the order follows from.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Windows of this epoch that have been used.
    pub used: u64,
    /// Tokens in a sequence.
    pub sequence: u64,
    /// [`TokenStream::fingerprint`] of the data.
    pub data: u64,
}

/// Draws batches of windows for ever.
///
/// A batch that reaches the end of an epoch goes on in the next, so all have `B` sequences. Memory: 8 bytes a window.
#[derive(Clone, Debug)]
pub struct WindowSampler<'a> {
    stream: &'a TokenStream,
    position: Position,
    /// Where the windows of this epoch begin, in the order of the epoch.
    starts: Vec<usize>,
}

impl<'a> WindowSampler<'a> {
    /// A sampler at the beginning of its first epoch.
    ///
    /// # Errors
    /// Data of fewer than `sequence + 1` tokens, or none of which counts in the loss.
    pub fn new(stream: &'a TokenStream, sequence: usize, seed: u64) -> Result<Self, TrainError> {
        let position = Position {
            seed,
            epoch: 0,
            used: 0,
            sequence: sequence as u64,
            data: stream.fingerprint(),
        };
        Self::at(stream, sequence, position)
    }

    /// A sampler that goes on where another one was when its [`Self::position`] was saved.
    ///
    /// # Errors
    /// As [`Self::new`]; [`TrainError::Position`] if the data or the sequence length are not those of the saved position.
    pub fn resume(stream: &'a TokenStream, sequence: usize, saved: Position) -> Result<Self, TrainError> {
        let same = |what, saved, current| match saved == current {
            true => Ok(()),
            false => Err(TrainError::Position { what, saved, current }),
        };
        same("sequence length", saved.sequence, sequence as u64)?;
        same("data fingerprint", saved.data, stream.fingerprint())?;
        let sampler = Self::at(stream, sequence, saved)?;
        // The largest position that this epoch has is what a position beyond it is compared with.
        same(
            "number of windows used",
            saved.used,
            saved.used.min(sampler.starts.len() as u64),
        )?;
        Ok(sampler)
    }

    /// The next batch of `batch` sequences.
    pub fn next_batch(&mut self, batch: usize) -> Batch {
        let mut chosen = Vec::with_capacity(batch);
        while chosen.len() < batch {
            let rest = &self.starts[self.position.used as usize..];
            let taken = rest.len().min(batch - chosen.len());
            chosen.extend(&rest[..taken]);
            self.position.used += taken as u64;
            if taken == rest.len() {
                self.position.epoch += 1;
                self.position.used = 0;
                self.starts = epoch_starts(self.stream, self.position);
            }
        }
        Batch::of(self.stream, self.position.sequence as usize, &chosen)
    }

    /// Where the sampler is: what comes next follows from this and the data alone.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Windows in the present epoch.
    pub fn windows(&self) -> usize {
        self.starts.len()
    }

    fn at(stream: &'a TokenStream, sequence: usize, position: Position) -> Result<Self, TrainError> {
        check_length(stream, sequence, "the text")?;
        if !(1..stream.len()).any(|target| stream.counts(target)) {
            return Err(TrainError::NothingToLearn { tokens: stream.len() });
        }
        Ok(Self {
            stream,
            position,
            starts: epoch_starts(stream, position),
        })
    }
}

/// The windows of an epoch in its order. Windows in which nothing counts (all of it prompt) are left out; an epoch may
/// be empty when few tokens count, but not all of them: the offsets together reach every token.
fn epoch_starts(stream: &TokenStream, position: Position) -> Vec<usize> {
    let sequence = position.sequence as usize;
    let mut random = generator(position.seed, position.epoch);
    let predicted = stream.len() - 1;
    let offsets = sequence.min(predicted - sequence + 1);
    let offset = below(&mut random, offsets as u64) as usize;
    let mut starts: Vec<usize> = (0..(predicted - offset) / sequence)
        .map(|window| offset + window * sequence)
        .filter(|start| (start + 1..=start + sequence).any(|target| stream.counts(target)))
        .collect();
    shuffle(&mut random, &mut starts);
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counting(tokens: usize) -> TokenStream {
        TokenStream::from_tokens((0..tokens as u32).collect())
    }

    #[test]
    fn an_epoch_uses_every_window_once() {
        let stream = counting(1001);
        let mut sampler = WindowSampler::new(&stream, 10, 3).unwrap();
        let windows = sampler.windows();
        assert!((99..=100).contains(&windows));
        let mut seen = sampler.next_batch(windows).inputs;
        assert_eq!((sampler.position().epoch, sampler.position().used), (1, 0));
        let order = seen.clone();
        seen.sort_unstable();
        assert_ne!(order, seen, "windows come in random order");
        assert!(
            seen.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "a window came twice, or not at all"
        );
    }

    #[test]
    fn a_batch_larger_than_the_data_goes_round() {
        let stream = counting(5);
        let mut sampler = WindowSampler::new(&stream, 4, 0).unwrap();
        let batch = sampler.next_batch(3);
        assert_eq!((batch.batch, sampler.position().epoch), (3, 3));
        assert_eq!(batch.inputs, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn offsets_change_from_epoch_to_epoch() {
        let stream = counting(500);
        let mut sampler = WindowSampler::new(&stream, 50, 1).unwrap();
        let offsets: std::collections::BTreeSet<u32> = (0..20)
            .map(|_| {
                let windows = sampler.windows();
                sampler.next_batch(windows).inputs.iter().min().copied().unwrap()
            })
            .collect();
        assert!(offsets.len() > 5, "{offsets:?}");
    }

    #[test]
    fn the_order_of_a_seed_is_fixed() {
        let stream = counting(100);
        let starts = |seed| {
            WindowSampler::new(&stream, 7, seed)
                .unwrap()
                .next_batch(5)
                .inputs
                .into_iter()
                .step_by(7)
        };
        assert_eq!(
            starts(42).collect::<Vec<_>>(),
            PINNED,
            "a changed order changes every run"
        );
        assert_ne!(starts(43).collect::<Vec<_>>(), PINNED);
    }
    const PINNED: [u32; 5] = [26, 61, 12, 5, 40];

    #[test]
    fn other_data_or_settings_are_refused() {
        let (stream, other) = (counting(100), counting(101));
        let position = WindowSampler::new(&stream, 7, 0).unwrap().position();
        assert!(WindowSampler::resume(&stream, 7, position).is_ok());
        let error = WindowSampler::resume(&other, 7, position).unwrap_err();
        assert!(
            matches!(
                error,
                TrainError::Position {
                    what: "data fingerprint",
                    ..
                }
            ),
            "{error}"
        );
        let error = WindowSampler::resume(&stream, 8, position).unwrap_err();
        assert!(
            matches!(
                error,
                TrainError::Position {
                    what: "sequence length",
                    saved: 7,
                    current: 8
                }
            ),
            "{error}"
        );
        let beyond = Position { used: 1000, ..position };
        assert!(WindowSampler::resume(&stream, 7, beyond).is_err());
    }

    proptest! {
        #[test]
        fn a_resumed_run_draws_the_same_batches(
            tokens in 2usize..120, sequence in 1usize..20, batch in 1usize..9, before in 0usize..40, seed: u64,
        ) {
            prop_assume!(tokens > sequence);
            let stream = counting(tokens);
            let mut undisturbed = WindowSampler::new(&stream, sequence, seed).unwrap();
            for _ in 0..before {
                undisturbed.next_batch(batch);
            }
            let saved = serde_json::to_string(&undisturbed.position()).unwrap();
            let mut resumed = WindowSampler::resume(&stream, sequence, serde_json::from_str(&saved).unwrap()).unwrap();
            for _ in 0..10 {
                prop_assert_eq!(undisturbed.next_batch(batch), resumed.next_batch(batch));
            }
        }
    }
}
