//! The log likelihoods of all answers, a line each.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use edkm_train::tasks::{Answered, Task, TaskSet};
use serde::Serialize;

use crate::commands::Failure;

/// The file of `--log-samples`.
pub struct Samples {
    path: PathBuf,
    file: BufWriter<File>,
}

#[derive(Serialize)]
struct Sample<'s> {
    model: &'s str,
    task: &'static str,
    /// The file or folder that it is of.
    data: &'s str,
    item: usize,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'s str,
    gold: usize,
    log_likelihoods: &'s [f64],
    acc: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    acc_norm: Option<bool>,
}

impl Samples {
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|why| Self::failed(path, &why))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
        })
    }

    pub fn write(
        &mut self,
        model: &str,
        (task, data): (Task, &Path),
        set: &TaskSet,
        answered: &[Answered],
    ) -> Result<(), Failure> {
        let data = data.display().to_string();
        for (item, (question, answered)) in set.questions().iter().zip(answered).enumerate() {
            let sample = Sample {
                model,
                task: task.name(),
                data: &data,
                item,
                subject: &question.subject,
                gold: question.gold,
                log_likelihoods: &answered.log_likelihoods,
                acc: answered.likeliest() == question.gold,
                acc_norm: task
                    .has_normalized_accuracy()
                    .then(|| question.likeliest_by_length(answered) == question.gold),
            };
            let line = serde_json::to_string(&sample)?;
            writeln!(self.file, "{line}").map_err(|why| Self::failed(&self.path, &why))?;
        }
        // what is measured is there, whatever becomes of what follows
        self.file.flush().map_err(|why| Self::failed(&self.path, &why))
    }

    fn failed(path: &Path, why: &std::io::Error) -> Failure {
        format!("cannot write {}: {why}", path.display()).into()
    }
}
