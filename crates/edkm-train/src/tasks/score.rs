//! Accuracy and its standard error, as the harness computes them.

use serde::Serialize;

use super::{Answered, TaskSet};

/// A share of right answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// From 0 to 1.
    pub value: f64,
    /// Standard error of the mean, pooled over the subjects; `None` for a subject of a single question.
    pub standard_error: Option<f64>,
}

/// How well a model answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Questions.
    pub items: usize,
    /// The answer with the greatest likelihood is the right one.
    pub accuracy: Estimate,
    /// The answer whose log likelihood, divided by its number of characters, is greatest.
    pub normalized_accuracy: Estimate,
}

impl Scores {
    /// The scores of a set's answers, which are in its order.
    ///
    /// # Panics
    /// If there are not as many as questions.
    pub fn new(set: &TaskSet, answered: &[Answered]) -> Self {
        assert_eq!(set.questions().len(), answered.len(), "one answer a question");
        let right = |chosen: fn(&TaskSet, usize, &Answered) -> usize| -> Vec<bool> {
            let answers = answered.iter().enumerate();
            answers
                .map(|(i, answered)| chosen(set, i, answered) == set.questions()[i].gold)
                .collect()
        };
        let plain = right(|_, _, answered| answered.likeliest());
        let normalized = right(|set, i, answered| set.questions()[i].likeliest_by_length(answered));
        Self {
            items: answered.len(),
            accuracy: Estimate::pooled(&plain, set.subjects()),
            normalized_accuracy: Estimate::pooled(&normalized, set.subjects()),
        }
    }
}

impl super::Question {
    /// The number of the answer that is likeliest for its length in characters.
    pub fn likeliest_by_length(&self, answered: &Answered) -> usize {
        let by_length = self.choices.iter().zip(&answered.log_likelihoods);
        first_greatest(by_length.map(|(choice, log_likelihood)| log_likelihood / choice.characters as f64))
    }
}

impl Answered {
    /// The number of the likeliest answer.
    pub fn likeliest(&self) -> usize {
        first_greatest(self.log_likelihoods.iter().copied())
    }
}

/// The first of the greatest numbers.
fn first_greatest(values: impl Iterator<Item = f64>) -> usize {
    let greatest = values
        .enumerate()
        .reduce(|best, next| if next.1 > best.1 { next } else { best });
    greatest.map_or(0, |(index, _)| index)
}

impl Estimate {
    /// The mean over all, and the standard error from the variances inside the subjects.
    fn pooled(right: &[bool], subjects: &[usize]) -> Self {
        let count = right.len() as f64;
        let value = right.iter().filter(|&&right| right).count() as f64 / count;
        // sum of the squares around each subject's own mean
        let (mut squares, mut first) = (0.0, 0);
        for &size in subjects {
            let right = right[first..first + size].iter().filter(|&&right| right).count() as f64;
            squares += right * (1.0 - right / size as f64);
            first += size;
        }
        let freedom = count - subjects.len() as f64;
        Self {
            value,
            standard_error: (freedom > 0.0).then(|| (squares / freedom / count).sqrt()),
        }
    }
}
