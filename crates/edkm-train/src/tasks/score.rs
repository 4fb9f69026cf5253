//! Accuracy and its standard error, as the harness computes them.

use serde::Serialize;

use super::{Answered, Question, TaskSet};

/// A share of right answers, or a difference of two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// From 0 to 1; of a difference from -1.
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
        Right::of(set, answered).scores(set.subjects())
    }

    /// Those of each subject, in the set's order.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn by_subject(set: &TaskSet, answered: &[Answered]) -> Vec<(String, Self)> {
        let right = Right::of(set, answered);
        let mut first = 0;
        let of_subject = |&size: &usize| {
            let questions = first..first + size;
            first = questions.end;
            let part = |values: &[f64]| values[questions.clone()].to_vec();
            let right = Right {
                plain: part(&right.plain),
                by_length: part(&right.by_length),
            };
            (set.questions()[questions.start].subject.clone(), right.scores(&[size]))
        };
        set.subjects().iter().map(of_subject).collect()
    }

    /// By how much one model's answers to a set are better than another's: the accuracies are those of the one less those of the other, and the standard errors
    /// those of the differences question by question. Models that mostly agree differ less by chance than each one's own error says.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn difference(set: &TaskSet, answered: &[Answered], from: &[Answered]) -> Self {
        let (one, other) = (Right::of(set, answered), Right::of(set, from));
        let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        let difference = Right {
            plain: less(&one.plain, &other.plain),
            by_length: less(&one.by_length, &other.by_length),
        };
        difference.scores(set.subjects())
    }
}

/// 1 for each question that is answered rightly, 0 for others; or a difference of these.
struct Right {
    plain: Vec<f64>,
    by_length: Vec<f64>,
}

impl Right {
    fn of(set: &TaskSet, answered: &[Answered]) -> Self {
        assert_eq!(set.questions().len(), answered.len(), "one answer a question");
        let right = |chosen: fn(&Question, &Answered) -> usize| {
            let answers = set.questions().iter().zip(answered);
            let is_right = |(question, answered): (&Question, _)| chosen(question, answered) == question.gold;
            answers.map(|answer| f64::from(u8::from(is_right(answer)))).collect()
        };
        Self {
            plain: right(|_, answered| answered.likeliest()),
            by_length: right(Question::likeliest_by_length),
        }
    }

    fn scores(&self, subjects: &[usize]) -> Scores {
        Scores {
            items: self.plain.len(),
            accuracy: Estimate::pooled(&self.plain, subjects),
            normalized_accuracy: Estimate::pooled(&self.by_length, subjects),
        }
    }
}

impl Question {
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
    fn pooled(values: &[f64], subjects: &[usize]) -> Self {
        let count = values.len() as f64;
        // sum of the squares around each subject's own mean
        let (mut squares, mut first) = (0.0, 0);
        for &size in subjects {
            let values = &values[first..first + size];
            let mean = values.iter().sum::<f64>() / size as f64;
            squares += values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
            first += size;
        }
        let freedom = count - subjects.len() as f64;
        Self {
            value: values.iter().sum::<f64>() / count,
            standard_error: (freedom > 0.0).then(|| (squares / freedom / count).sqrt()),
        }
    }
}
