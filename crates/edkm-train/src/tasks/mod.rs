//! Multiple-choice tasks, by the rules of EleutherAI's lm-evaluation-harness (version 0.4).
//!
//! | module | what |
//! |---|---|
//! | `piqa`, `hellaswag`, `winogrande`, `arc`, `mmlu` | a data set's own published files as questions, one file a task |
//! | `records` | JSON lines, CSV and label files, with errors that name file, line and field |
//! | [`question`] | a question, its answers, and the solved examples in front of it |
//! | [`evaluate`](fn@evaluate) | log likelihoods of the answers |
//! | [`score`] | accuracy, plain and by length, with standard errors |
//!
//! A model answers with the continuation to which it gives the greatest likelihood. A question whose answers are given in their
//! context (Winogrande) has one continuation and as many contexts.

use std::path::{Path, PathBuf};

use crate::TrainError;

mod arc;
mod evaluate;
mod hellaswag;
mod mmlu;
mod piqa;
pub mod question;
mod records;
pub mod score;
#[cfg(test)]
mod tests;
mod winogrande;

pub use evaluate::{evaluate, Answered};
pub use question::{Question, TaskSet};
pub use score::{Estimate, Scores};

/// A data set that models are compared on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// PIQA (arXiv 1911.11641): which of two solutions reaches a goal. `valid.jsonl` and `valid-labels.lst`.
    Piqa,
    /// HellaSwag (arXiv 1905.07830): which of four endings follows. `hellaswag_val.jsonl`.
    HellaSwag,
    /// Winogrande (arXiv 1907.10641): which of two names fills the gap. `dev.jsonl`.
    Winogrande,
    /// The easy set of ARC (arXiv 1803.05457): science questions. `ARC-Easy-Test.jsonl`.
    ArcEasy,
    /// The challenge set of ARC. `ARC-Challenge-Test.jsonl`.
    ArcChallenge,
    /// MMLU (arXiv 2009.03300): questions of 57 subjects. A file such as `anatomy_test.csv`, or the folder `test`.
    Mmlu,
}

impl Task {
    /// The name in the harness.
    pub fn name(self) -> &'static str {
        match self {
            Self::Piqa => "piqa",
            Self::HellaSwag => "hellaswag",
            Self::Winogrande => "winogrande",
            Self::ArcEasy => "arc_easy",
            Self::ArcChallenge => "arc_challenge",
            Self::Mmlu => "mmlu",
        }
    }

    /// Whether accuracy by length is one of the task's measures.
    pub fn has_normalized_accuracy(self) -> bool {
        !matches!(self, Self::Winogrande | Self::Mmlu)
    }

    /// Reads a task's published files. `labels` is for answers that come in a file of their own (PIQA, Winogrande, HellaSwag).
    ///
    /// # Errors
    /// A file that cannot be read, or a record that is not of this task: with file, line and field.
    pub fn read(self, data: &Path, labels: Option<&Path>) -> Result<Vec<Question>, TrainError> {
        let questions = match self {
            Self::Piqa => piqa::read(data, labels),
            Self::HellaSwag => hellaswag::read(data, labels),
            Self::Winogrande => winogrande::read(data, labels),
            Self::ArcEasy | Self::ArcChallenge => self.without_labels(labels).and_then(|()| arc::read(data)),
            Self::Mmlu => self.without_labels(labels).and_then(|()| mmlu::read(data)),
        }?;
        match questions.is_empty() {
            true => Err(TrainError::TaskFile {
                path: data.to_path_buf(),
                reason: format!("no question of {}", self.name()),
            }),
            false => Ok(questions),
        }
    }

    fn without_labels(self, labels: Option<&Path>) -> Result<(), TrainError> {
        match labels.map(PathBuf::from) {
            None => Ok(()),
            Some(path) => Err(TrainError::TaskFile {
                path,
                reason: format!("{} has its answers in the data file; leave the labels out", self.name()),
            }),
        }
    }
}
