//! ARC: `ARC-Easy-Test.jsonl` or `ARC-Challenge-Test.jsonl` with `question` (`stem` and `choices` of `label` and `text`) and
//! `answerKey`; or as Hugging Face's data sets have it, with `question` as a text and lists `label` and `text` in `choices`.

use std::path::Path;

use serde_json::Value;

use super::{records, Question};
use crate::TrainError;

pub(super) fn read(data: &Path) -> Result<Vec<Question>, TrainError> {
    records::read_lines(data, None, |record, _| {
        let place = record.place;
        let (mut labels, mut answers) = (Vec::new(), Vec::new());
        let stem = match record.get("question") {
            Some(Value::Object(question)) => {
                for choice in place.list("question.choices", question.get("choices"))? {
                    labels.push(place.text("question.choices.label", choice.get("label"))?);
                    answers.push(place.text("question.choices.text", choice.get("text"))?);
                }
                place.text("question.stem", question.get("stem"))?
            }
            Some(Value::String(stem)) => {
                let texts = |field: &str, key: &str| {
                    let list = place.list(field, record.get("choices").and_then(|choices| choices.get(key)))?;
                    let texts = list.iter().map(|value| place.text(field, Some(value)));
                    texts.collect::<Result<Vec<_>, _>>()
                };
                labels = texts("choices.label", "label")?;
                answers = texts("choices.text", "text")?;
                if labels.len() != answers.len() {
                    let (labels, answers) = (labels.len(), answers.len());
                    return Err(place.error("choices", format!("has {labels} labels and {answers} texts")));
                }
                stem
            }
            None => return Err(place.error("question", "is missing")),
            Some(_) => {
                return Err(place.error(
                    "question",
                    "is neither an object with \"stem\" and \"choices\" nor a text",
                ))
            }
        };
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
