//! The figures of a run's steps, in memory and in its folder.

use std::path::{Path, PathBuf};

use crate::metrics::{self, MetricsWriter, StepMetrics};
use crate::TrainError;

/// All steps that are done. A line that cannot be written does not end the run, which is worth more: it is written with those behind it once that is possible.
pub(super) struct StepLog {
    path: PathBuf,
    writer: MetricsWriter,
    steps: Vec<StepMetrics>,
    /// Those that are in the file.
    written: usize,
    /// Whether the file may end with a part of a line.
    is_torn: bool,
}

impl StepLog {
    /// That of a run of which so many steps are done.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(super) fn resume(path: &Path, done: u64) -> Result<Self, TrainError> {
        let writer = MetricsWriter::resume(path, done)?;
        let steps = metrics::read(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            writer,
            written: steps.len(),
            steps,
            is_torn: false,
        })
    }

    /// The figures of the last step.
    pub(super) fn last(&self) -> Option<&StepMetrics> {
        self.steps.last()
    }

    /// Adds those of the next step.
    pub(super) fn add(&mut self, metrics: StepMetrics) {
        let was_behind = self.written < self.steps.len();
        self.steps.push(metrics);
        match self.catch_up() {
            Err(why) if !was_behind => {
                tracing::warn!(
                    "{why}; training goes on, and the figures of its steps are written once that is possible"
                );
            }
            _ => {}
        }
    }

    /// Has those of the last step once more, with what was measured behind it.
    pub(super) fn replace_last(&mut self, metrics: StepMetrics) {
        if self.steps.pop().is_some() {
            self.is_torn |= self.written > self.steps.len();
            self.written = self.written.min(self.steps.len());
        }
        self.add(metrics);
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// Lines that cannot be written yet.
    pub(super) fn sync(&mut self) -> Result<(), TrainError> {
        self.catch_up()?;
        self.writer.sync()
    }

    /// All of them.
    pub(super) fn into_steps(self) -> Vec<StepMetrics> {
        self.steps
    }

    /// Writes what is not yet.
    ///
    /// # Errors
    /// Lines that cannot be written yet.
    pub(super) fn catch_up(&mut self) -> Result<(), TrainError> {
        if self.is_torn {
            let next = self.steps.get(self.written).map_or(u64::MAX, |metrics| metrics.step);
            self.writer = MetricsWriter::resume(&self.path, next)?;
            self.is_torn = false;
        }
        while let Some(metrics) = self.steps.get(self.written) {
            self.writer.write(metrics).inspect_err(|_| self.is_torn = true)?;
            self.written += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let of = |step| StepMetrics {
            step,
            ..StepMetrics::default()
        };
        let mut log = StepLog::resume(&path, 0).unwrap();
        log.add(of(0));
        // as after a write that failed in the middle of a line, in a folder that is gone for a while
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole + "{\"st").unwrap();
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        log.is_torn = true;
        log.add(of(1));
        assert!(log.sync().is_err());
        log.add(of(2));
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        log.add(of(3));
        log.sync().unwrap();
        let steps = |path: &Path| metrics::read(path).unwrap().iter().map(|m| m.step).collect::<Vec<_>>();
        assert_eq!(steps(&path), [0, 1, 2, 3]);
        let measured = StepMetrics {
            validation_perplexity: Some(2.0),
            ..of(3)
        };
        log.replace_last(measured);
        assert_eq!(metrics::read(&path).unwrap()[3].validation_perplexity, Some(2.0));
        assert_eq!(log.into_steps().len(), 4);
        // a run that goes on from a checkpoint two steps before
        assert_eq!(StepLog::resume(&path, 2).unwrap().into_steps().len(), 2);
    }
}
