//! How a run is shown: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use edkm_train::run::estimate::Estimate;
use edkm_train::run::{Observer, Stage, StepReport, TimeLeft};
use edkm_train::TrainError;
use indicatif::{ProgressBar, ProgressStyle};

use crate::commands::dry_run;
use crate::console::{note, Output};
use crate::interrupts::Interrupts;
use crate::run_log::{RunLog, PROGRESS};

/// Plain lines come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How long a disk without room for a checkpoint is left before the next try, and how often.
const TRIED_EVERY: Duration = Duration::from_secs(5);
const MOST_TRIES: u32 = 360;

/// Shows a run.
pub struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    terminal: bool,
    last_line: Instant,
    last_logged: Option<Instant>,
    interrupts: Interrupts,
    log: Option<RunLog>,
    /// To write the checkpoint of a run that is to end.
    tries: u32,
}

impl Progress {
    /// On standard error if that is a terminal, in plain lines if not.
    pub fn new(output: Output) -> Self {
        Self {
            output,
            bar: None,
            terminal: std::io::stderr().is_terminal(),
            last_line: Instant::now(),
            last_logged: None,
            interrupts: Interrupts::default(),
            log: None,
            tries: 0,
        }
    }

    /// Keeps a log in the run's folder.
    pub fn with_log(mut self, log: RunLog) -> Self {
        self.log = Some(log);
        self
    }

    /// The first interrupt or terminate signal ends the run where nothing is lost; the second ends the process at once.
    pub fn with_signals(mut self) -> std::io::Result<Self> {
        self.interrupts = Interrupts::listen()?;
        Ok(self)
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            self.interrupts.show_above(None);
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Observer for Progress {
    fn interrupted(&self) -> bool {
        self.interrupts.asked()
    }

    fn try_again(&mut self, why: &TrainError) -> bool {
        if self.tries == 0 {
            self.clear();
            let mend = if why.is_full() { "make room" } else { "mend that" };
            note(format_args!(
                "{why}; what was trained is in memory alone: {mend}, and it is tried again every {} seconds for half an hour (a signal ends the process, and it is lost)",
                TRIED_EVERY.as_secs()
            ));
        }
        self.tries += 1;
        std::thread::sleep(TRIED_EVERY);
        self.tries <= MOST_TRIES
    }

    fn folder(&mut self, path: &Path) {
        if let Some(Err(why)) = self.log.as_ref().map(|log| log.open_in(path)) {
            tracing::warn!("no log in {}: {why}", path.display());
        }
    }

    fn estimate(&mut self, estimate: &Estimate) {
        let line = dry_run::line(estimate);
        tracing::info!(target: PROGRESS, "{line}");
        self.output.progress(line);
    }

    fn stage(&mut self, stage: Stage) {
        self.clear();
        tracing::info!(target: PROGRESS, "{}", stage.title());
        if self.terminal {
            let bar = ProgressBar::new(1000);
            let style = ProgressStyle::with_template("{prefix:32} [{bar:30}] {msg}");
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar.set_prefix(stage.title());
            self.bar = Some(bar);
        } else {
            self.output.progress(stage.title());
        }
        self.interrupts.enter(stage);
        self.interrupts.show_above(self.bar.clone());
        self.last_line = Instant::now();
    }

    fn progress(&mut self, share: f64) {
        match &self.bar {
            Some(bar) => bar.set_position((share * 1000.0) as u64),
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.output.progress(format!("  {:.0} %", 100.0 * share));
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    fn step(&mut self, report: &StepReport) {
        let done = report.outcome.step + 1;
        let remaining = report.remaining.map_or("?".to_owned(), in_words);
        let text = format!(
            "step {done}/{}  loss {:.4}  {:.0} tokens/s  {remaining} left",
            report.steps, report.outcome.loss, report.tokens_per_second
        );
        if self.last_logged.is_none_or(|last| last.elapsed() >= LINE_EVERY) || done == report.steps {
            tracing::info!(target: PROGRESS, "{text}");
            self.last_logged = Some(Instant::now());
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(1000 * done / report.steps.max(1));
                bar.set_message(text);
            }
            None if self.last_line.elapsed() >= LINE_EVERY || done == 1 || done == report.steps => {
                self.output.progress(format!("  {text}"));
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    fn meanwhile(&mut self, line: &str) {
        tracing::info!(target: PROGRESS, "{line}");
        let say = || self.output.progress(format!("  {line}"));
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    fn result(&mut self, line: &str) {
        tracing::info!(target: PROGRESS, "{line}");
        let title = self.bar.as_ref().map(ProgressBar::prefix);
        self.clear();
        match title {
            Some(title) => self.output.progress(format!("{title}: {line}")),
            None => self.output.progress(format!("  {line}")),
        }
    }
}

/// The time that is left.
fn in_words(left: TimeLeft) -> String {
    let (more_than, left) = match left {
        TimeLeft::About(left) => ("", left),
        TimeLeft::MoreThan(left) => ("more than ", left),
    };
    let seconds = left.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let left = match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {:02}s", seconds % 60),
        _ => format!("{hours}h {:02}m", minutes % 60),
    };
    format!("{more_than}{left}")
}

/// A bar over a known number of things, which goes when it is dropped; lines where standard error is no terminal.
pub struct Counter {
    name: String,
    total: usize,
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl Counter {
    /// Shows `name` and how many of `total` are done.
    pub fn new(name: &str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len}  {eta} left");
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar.set_prefix(name.to_owned());
            bar
        });
        Self {
            name: name.to_owned(),
            total,
            bar,
            last_line: Mutex::new(Instant::now()),
        }
    }

    /// So many are done.
    pub fn set(&self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            return;
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last_line.elapsed() >= LINE_EVERY {
            note(format_args!("{}: {done} of {}", self.name, self.total));
            *last_line = Instant::now();
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_has_hours_and_minutes() {
        let about = |seconds| in_words(TimeLeft::About(Duration::from_secs(seconds)));
        assert_eq!(
            [59, 65, 3600, 93_784].map(about),
            ["59s", "1m 05s", "1h 00m", "26h 03m"]
        );
        assert_eq!(in_words(TimeLeft::MoreThan(Duration::from_secs(7))), "more than 7s");
    }
}
