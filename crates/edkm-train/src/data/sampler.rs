//! The order of the training data, which can be saved at any step and resumed to the same batches.
//!
//! An epoch cuts a text into windows of `S + 1` tokens with stride `S`, from a random offset below `S` (so that the cuts fall elsewhere in every epoch); what is kept
//! apart it packs into windows whole, of one length in random order. It goes through them in random order. All of it follows from the seed and
//! the number of the epoch alone, so the position of a run is three numbers.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::packing::{pieces, Packed};
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
/// A batch that reaches the end of an epoch goes on in the next, so all have `B` sequences. Memory: 8 bytes a window; of what is packed 16, and 16 a record.
#[derive(Clone, Debug)]
pub struct WindowSampler<'a> {
    stream: &'a TokenStream,
    position: Position,
    epoch: Epoch,
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
        if saved.data != stream.fingerprint() {
            return Err(TrainError::Changed { what: "training text" });
        }
        let sampler = Self::at(stream, sequence, saved)?;
        // The largest position that this epoch has is what a position beyond it is compared with.
        same(
            "number of windows used",
            saved.used,
            saved.used.min(sampler.windows() as u64),
        )?;
        Ok(sampler)
    }

    /// The next batch of `batch` sequences.
    pub fn next_batch(&mut self, batch: usize) -> Batch {
        let sequence = self.position.sequence as usize;
        let mut chosen = Batch::new(sequence);
        while chosen.batch < batch {
            let used = self.position.used as usize;
            let end = self.epoch.len().min(used + batch - chosen.batch);
            for window in used..end {
                self.epoch.push_to(&mut chosen, self.stream, window);
            }
            self.position.used = end as u64;
            if end == self.epoch.len() {
                self.position.epoch += 1;
                self.position.used = 0;
                self.epoch = Epoch::new(self.stream, self.position);
            }
        }
        chosen
    }

    /// Where the sampler is: what comes next follows from this and the data alone.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Windows in the present epoch.
    pub fn windows(&self) -> usize {
        self.epoch.len()
    }

    fn at(stream: &'a TokenStream, sequence: usize, position: Position) -> Result<Self, TrainError> {
        check_length(stream, sequence, "the text")?;
        if !(1..stream.len()).any(|target| stream.counts(target)) {
            return Err(TrainError::NothingToLearn { tokens: stream.len() });
        }
        Ok(Self {
            stream,
            position,
            epoch: Epoch::new(stream, position),
        })
    }
}

/// What the epochs of a run read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The share of the text; what is left out are windows and records in which nothing counts.
    pub(crate) share: f64,
    /// The windows of an epoch.
    pub(crate) windows: f64,
}

impl Reading {
    /// That of a run of these settings: the mean of its first epochs.
    pub(crate) fn of(stream: &TokenStream, sequence: usize, seed: u64) -> Self {
        const EPOCHS: u64 = 4;
        let tokens = stream.len() as f64;
        if stream.len() <= sequence || sequence == 0 {
            return Self {
                share: 1.0,
                windows: tokens / sequence.max(1) as f64,
            };
        }
        let epoch = |epoch| {
            let position = Position {
                seed,
                epoch,
                used: 0,
                sequence: sequence as u64,
                data: 0,
            };
            Epoch::new(stream, position)
        };
        // records are about as many windows in one epoch as in the next
        let first = epoch(0);
        if let Windows::Packed(packed) = &first.windows {
            let given_alone = stream.stretches(0..stream.len()).count();
            return Self {
                share: packed.predicted() as f64 / (stream.len() - given_alone).max(1) as f64,
                windows: packed.len() as f64,
            };
        }
        let (mut drawn, mut all) = (first.len(), first.all);
        if stream.counted() < stream.len() {
            for epoch in (1..EPOCHS).map(epoch) {
                drawn += epoch.len();
                all += epoch.all;
            }
        }
        let share = drawn as f64 / all.max(1) as f64;
        Self {
            share,
            // a text of which nothing is read the first times is gone through all the same
            windows: tokens * if share > 0.0 { share } else { 1.0 } / sequence as f64,
        }
    }
}

/// The windows of an epoch.
#[derive(Clone, Debug)]
struct Epoch {
    windows: Windows,
    /// Windows that there are, those in which nothing counts among them.
    all: usize,
}

/// Windows in the order in which they are drawn.
#[derive(Clone, Debug)]
enum Windows {
    /// Of a text, and where they begin in it.
    OfText(Order, Vec<usize>),
    Packed(Packed),
}

impl Epoch {
    /// Windows in which nothing counts (all of it prompt) are left out; an epoch may be empty when few tokens count, but not all of them: the offsets
    /// together reach every token.
    fn new(stream: &TokenStream, position: Position) -> Self {
        let sequence = position.sequence as usize;
        let mut random = generator(position.seed, position.epoch);
        if stream.is_kept_apart() {
            let shorter = |spare: usize| below(&mut random, spare as u64 + 1) as usize;
            let mut pieces = pieces(stream, sequence, shorter);
            shuffle(&mut random, &mut pieces);
            let mut packed = Packed::of(pieces, sequence);
            shuffle(&mut random, packed.windows_mut());
            return Self {
                all: packed.len(),
                windows: Windows::Packed(packed),
            };
        }
        let predicted = stream.len() - 1;
        let offsets = sequence.min(predicted - sequence + 1);
        let offset = below(&mut random, offsets as u64) as usize;
        let mut parts: Vec<Range<usize>> = stream.parts().collect();
        // of a single one nothing is drawn
        shuffle(&mut random, &mut parts);
        let order = Order::of(&parts);
        let all = (predicted - offset) / sequence;
        let counts = |start: &usize| {
            let mut targets = order.pieces(start + 1..start + sequence + 1).flatten();
            targets.any(|target| stream.counts(target))
        };
        let windows = (0..all).map(|window| offset + window * sequence);
        let mut starts: Vec<usize> = windows.filter(counts).collect();
        shuffle(&mut random, &mut starts);
        Self {
            windows: Windows::OfText(order, starts),
            all,
        }
    }

    fn len(&self) -> usize {
        match &self.windows {
            Windows::OfText(_, starts) => starts.len(),
            Windows::Packed(packed) => packed.len(),
        }
    }

    /// Adds a window to a batch.
    fn push_to(&self, batch: &mut Batch, stream: &TokenStream, window: usize) {
        match &self.windows {
            Windows::OfText(order, starts) => {
                let start = starts[window];
                batch.push(stream, order.pieces(start..start + batch.sequence + 1));
            }
            Windows::Packed(packed) => batch.push_apart(stream, packed.window(window)),
        }
    }
}

/// The text of an epoch: the parts of a stream in an order of their own.
#[derive(Clone, Debug)]
struct Order {
    /// Where each part begins in it, and where in the stream.
    parts: Vec<[usize; 2]>,
    tokens: usize,
}

impl Order {
    /// The text in which these parts follow each other.
    fn of(parts: &[Range<usize>]) -> Self {
        let mut tokens = 0;
        let parts = parts.iter().map(|part| {
            let begin = tokens;
            tokens += part.len();
            [begin, part.start]
        });
        Self {
            parts: parts.collect(),
            tokens,
        }
    }

    /// Where in the stream a range of the text lies.
    fn pieces(&self, mut range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut part = self.parts.partition_point(|[begin, _]| *begin <= range.start);
        std::iter::from_fn(move || {
            if range.is_empty() {
                return None;
            }
            let [begin, from] = self.parts[part - 1];
            let end = self
                .parts
                .get(part)
                .map_or(self.tokens, |[next, _]| *next)
                .min(range.end);
            let piece = from + range.start - begin..from + end - begin;
            range.start = end;
            part += 1;
            Some(piece)
        })
    }
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

    /// Records of 7 tokens whose numbers follow each other.
    fn records(count: usize) -> TokenStream {
        let tokens: Vec<u32> = (0..7 * count as u32).collect();
        let counted = vec![true; tokens.len()];
        TokenStream::of_records(tokens, counted, 7)
    }

    /// Which records share a window of 20 predictions, of which each has 6.
    #[test]
    fn records_are_whole_and_have_other_neighbours_in_every_epoch() {
        let stream = records(60);
        let mut sampler = WindowSampler::new(&stream, 20, 3).unwrap();
        assert_eq!(sampler.windows(), 20);
        let mut neighbours = Vec::new();
        for _ in 0..3 {
            let batch = sampler.next_batch(sampler.windows());
            assert_eq!(batch.stretches, [6, 6, 6, 2].repeat(20));
            let mut pairs = Vec::new();
            let mut counted: Vec<u32> = Vec::new();
            for window in 0..batch.batch {
                let at = 20 * window..20 * window + 20;
                let (inputs, targets) = (&batch.inputs[at.clone()], &batch.targets[at.clone()]);
                assert!(inputs.iter().zip(targets).all(|(input, &target)| input + 1 == target));
                assert_eq!(inputs[..2], inputs[18..], "room that is left has what is there");
                assert_eq!(batch.weights[at], [[1.0; 18].as_slice(), &[0.0; 2]].concat());
                counted.extend(&targets[..18]);
                pairs.push([inputs[0] / 7, inputs[6] / 7, inputs[12] / 7]);
            }
            assert!(!counted.is_sorted(), "the order of the file");
            counted.sort_unstable();
            let want: Vec<u32> = (0..420).filter(|token| token % 7 > 0).collect();
            assert_eq!(counted, want, "each is predicted once, the first of each record never");
            neighbours.push(pairs);
        }
        let together = |epoch: usize, pair: [u32; 2]| {
            let mut windows = neighbours[epoch].iter();
            windows.any(|window| pair.iter().all(|record| window.contains(record)))
        };
        let again = |a: usize, b: usize| neighbours[a].iter().filter(|w| together(b, [w[0], w[1]])).count();
        assert!(again(0, 1) < 5 && again(1, 2) < 5, "{neighbours:?}");
        // a text keeps its order
        let text = counting(420);
        let batch = WindowSampler::new(&text, 20, 3).unwrap().next_batch(18);
        assert!(batch
            .inputs
            .iter()
            .zip(&batch.targets)
            .all(|(input, target)| input + 1 == *target));
    }

    #[test]
    fn long_records_are_cut_elsewhere_in_every_epoch() {
        let stream = TokenStream::of_lengths(&[31, 31]);
        let mut sampler = WindowSampler::new(&stream, 20, 1).unwrap();
        let cuts: std::collections::BTreeSet<u32> = (0..20)
            .flat_map(|_| {
                let batch = sampler.next_batch(sampler.windows());
                assert_eq!(batch.counted(), 60.0);
                let begin = |at: &mut usize, &len: &u32| Some(std::mem::replace(at, *at + len as usize));
                let begins = batch.stretches.iter().scan(0, begin).map(|at| batch.inputs[at] % 31);
                begins.filter(|&input| input > 0).collect::<Vec<_>>()
            })
            .collect();
        assert!(cuts.len() > 5, "{cuts:?}");
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
            matches!(error, TrainError::Changed { what: "training text" }),
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
            tokens in 2usize..120, sequence in 1usize..20, batch in 1usize..9, before in 0usize..40, seed: u64, are_records: bool,
        ) {
            prop_assume!(tokens > sequence);
            let stream = match are_records {
                true => records(tokens.div_ceil(7)),
                false => counting(tokens),
            };
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
