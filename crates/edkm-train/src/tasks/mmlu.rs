//! MMLU: `SUBJECT_test.csv` (or `_dev`, `_val`), six columns without a header: the question, four answers, and the letter of the
//! right one. A folder stands for all its files. Or JSON lines as Hugging Face's data set has them: `question`, `subject`, `choices`, and in `answer` the
//! number of the right one, from 0.

use std::path::Path;

use super::{records, Question};
use crate::TrainError;

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// The columns, for messages.
const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

pub(super) fn read(data: &Path) -> Result<Vec<Question>, TrainError> {
    match data
        .extension()
        .is_some_and(|ending| ending == "jsonl" || ending == "json")
    {
        true => read_lines(data),
        false => read_tables(data),
    }
}

fn read_lines(data: &Path) -> Result<Vec<Question>, TrainError> {
    let mut questions = records::read_lines(data, None, |record, _| {
        let answers = record.texts("choices")?;
        if answers.len() != LETTERS.len() {
            return Err(record
                .place
                .error("choices", format!("has {} answers, not 4", answers.len())));
        }
        let gold = record.gold("answer", None, 0, answers.len())?;
        Ok(question(
            &record.text("subject")?.replace('_', " "),
            record.text("question")?,
            &answers,
            gold,
        ))
    })?;
    questions.sort_by(|a, b| a.subject.cmp(&b.subject));
    Ok(questions)
}

fn read_tables(data: &Path) -> Result<Vec<Question>, TrainError> {
    let mut questions = Vec::new();
    for file in records::csv_files(data)? {
        let subject = subject(&file);
        questions.extend(records::read_csv(&file, |place, row| {
            if row.len() > COLUMNS.len() {
                return Err(place.error("answer", format!("is followed by more: {} columns, not 6", row.len())));
            }
            let mut columns = [""; COLUMNS.len()];
            for ((column, name), value) in columns.iter_mut().zip(COLUMNS).zip(0..) {
                *column = row.get(value).ok_or_else(|| place.error(name, "is missing"))?;
            }
            let [question, answers @ .., key] = columns;
            let gold = LETTERS.iter().position(|&letter| letter == key.trim());
            let gold = gold.ok_or_else(|| place.error("answer", format!("is {key:?}; expected A, B, C or D")))?;
            Ok(self::question(&subject, question, &answers, gold))
        })?);
    }
    Ok(questions)
}

/// A question with the answers' letters in front of them.
fn question(subject: &str, question: &str, answers: &[&str], gold: usize) -> Question {
    let lines: String = LETTERS
        .iter()
        .zip(answers)
        .map(|(letter, answer)| format!("{letter}. {answer}\n"))
        .collect();
    Question {
        description: format!("The following are multiple choice questions (with answers) about {subject}.\n\n"),
        subject: subject.to_owned(),
        ..Question::new(&format!("{}\n{lines}Answer:", question.trim()), &LETTERS, gold)
    }
}

/// "abstract algebra" of `abstract_algebra_test.csv`.
fn subject(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let subject = ["_test", "_dev", "_val"]
        .iter()
        .find_map(|part| stem.strip_suffix(part))
        .unwrap_or(&stem);
    subject.replace('_', " ")
}
