//! ARC: `ARC-Easy-Test.jsonl` or `ARC-Challenge-Test.jsonl` with `question` (`stem` and `choices` of `label` and `text`) and
//! `answerKey`.

use std::path::Path;

use serde_json::Value;

use super::{records, Question};
use crate::TrainError;

pub(super) fn read(data: &Path) -> Result<Vec<Question>, TrainError> {
    records::read_lines(data, None, |record, _| {
        let place = record.place;
        let question = match record.get("question") {
            Some(Value::Object(question)) => question,
            None => return Err(place.error("question", "is missing")),
            Some(_) => return Err(place.error("question", "is not an object with \"stem\" and \"choices\"")),
        };
        let stem = place.text("question.stem", question.get("stem"))?;
        let (mut labels, mut answers) = (Vec::new(), Vec::new());
        for choice in place.list("question.choices", question.get("choices"))? {
            labels.push(place.text("question.choices.label", choice.get("label"))?);
            answers.push(place.text("question.choices.text", choice.get("text"))?);
        }
        let key = record.text("answerKey")?;
        let gold = labels.iter().position(|&label| label == key);
        let gold = gold.ok_or_else(|| {
            place.error(
                "answerKey",
                format!("is {key:?}; the answers are {}", labels.join(", ")),
            )
        })?;
        Ok(Question::new(&format!("Question: {stem}\nAnswer:"), &answers, gold))
    })
}
