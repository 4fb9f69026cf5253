//! What a run tells while it goes on.

use std::time::Duration;

use super::estimate::Estimate;
use crate::trainer::StepOutcome;
use crate::TrainError;

/// Who is told the share of the work that is done, from 0 to 1, between one measurement and the next. An error ends the work with it.
pub type OnProgress<'a> = dyn FnMut(f64) -> Result<(), TrainError> + 'a;

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the model.
    LoadModel,
    /// Reading and encoding the text.
    LoadData,
    /// Perplexity of the model as it came.
    EvaluateBefore,
    /// Perplexity of the compression without training.
    EvaluateBaselines,
    /// Training.
    Train,
    /// Choosing the bits of each layer.
    ChooseBits,
    /// Compression without training.
    Compress,
    /// Writing the model.
    Save,
    /// Writing a model in another format.
    Export,
    /// Perplexity of the model as it was written.
    EvaluateAfter,
}

impl Stage {
    /// A line for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::LoadModel => "reading the model",
            Self::LoadData => "reading the text",
            Self::EvaluateBefore => "perplexity of the original",
            Self::EvaluateBaselines => "perplexity without training",
            Self::Train => "training",
            Self::ChooseBits => "choosing bits by layer",
            Self::Compress => "finding palettes",
            Self::Save => "writing the model",
            Self::Export => "exporting the model",
            Self::EvaluateAfter => "perplexity of the result",
        }
    }
}

/// A step of training.
#[derive(Debug, Clone, Copy)]
pub struct StepReport {
    /// Loss, norm, rate.
    pub outcome: StepOutcome,
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens a second, smoothed.
    pub tokens_per_second: f64,
    /// How long the rest will take, once that can be said.
    pub remaining: Option<TimeLeft>,
}

/// How long the rest of the training takes, measurements and checkpoints counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLeft {
    /// If it goes on as it does.
    About(Duration),
    /// At the rate of now, while steps to come take longer: those that cluster.
    MoreThan(Duration),
}

/// Who is told. What is not said otherwise is not heeded.
pub trait Observer {
    /// The run's folder is there; a `log.txt` that is kept in it goes into the result.
    fn folder(&mut self, _path: &std::path::Path) {}
    /// What the run will take, before it begins.
    fn estimate(&mut self, _estimate: &Estimate) {}
    /// A part of the run begins.
    fn stage(&mut self, _stage: Stage) {}
    /// A share of the current part is done, from 0 to 1.
    fn progress(&mut self, _share: f64) {}
    /// A step of training is done.
    fn step(&mut self, _report: &StepReport) {}
    /// The current part has ended with a result worth a line.
    fn result(&mut self, _line: &str) {}
    /// Something worth a line was found in a part that goes on.
    fn meanwhile(&mut self, _line: &str) {}
    /// Whether the run shall end: after the present step, with a checkpoint, or after the present measurement if nothing is lost with it.
    fn interrupted(&self) -> bool {
        false
    }
    /// The system does not take the checkpoint of a run that was interrupted, or the result of one that is done, so that what was trained is in memory alone:
    /// whether to try once more. Who says so lets some time pass first.
    fn try_again(&mut self, _why: &TrainError) -> bool {
        false
    }
    /// Between two measurements: an error if the run shall end.
    ///
    /// # Errors
    /// [`TrainError::Stopped`].
    fn go_on(&self) -> Result<(), TrainError> {
        match self.interrupted() {
            true => Err(TrainError::Stopped),
            false => Ok(()),
        }
    }
    /// [`Self::progress`], in work that ends where it is if the run shall end.
    ///
    /// # Errors
    /// As [`Self::go_on`].
    fn advance(&mut self, share: f64) -> Result<(), TrainError> {
        self.progress(share);
        self.go_on()
    }
}

/// Whether what is in memory alone is written once more, after this error.
pub(super) fn is_tried_again(observer: &mut impl Observer, why: &TrainError) -> bool {
    why.of_system().is_some() && !observer.interrupted() && observer.try_again(why)
}

// Who is told may be found when the program runs.
macro_rules! behind_a_pointer {
    ($pointer:ty) => {
        impl<O: Observer + ?Sized> Observer for $pointer {
            fn folder(&mut self, path: &std::path::Path) {
                (**self).folder(path);
            }
            fn estimate(&mut self, estimate: &Estimate) {
                (**self).estimate(estimate);
            }
            fn stage(&mut self, stage: Stage) {
                (**self).stage(stage);
            }
            fn progress(&mut self, share: f64) {
                (**self).progress(share);
            }
            fn step(&mut self, report: &StepReport) {
                (**self).step(report);
            }
            fn result(&mut self, line: &str) {
                (**self).result(line);
            }
            fn meanwhile(&mut self, line: &str) {
                (**self).meanwhile(line);
            }
            fn interrupted(&self) -> bool {
                (**self).interrupted()
            }
            fn try_again(&mut self, why: &TrainError) -> bool {
                (**self).try_again(why)
            }
            fn go_on(&self) -> Result<(), TrainError> {
                (**self).go_on()
            }
            fn advance(&mut self, share: f64) -> Result<(), TrainError> {
                (**self).advance(share)
            }
        }
    };
}

behind_a_pointer!(&mut O);
behind_a_pointer!(Box<O>);

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn stage(&mut self, _: Stage) {}
    fn progress(&mut self, _: f64) {}
    fn step(&mut self, _: &StepReport) {}
    fn result(&mut self, _: &str) {}
}
