//! What a run has met that was not finite, and how often it may go on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{NonFiniteCounts, MOST_IN_A_ROW, MOST_ROLLBACKS};
use crate::TrainError;

/// What was not finite lately.
#[derive(Default)]
pub(super) struct Mishaps {
    pub(super) counts: NonFiniteCounts,
    /// Steps that were left out since the last that was made.
    pub(super) in_a_row: u64,
    /// How often the run went back to the checkpoint of a step.
    back_to: BTreeMap<u64, u64>,
}

impl Mishaps {
    /// None in this process, and those before it.
    pub(super) fn since(counts: NonFiniteCounts) -> Self {
        Self {
            counts,
            ..Self::default()
        }
    }

    /// Leaves a step out, unless too many were before it.
    pub(super) fn leave_out(&mut self, error: TrainError) -> Result<(), TrainError> {
        self.in_a_row += 1;
        if self.in_a_row > MOST_IN_A_ROW {
            return Err(TrainError::NonFinite {
                what: format!("{MOST_IN_A_ROW} steps before it were left out for the same reason"),
                source: Box::new(error),
            });
        }
        self.counts.skipped += 1;
        tracing::warn!("{error}; the step is left out");
        Ok(())
    }

    /// The checkpoint to go back to, with what `newest_before` has of it beside its path and step: the newest that the run has not gone back to too often, as
    /// one may hold what went wrong.
    pub(super) fn go_back<T>(
        &mut self,
        error: TrainError,
        newest_before: impl Fn(u64) -> Option<(PathBuf, u64, T)>,
    ) -> Result<(PathBuf, T), TrainError> {
        let (mut before, mut tried) = (u64::MAX, None);
        while let Some((path, step, found)) = newest_before(before) {
            let times = self.back_to.entry(step).or_default();
            if *times < MOST_ROLLBACKS {
                *times += 1;
                self.counts.rollbacks += 1;
                tracing::warn!("{error}; going back to {}", path.display());
                return Ok((path, found));
            }
            tried.get_or_insert(path);
            before = step;
        }
        Err(TrainError::NonFinite {
            what: match tried {
                None => "there is no checkpoint to go back to yet".to_owned(),
                Some(path) => format!(
                    "the run went back to {} {MOST_ROLLBACKS} times before, and there is none before it that it could go back to",
                    path.display()
                ),
            },
            source: Box::new(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> TrainError {
        TrainError::LossNotFinite {
            step: 7,
            loss: f64::NAN,
            tensor: Some("the output of layer 3".to_owned()),
        }
    }

    #[test]
    fn steps_are_left_out_until_too_many_follow_each_other() {
        let mut mishaps = Mishaps::default();
        for _ in 0..MOST_IN_A_ROW {
            mishaps.leave_out(error()).unwrap();
        }
        let refused = mishaps.leave_out(error()).unwrap_err().to_string();
        for part in ["step 8", "NaN", "the output of layer 3", "16 steps"] {
            assert!(refused.contains(part), "{refused}");
        }
        mishaps.in_a_row = 0;
        mishaps.leave_out(error()).unwrap();
        assert_eq!(mishaps.counts.skipped, MOST_IN_A_ROW + 1);
    }

    #[test]
    fn a_checkpoint_that_fails_again_and_again_leaves_the_one_before_it() {
        let mut mishaps = Mishaps::default();
        let mut back = |there: &[u64]| {
            let newest = |before| {
                let step = there.iter().copied().filter(|&step| step < before).max()?;
                Some((PathBuf::from(format!("step-{step}")), step, step))
            };
            mishaps.go_back(error(), newest).map(|(_, step)| step)
        };
        let none = back(&[]).unwrap_err().to_string();
        assert!(none.contains("no checkpoint to go back to"), "{none}");
        // a newer one may be gone back to as often
        for step in [4, 8] {
            for _ in 0..MOST_ROLLBACKS {
                assert_eq!(back(&[2, 4, step]).unwrap(), step);
            }
        }
        // neither 8, also if it is another by now, nor 4
        for _ in 0..MOST_ROLLBACKS {
            assert_eq!(back(&[2, 4, 8]).unwrap(), 2);
        }
        let refused = back(&[2, 4, 8]).unwrap_err().to_string();
        assert!(refused.contains("step-8 3 times"), "{refused}");
        assert_eq!(mishaps.counts.rollbacks, 3 * MOST_ROLLBACKS);
    }
}
