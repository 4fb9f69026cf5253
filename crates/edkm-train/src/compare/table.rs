//! The runs as a table: a row for each method and width, mean and spread over the seeds.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::conditions::Conditions;
use super::{plot, Planned, RunFigures, Width};
use crate::evaluate::perplexity_in_words;
use crate::files::write_whole;
use crate::TrainError;

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The model as it came.
    pub original: Original,
    /// By method and width.
    pub rows: Vec<Row>,
    /// What the rows are made of.
    pub runs: Vec<RunFigures>,
    /// What all of them have in common.
    pub conditions: Conditions,
}

/// The model as it came.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Original {
    /// On the validation text.
    pub perplexity: f64,
    /// Bytes of its weights' files.
    pub size_bytes: u64,
}

/// The runs of a method with one width.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The method.
    pub method: String,
    /// Bits that were asked for.
    #[serde(rename = "bits")]
    pub width: Option<f64>,
    /// Runs.
    pub runs: usize,
    /// Mean perplexity.
    pub perplexity: f64,
    /// Sample standard deviation over the seeds; none for a single run.
    pub deviation: Option<f64>,
    /// Mean bits a compressed weight, everything counted.
    pub bits_per_weight: Option<f64>,
    /// Mean bytes of the weights' file.
    pub size_bytes: u64,
    /// Mean wall time.
    pub seconds: f64,
}

impl Row {
    /// `None` of no run.
    fn of(runs: &[&RunFigures]) -> Option<Self> {
        let first = runs.first()?;
        let count = runs.len() as f64;
        let mean = |figure: &dyn Fn(&RunFigures) -> f64| runs.iter().map(|run| figure(run)).sum::<f64>() / count;
        let perplexity = mean(&|run| run.perplexity);
        let squares = runs
            .iter()
            .map(|run| (run.perplexity - perplexity).powi(2))
            .sum::<f64>();
        let bits = mean(&|run| run.bits_per_weight.unwrap_or(f64::NAN));
        Some(Self {
            method: first.method.clone(),
            width: first.width,
            runs: runs.len(),
            perplexity,
            deviation: (runs.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
            bits_per_weight: bits.is_finite().then_some(bits),
            size_bytes: mean(&|run| run.size_bytes as f64).round() as u64,
            seconds: mean(&|run| run.seconds),
        })
    }
}

impl Comparison {
    /// Takes those of the runs that were planned, in that order.
    pub(super) fn fill(&mut self, plan: &[Planned], done: &[RunFigures]) {
        let of = |planned: &Planned| done.iter().find(|run| planned.is(run));
        self.runs = plan.iter().filter_map(of).cloned().collect();
        let mut keys: Vec<(&str, Option<f64>)> = Vec::new();
        for planned in plan {
            let key = (planned.contender.name(), planned.width.map(Width::bits));
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let row = |&(method, width): &(&str, Option<f64>)| {
            let of_row = |run: &&RunFigures| run.method == method && run.width == width;
            Row::of(&self.runs.iter().filter(of_row).collect::<Vec<_>>())
        };
        self.rows = keys.iter().filter_map(row).collect();
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| method | bits | perplexity | runs | bits a weight | size (KiB) | seconds |\n|---|---|---|---|---|---|---|\n",
        );
        let kib = |bytes: u64| format!("{:.0}", bytes as f64 / 1024.0);
        let Original { perplexity, size_bytes } = self.original;
        // writing to a string cannot fail
        let _ = writeln!(
            text,
            "| original | | {} | | | {} | |",
            perplexity_in_words(perplexity),
            kib(size_bytes)
        );
        for row in &self.rows {
            let spread = row
                .deviation
                .map_or(String::new(), |spread| format!(" ± {}", perplexity_in_words(spread)));
            let _ = writeln!(
                text,
                "| {} | {} | {}{spread} | {} | {} | {} | {:.1} |",
                row.method,
                row.width.map_or(String::new(), |width| width.to_string()),
                perplexity_in_words(row.perplexity),
                row.runs,
                row.bits_per_weight.map_or(String::new(), |bits| format!("{bits:.3}")),
                kib(row.size_bytes),
                row.seconds,
            );
        }
        text
    }

    /// Table, numbers and plot.
    pub(super) fn write(&self, out: &Path) -> Result<(), TrainError> {
        let Conditions {
            steps,
            sequence,
            batch,
            windows,
            ..
        } = self.conditions;
        let notes = format!(
            "\nPerplexity: mean and standard deviation over the seeds, of the written model. Training: {steps} steps of {batch} x {sequence} tokens; methods \
             without training look at {windows} windows of {sequence} tokens at most. Bits a weight: of what is compressed, palettes, padding and factors \
             counted. Seconds: without measuring.\n"
        );
        write_whole(&out.join("table.md"), (self.markdown() + &notes).as_bytes())?;
        let path = out.join("compare.json");
        let json = serde_json::to_vec_pretty(self).map_err(|why| TrainError::io("write", &path)(why.into()))?;
        write_whole(&path, &json)?;
        let path = out.join("compare.svg");
        let drawing = plot::draw(self).map_err(|why| TrainError::io("draw", &path)(std::io::Error::other(why)))?;
        write_whole(&path, drawing.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_mean_and_the_deviation_of_its_runs() {
        let run = |perplexity: f64, seconds: f64| RunFigures {
            method: "dkm".into(),
            width: Some(3.0),
            seed: Some(0),
            perplexity,
            bits_per_weight: Some(3.25),
            size_bytes: 2048,
            seconds,
            original_perplexity: None,
        };
        let runs = [run(3.0, 1.0), run(3.5, 2.0), run(4.0, 6.0)];
        let row = Row::of(&runs.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((row.perplexity, row.deviation, row.seconds), (3.5, Some(0.5), 3.0));
        assert_eq!((row.bits_per_weight, row.size_bytes, row.runs), (Some(3.25), 2048, 3));
        assert_eq!(Row::of(&[&runs[1]]).unwrap().deviation, None);
        assert_eq!(Row::of(&[]), None);
    }
}
