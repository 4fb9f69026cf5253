//! PIQA: `valid.jsonl` with `goal`, `sol1`, `sol2`, and `valid-labels.lst` with 0 or 1 a line.

use std::path::Path;

use super::{records, Question};
use crate::TrainError;

pub(super) fn read(data: &Path, labels: Option<&Path>) -> Result<Vec<Question>, TrainError> {
    records::read_lines(data, labels, |record, label| {
        let context = format!("Question: {}\nAnswer:", record.text("goal")?);
        let answers = [record.text("sol1")?, record.text("sol2")?];
        let gold = record.gold("label", label, 0, answers.len())?;
        Ok(Question::new(&context, &answers, gold))
    })
}
