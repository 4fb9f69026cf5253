//! `metrics.jsonl`: one JSON object a step, there to be read while the run goes on and after it broke off.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{files, TrainError};

/// One line of `metrics.jsonl`. Numbers that are not finite are written as `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step, from 0: one less than the number that messages have for it.
    pub step: u64,
    /// The mean negative log likelihood over the step's tokens that count, in nats, before its update, whatever else the step learned from
    /// ([`crate::run::Objective`]); `null` for a step that was left out.
    pub loss: Option<f64>,
    /// The learning rate that the step used; 0 for a step that was left out, as are the numbers of tokens.
    pub learning_rate: f64,
    /// The temperature of the soft assignment; absent while nothing is clustered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// L2 norm of the whole gradient before clipping.
    pub gradient_norm: Option<f64>,
    /// Tokens the model was given in this step.
    pub tokens: u64,
    /// Tokens a second, smoothed over the last steps.
    pub tokens_per_second: f64,
    /// Largest number of bytes that the store has held for a backward pass since the process began.
    pub saved_bytes: u64,
    /// Resident memory of the process after the step, in bytes; `null` where the system does not tell.
    #[serde(default)]
    pub rss_bytes: Option<u64>,
    /// Most resident memory the process has had, in bytes; `null` where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
    /// Perplexity on the validation text, at the steps after which it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_perplexity: Option<f64>,
}

/// Appends to `metrics.jsonl`. Every line is with the operating system when [`Self::write`] returns.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

/// No line of ours comes near this length; a longer one is not ours.
const LINE_LIMIT: u64 = 64 << 10;

impl MetricsWriter {
    /// Begins a new file; one that is there is emptied.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let file = File::create(path).map_err(TrainError::io("create", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Goes on with the file of a run that resumes at `step`: the lines of this step and later ones, and what a crash left of
    /// a line, are dropped. A file that is not there is begun.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn resume(path: &Path, step: u64) -> Result<Self, TrainError> {
        if !path.exists() {
            return Self::create(path);
        }
        let kept: u64 = LinesBefore::new(path, step)?
            .map(|line| line.map(|(_, length)| length))
            .sum::<Result<_, _>>()?;
        let mut file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(TrainError::io("open", path))?;
        file.set_len(kept)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(TrainError::io("write", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::io("sync", &self.path))
    }

    /// Writes the line of a step, whole.
    ///
    /// # Errors
    /// If the file cannot be written (a full disk).
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(metrics).map_err(|why| TrainError::io("write", &self.path)(why.into()))?;
        line.push(b'\n');
        // One call for one line: a reader never sees half of it, and nothing is left in a buffer of ours.
        self.file.write_all(&line).map_err(TrainError::io("write", &self.path))
    }
}

/// All whole lines of a metrics file, in order; reading ends at the first that is not one.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>, TrainError> {
    LinesBefore::new(path, u64::MAX)?
        .map(|line| line.map(|(metrics, _)| metrics))
        .collect()
}

/// The lines of steps before a given one, each with its length in bytes.
struct LinesBefore<'p> {
    path: &'p Path,
    reader: BufReader<File>,
    step: u64,
}

impl<'p> LinesBefore<'p> {
    fn new(path: &'p Path, step: u64) -> Result<Self, TrainError> {
        Ok(Self {
            path,
            reader: BufReader::new(files::open(path)?),
            step,
        })
    }
}

impl Iterator for LinesBefore<'_> {
    type Item = Result<(StepMetrics, u64), TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        if let Err(why) = (&mut self.reader).take(LINE_LIMIT).read_until(b'\n', &mut line) {
            return Some(Err(TrainError::io("read", self.path)(why)));
        }
        if line.last() != Some(&b'\n') {
            return None;
        }
        let metrics: StepMetrics = serde_json::from_slice(&line).ok()?;
        (metrics.step < self.step).then_some(Ok((metrics, line.len() as u64)))
    }
}

/// Tokens a second, smoothed so that the number can be read, and the time that remains.
#[derive(Clone, Debug, Default)]
pub struct Throughput {
    /// Exponentially weighted sums over the steps so far.
    tokens: f64,
    seconds: f64,
}

impl Throughput {
    /// What a step keeps of those before it: about the last twenty count.
    const MEMORY: f64 = 0.95;

    /// Takes a step into account.
    pub fn add(&mut self, tokens: u64, time: Duration) {
        self.tokens = self.tokens * Self::MEMORY + tokens as f64;
        self.seconds = self.seconds * Self::MEMORY + time.as_secs_f64();
    }

    /// Tokens a second; 0 before the first step.
    pub fn tokens_per_second(&self) -> f64 {
        if self.seconds > 0.0 {
            self.tokens / self.seconds
        } else {
            0.0
        }
    }

    /// The time that `tokens` more will take at this rate; `None` before the first step.
    pub fn remaining(&self, tokens: u64) -> Option<Duration> {
        let rate = self.tokens_per_second();
        (rate > 0.0).then(|| Duration::try_from_secs_f64(tokens as f64 / rate).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            loss: Some(1.25),
            learning_rate: 1e-3,
            temperature: (step > 0).then_some(0.5),
            gradient_norm: Some(0.5),
            tokens: 2048,
            tokens_per_second: 1e4,
            saved_bytes: 100,
            rss_bytes: None,
            peak_rss_bytes: None,
            validation_perplexity: None,
        }
    }

    #[test]
    fn one_object_a_line_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        (0..3).for_each(|number| writer.write(&step(number)).unwrap());
        // Not closed: the lines are there while the run goes on.
        assert_eq!(read(&path).unwrap(), (0..3).map(step).collect::<Vec<_>>());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 3);
        assert!(text.contains("\"peak_rss_bytes\":null") && !text.lines().next().unwrap().contains("temperature"));
    }

    #[test]
    fn a_loss_that_is_not_finite_is_null() {
        let line = serde_json::to_string(&StepMetrics {
            loss: Some(f64::NAN),
            ..step(0)
        })
        .unwrap();
        assert!(line.contains("\"loss\":null"), "{line}");
        assert_eq!(serde_json::from_str::<StepMetrics>(&line).unwrap().loss, None);
    }

    #[test]
    fn resuming_drops_later_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut undisturbed = MetricsWriter::create(&path).unwrap();
        (0..6).for_each(|number| undisturbed.write(&step(number)).unwrap());
        // or Windows keeps the name when the file is removed
        drop(undisturbed);
        let whole = std::fs::read(&path).unwrap();
        for torn in [0, 1, 40] {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let mut writer = MetricsWriter::resume(&path, 4).unwrap();
            (4..6).for_each(|number| writer.write(&step(number)).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        // Torn before the step of the checkpoint: what is there stays, the gap shows in the step numbers.
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        MetricsWriter::resume(&path, 5).unwrap().write(&step(5)).unwrap();
        assert_eq!(
            read(&path).unwrap().iter().map(|line| line.step).collect::<Vec<_>>(),
            [0, 1, 2, 5]
        );
        std::fs::remove_file(&path).unwrap();
        MetricsWriter::resume(&path, 5).unwrap().write(&step(5)).unwrap();
        assert_eq!(read(&path).unwrap(), [step(5)]);
    }

    #[test]
    fn throughput_is_a_mean_of_the_last_steps() {
        let mut meter = Throughput::default();
        assert_eq!((meter.tokens_per_second(), meter.remaining(10)), (0.0, None));
        (0..10).for_each(|_| meter.add(100, Duration::from_millis(500)));
        assert!((meter.tokens_per_second() - 200.0).abs() < 1e-9);
        assert_eq!(meter.remaining(400), Some(Duration::from_secs(2)));
        (0..200).for_each(|_| meter.add(100, Duration::from_secs(1)));
        assert!(
            (meter.tokens_per_second() - 100.0).abs() < 0.1,
            "the first steps are forgotten"
        );
    }
}
