//! The log likelihoods of all answers, a line each.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use edkm_llama::files::{canonical, partial_prefix};
use edkm_train::tasks::{Answered, Task, TaskSet};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::commands::Failure;
use crate::console::note;

/// The file of `--log-samples`. What was there before stays until all is measured.
pub struct Samples {
    /// The file behind links.
    path: PathBuf,
    file: Option<Target>,
    is_empty: bool,
}

/// Where the lines are written.
enum Target {
    /// A pipe, or what is no file.
    Itself(File),
    /// A file that takes its place at the end.
    Beside(NamedTempFile),
}

impl Target {
    fn file(&self) -> &File {
        match self {
            Self::Itself(file) => file,
            Self::Beside(file) => file.as_file(),
        }
    }
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
        let failed = |why| Self::failed(path, &why);
        // `/dev/stdout` is whatever file that leads to, which is not to be another one
        let is_special = ["/dev", "/proc"].iter().any(|special| path.starts_with(special));
        let is_file = path.metadata().map_or(true, |about| about.is_file());
        if is_special || !is_file {
            return Ok(Self {
                path: path.to_path_buf(),
                file: Some(Target::Itself(File::create(path).map_err(failed)?)),
                is_empty: true,
            });
        }
        let path = canonical(path).unwrap_or_else(|_| path.to_path_buf());
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let mut builder = tempfile::Builder::new();
        let prefix = partial_prefix(&path);
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
        Ok(Self {
            path,
            file: Some(Target::Beside(file)),
            is_empty: true,
        })
    }

    /// Puts the file in its place.
    pub fn finish(mut self) -> Result<(), Failure> {
        match self.file.take() {
            Some(Target::Beside(file)) => match file.persist(&self.path) {
                Ok(_) => Ok(()),
                Err(error) => {
                    self.file = Some(Target::Beside(error.file));
                    Err(Self::failed(&self.path, &error.error))
                }
            },
            _ => Ok(()),
        }
    }

    pub fn write(
        &mut self,
        model: &str,
        (task, data): (Task, &Path),
        set: &TaskSet,
        answered: &[Answered],
    ) -> Result<(), Failure> {
        let data = data.display().to_string();
        let Some(target) = &self.file else {
            return Ok(());
        };
        let mut file = BufWriter::new(target.file());
        self.is_empty = false;
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
            writeln!(file, "{line}").map_err(|why| Self::failed(&self.path, &why))?;
        }
        // what is measured is there, whatever becomes of what follows
        file.flush().map_err(|why| Self::failed(&self.path, &why))
    }

    fn failed(path: &Path, why: &std::io::Error) -> Failure {
        format!("cannot write {}: {why}", path.display()).into()
    }
}

impl Drop for Samples {
    /// What was measured before something failed is kept beside.
    fn drop(&mut self) {
        if let (Some(Target::Beside(file)), false) = (self.file.take(), self.is_empty) {
            if let Ok((_, kept)) = file.keep() {
                note(format_args!("the log likelihoods so far are in {}", kept.display()));
            }
        }
    }
}
