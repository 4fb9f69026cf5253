//! What was measured, and how it is shown.

use std::fmt;

use serde::Serialize;

use crate::commands::Failure;
use crate::console::{bytes, Output};
use crate::table::Table;

/// All that was measured.
#[derive(Serialize)]
struct Figures<'f> {
    /// The only result's figures, if there is one result.
    #[serde(flatten)]
    only: Option<&'f Measures>,
    results: &'f [Measured],
}

/// One model on one task.
#[derive(Serialize)]
pub struct Measured {
    pub model: String,
    pub weight_bytes: usize,
    pub task: &'static str,
    pub data: String,
    #[serde(flatten)]
    pub measures: Measures,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum Measures {
    Text {
        /// Tokens of a window.
        seq: usize,
        /// What saw nothing of the text before it in the same window.
        apart: &'static str,
        /// The same, for people.
        #[serde(skip)]
        windows: String,
        /// Tokens that are taken of the text at most.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_tokens: Option<usize>,
        perplexity: f64,
        tokens: u64,
        /// The same by bytes of the text, which models of other tokens have too; of text without a byte there is none.
        bits_per_byte: Option<f64>,
        /// Tells texts of tokens apart.
        #[serde(skip)]
        fingerprint: u64,
        /// Whether it is the beginning of the text alone.
        #[serde(skip)]
        is_cut: bool,
    },
    Choice {
        items: usize,
        few_shot: usize,
        /// Questions that are taken of the file at most.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
        acc: f64,
        acc_stderr: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        acc_norm: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        acc_norm_stderr: Option<f64>,
        /// Of models behind the first.
        #[serde(flatten)]
        difference: Option<Difference>,
        /// Of files of several subjects.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        subjects: Vec<Subject>,
        /// Questions that were longer than the model's context.
        shortened: usize,
    },
}

/// How much better a model is than the first one, question by question.
#[derive(Serialize)]
pub struct Difference {
    #[serde(skip)]
    pub first: String,
    pub acc_difference: f64,
    pub acc_difference_stderr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm_difference: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm_difference_stderr: Option<f64>,
}

/// One subject of several.
#[derive(Serialize)]
pub struct Subject {
    pub subject: String,
    pub items: usize,
    pub acc: f64,
    pub acc_stderr: Option<f64>,
}

/// On one line.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, model, .. } = self;
        write!(f, "{task}, {model}: ")?;
        let rows = self.measures.rows();
        let values: Vec<_> = rows
            .iter()
            .map(|(_, measure, value)| format!("{measure} {value}"))
            .collect();
        f.write_str(&values.join(", "))
    }
}

impl Measures {
    /// What it is of, what it is, its value.
    fn rows(&self) -> Vec<(String, &'static str, String)> {
        match self {
            Self::Text {
                perplexity,
                tokens,
                bits_per_byte,
                ..
            } => {
                let bits = bits_per_byte.map(|bits| (tokens.to_string(), "bits_per_byte", format!("{bits:.5}")));
                let perplexity = (tokens.to_string(), "perplexity", format!("{perplexity:.5}"));
                std::iter::once(perplexity).chain(bits).collect()
            }
            Self::Choice {
                items,
                acc,
                acc_stderr,
                acc_norm,
                acc_norm_stderr,
                ..
            } => {
                let by_length = acc_norm.map(|acc| (items.to_string(), "acc_norm", with_error(acc, *acc_norm_stderr)));
                let acc = (items.to_string(), "acc", with_error(*acc, *acc_stderr));
                std::iter::once(acc).chain(by_length).collect()
            }
        }
    }
}

/// Shows all figures, in either form.
///
/// # Errors
/// Standard output that cannot be written to.
pub fn show(output: Output, results: &[Measured]) -> Result<(), Failure> {
    show_table(output, results);
    // all are of the same length; that records are apart is said where there are any
    let of_windows = results.iter().filter_map(|result| match &result.measures {
        Measures::Text { windows, .. } => Some(windows),
        Measures::Choice { .. } => None,
    });
    if let Some(windows) = of_windows.max_by_key(|windows| windows.len()) {
        output.line(format!("perplexity {windows}"));
    }
    let of_texts = results.iter().filter_map(|result| match result.measures {
        Measures::Text { fingerprint, .. } => Some((&result.data, fingerprint)),
        Measures::Choice { .. } => None,
    });
    let mut texts: Vec<_> = of_texts.collect();
    texts.sort();
    texts.dedup();
    if texts.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        let cut = |result: &Measured| matches!(result.measures, Measures::Text { is_cut: true, .. });
        output.line(match results.iter().any(cut) {
            true => "the models have other tokens: their perplexities cannot be compared, and --max-tokens ends the text elsewhere for each",
            false => "the models have other tokens: their perplexities cannot be compared, bits_per_byte can, as far as begin and end tokens, which have no bytes, are few",
        });
    }
    for result in results {
        if let Measures::Choice {
            items,
            shortened,
            few_shot,
            ..
        } = result.measures
        {
            if shortened > 0 {
                let fewer = match few_shot {
                    0 => "",
                    _ => "; fewer examples (--few-shot) leave it",
                };
                output.line(format!(
                    "{}, {}: {shortened} of {items} questions are longer than the model's context and lost their beginning{fewer}",
                    result.task, result.model
                ));
            }
        }
    }
    show_differences(output, results);
    output.json(&Figures {
        only: match results {
            [only] => Some(&only.measures),
            _ => None,
        },
        results,
    })?;
    Ok(())
}

/// One line a model and task; models of the same task stand together. A task that is measured on several files has them named.
fn show_table(output: Output, results: &[Measured]) {
    let mut tasks: Vec<(&str, &str)> = Vec::new();
    for result in results {
        let key = (result.task, result.data.as_str());
        if !tasks.contains(&key) {
            tasks.push(key);
        }
    }
    let named = |result: &Measured| {
        let shots = match result.measures {
            Measures::Choice { few_shot, .. } if few_shot > 0 => format!(", {few_shot}-shot"),
            _ => String::new(),
        };
        match tasks.iter().filter(|(task, _)| *task == result.task).count() {
            1 => format!("{}{shots}", result.task),
            _ => format!("{} {}{shots}", result.task, result.data),
        }
    };
    let mut table = Table::new(["task", "model", "weights", "n", "measure", "value"]);
    for key in &tasks {
        for result in results.iter().filter(|r| (r.task, r.data.as_str()) == *key) {
            let weights = bytes(result.weight_bytes as u64);
            let mut row = |what: String, (count, measure, value): (String, &str, String)| {
                table.row([
                    what,
                    result.model.clone(),
                    weights.clone(),
                    count,
                    measure.to_owned(),
                    value,
                ]);
            };
            for measured in result.measures.rows() {
                row(named(result), measured);
            }
            if let Measures::Choice { subjects, .. } = &result.measures {
                for subject in subjects {
                    let acc = with_error(subject.acc, subject.acc_stderr);
                    row(
                        format!("  {}", subject.subject),
                        (subject.items.to_string(), "acc", acc),
                    );
                }
            }
        }
    }
    table.lines().for_each(|line| output.line(line));
}

/// A line each for how much better models are than the first one.
fn show_differences(output: Output, results: &[Measured]) {
    for result in results {
        let Measures::Choice {
            difference: Some(difference),
            ..
        } = &result.measures
        else {
            continue;
        };
        let signed = |value: f64, error: Option<f64>| {
            let sign = if value >= 0.0 { "+" } else { "" };
            format!("{sign}{}", with_error(value, error))
        };
        let acc = signed(difference.acc_difference, difference.acc_difference_stderr);
        let by_length = difference.acc_norm_difference.map_or(String::new(), |value| {
            format!(", acc_norm {}", signed(value, difference.acc_norm_difference_stderr))
        });
        output.line(format!(
            "{}, {} against {}, question by question: acc {acc}{by_length}",
            result.task, result.model, difference.first
        ));
    }
}

fn with_error(value: f64, standard_error: Option<f64>) -> String {
    match standard_error {
        Some(error) => format!("{value:.4} ± {error:.4}"),
        None => format!("{value:.4}"),
    }
}
