//! What was measured, and how it is shown.

use std::path::{Path, PathBuf};

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
    pub data: PathBuf,
    #[serde(flatten)]
    pub measures: Measures,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum Measures {
    Text {
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
        acc: f64,
        acc_stderr: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        acc_norm: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        acc_norm_stderr: Option<f64>,
        /// Questions that were longer than the model's context.
        shortened: usize,
    },
}

/// Shows all figures, in either form.
///
/// # Errors
/// Standard output that cannot be written to.
pub fn show(output: Output, results: &[Measured]) -> Result<(), Failure> {
    show_table(output, results);
    let texts = |result: &Measured| match result.measures {
        Measures::Text { fingerprint, .. } => Some((result.data.clone(), fingerprint)),
        Measures::Choice { .. } => None,
    };
    let mut texts: Vec<_> = results.iter().filter_map(texts).collect();
    texts.sort();
    texts.dedup();
    if texts.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        let cut = |result: &Measured| matches!(result.measures, Measures::Text { is_cut: true, .. });
        output.line(match results.iter().any(cut) {
            true => "the models have other tokens: their perplexities cannot be compared, and --max-tokens ends the text elsewhere for each",
            false => "the models have other tokens: their perplexities cannot be compared, bits_per_byte can",
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
    output.json(&Figures {
        only: match results {
            [only] => Some(&only.measures),
            _ => None,
        },
        results,
    })?;
    Ok(())
}

/// One line a model and task; models of the same task stand together.
fn show_table(output: Output, results: &[Measured]) {
    let mut table = Table::new(["task", "model", "weights", "n", "measure", "value"]);
    let mut tasks: Vec<(&str, &Path)> = Vec::new();
    for result in results {
        let key = (result.task, result.data.as_path());
        if !tasks.contains(&key) {
            tasks.push(key);
        }
    }
    for key in tasks {
        for result in results.iter().filter(|r| (r.task, r.data.as_path()) == key) {
            let mut row = |count: String, measure: &str, value: String| {
                table.row([
                    result.task.to_owned(),
                    result.model.clone(),
                    bytes(result.weight_bytes as u64),
                    count,
                    measure.to_owned(),
                    value,
                ]);
            };
            match &result.measures {
                Measures::Text {
                    perplexity,
                    tokens,
                    bits_per_byte,
                    ..
                } => {
                    row(tokens.to_string(), "perplexity", format!("{perplexity:.5}"));
                    if let Some(bits) = bits_per_byte {
                        row(tokens.to_string(), "bits_per_byte", format!("{bits:.5}"));
                    }
                }
                Measures::Choice {
                    items,
                    acc,
                    acc_stderr,
                    acc_norm,
                    acc_norm_stderr,
                    ..
                } => {
                    row(items.to_string(), "acc", with_error(*acc, *acc_stderr));
                    if let Some(acc_norm) = acc_norm {
                        row(items.to_string(), "acc_norm", with_error(*acc_norm, *acc_norm_stderr));
                    }
                }
            }
        }
    }
    table.lines().for_each(|line| output.line(line));
}

fn with_error(value: f64, standard_error: Option<f64>) -> String {
    match standard_error {
        Some(error) => format!("{value:.4} ± {error:.4}"),
        None => format!("{value:.4}"),
    }
}
