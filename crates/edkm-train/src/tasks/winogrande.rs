//! Winogrande: `dev.jsonl` with `sentence` (the gap is `_`), `option1`, `option2` and `answer`, or labels of 1 and 2.
//!
//! The harness fills the gap with each option and asks for the likelihood of the rest of the sentence ("partial evaluation").

use std::path::Path;

use super::{question::Choice, records, Question};
use crate::TrainError;

pub(super) fn read(data: &Path, labels: Option<&Path>) -> Result<Vec<Question>, TrainError> {
    records::read_lines(data, labels, |record, label| {
        let sentence = record.text("sentence")?;
        let (before, after) = sentence
            .split_once('_')
            .ok_or_else(|| record.place.error("sentence", "has no gap (_)"))?;
        let choice = |option: &str| Choice {
            context: format!("{before}{option}"),
            continuation: format!(" {}", after.trim()),
            characters: option.chars().count(),
        };
        let choices = vec![choice(record.text("option1")?), choice(record.text("option2")?)];
        Ok(Question {
            description: String::new(),
            subject: String::new(),
            gold: record.gold("answer", label, 1, choices.len())?,
            choices,
        })
    })
}
