//! HellaSwag: `hellaswag_val.jsonl` with `activity_label`, `ctx_a`, `ctx_b`, `endings` and `label`.

use std::path::Path;

use super::{records, Question};
use crate::TrainError;

pub(super) fn read(data: &Path, labels: Option<&Path>) -> Result<Vec<Question>, TrainError> {
    records::read_lines(data, labels, |record, label| {
        let begun = format!("{} {}", record.text("ctx_a")?, capitalized(record.text("ctx_b")?));
        let context = cleaned(&format!("{}: {begun}", record.text("activity_label")?));
        let endings: Vec<String> = record.texts("endings")?.into_iter().map(cleaned).collect();
        let gold = record.gold("label", label, 0, endings.len())?;
        Ok(Question::new(&context, &endings, gold))
    })
}

/// As Python's `str.capitalize`, by which the harness joins the sentences: all but the first letter become small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Without the marks of WikiHow texts: `[title]`, `[step]` and their like.
pub(super) fn cleaned(text: &str) -> String {
    without_brackets(&text.trim().replace(" [title]", ". ")).replace("  ", " ")
}

/// Leaves out what stands in brackets on one line.
fn without_brackets(text: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(open) = rest.find('[') {
        match rest[open..].find([']', '\n']) {
            Some(close) if rest[open + close..].starts_with(']') => {
                kept.push_str(&rest[..open]);
                rest = &rest[open + close + 1..];
            }
            _ => {
                kept.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    kept + rest
}
