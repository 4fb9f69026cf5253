//! Text that a compression looks at.

use crate::data::sampler::WindowSampler;
use crate::data::windows::Batch;
use crate::data::TokenStream;
use crate::TrainError;

/// Windows of a text, in an order that follows from a seed.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// The text.
    pub stream: &'a TokenStream,
    /// Tokens of a window.
    pub sequence: usize,
    /// Windows that are used; at most as many as the text has.
    pub windows: usize,
    /// Seed of their order.
    pub seed: u64,
}

/// Tokens of one forward pass: enough to fill the matrix kernels, little memory.
const TOKENS_TOGETHER: usize = 2048;

impl Calibration<'_> {
    /// The windows, several together.
    ///
    /// # Errors
    /// Text shorter than a window, or in which nothing counts; no window at all.
    pub fn batches(&self) -> Result<Vec<Batch>, TrainError> {
        self.batches_of(|_| self.together())
    }

    /// The windows, in so many batches or more, as far as there are windows.
    ///
    /// # Errors
    /// As [`Self::batches`].
    pub fn at_least(&self, batches: usize) -> Result<Vec<Batch>, TrainError> {
        self.batches_of(|windows| self.together().min(windows / batches.max(1)).max(1))
    }

    /// The windows, one by one.
    ///
    /// # Errors
    /// As [`Self::batches`].
    pub fn single_windows(&self) -> Result<Vec<Batch>, TrainError> {
        self.batches_of(|_| 1)
    }

    /// How many windows that is: those that are asked for, or as many as the text has.
    ///
    /// # Errors
    /// As [`Self::batches`].
    pub fn drawn(&self) -> Result<usize, TrainError> {
        self.sampler().map(|(_, windows)| windows)
    }

    /// The windows of one forward pass.
    fn together(&self) -> usize {
        (TOKENS_TOGETHER / self.sequence.max(1)).max(1)
    }

    /// The windows, as many together as `together` says of their number.
    fn batches_of(&self, together: impl Fn(usize) -> usize) -> Result<Vec<Batch>, TrainError> {
        let (mut sampler, windows) = self.sampler()?;
        let together = together(windows);
        Ok((0..windows)
            .step_by(together)
            .map(|first| sampler.next_batch(together.min(windows - first)))
            .collect())
    }

    /// What draws the windows, and how many.
    fn sampler(&self) -> Result<(WindowSampler<'_>, usize), TrainError> {
        if self.windows == 0 {
            return Err(TrainError::Setting {
                setting: "number of calibration windows",
                value: "0".into(),
                expected: "at least 1",
            });
        }
        let sampler = WindowSampler::new(self.stream, self.sequence, self.seed)?;
        let windows = self.windows.min(sampler.windows().max(1));
        Ok((sampler, windows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_comes_twice() {
        let stream = TokenStream::from_tokens((0..1000).collect());
        let calibration = Calibration {
            stream: &stream,
            sequence: 10,
            windows: 10_000,
            seed: 3,
        };
        let mut seen: Vec<u32> = calibration
            .batches()
            .unwrap()
            .into_iter()
            .flat_map(|b| b.inputs)
            .collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        assert!(count >= 980);
        assert_eq!(calibration.drawn().unwrap() * 10, count);
        assert!(Calibration {
            windows: 0,
            ..calibration
        }
        .batches()
        .is_err());
    }
    /// Errors of a mean over batches need several, also where the text has fewer windows than are asked for.
    #[test]
    fn few_windows_come_in_as_many_batches() {
        let stream = TokenStream::from_tokens((0..45).collect());
        let calibration = Calibration {
            stream: &stream,
            sequence: 10,
            windows: 128,
            seed: 0,
        };
        let windows = calibration.drawn().unwrap();
        assert!((3..=4).contains(&windows), "{windows}");
        assert_eq!(calibration.at_least(16).unwrap().len(), windows);
    }
}
