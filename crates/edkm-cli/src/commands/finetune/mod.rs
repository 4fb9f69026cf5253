//! `edkm finetune`

mod inputs;
mod notes;
mod outcome;

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::OutputDir;
use edkm_train::evaluate::perplexity_in_words;
use edkm_train::run::checkpoint::{completed, CheckpointSettings, Start};
use edkm_train::run::estimate::{estimate, Estimate};
use edkm_train::run::{
    check_epochs, finetune, plan_finetune, FinetuneOutcome, FinetuneSettings, PlannedLayer, TrainingText,
};
use edkm_train::TrainError;

use self::inputs::{settings_of, unnamed_out, Inputs};
use super::{plan, Failure};
use crate::args::{Changes, FinetuneArgs};
use crate::console::{note, Output};
use crate::device::OnDevice;
use crate::embedded;
use crate::progress::Progress;
use crate::run_log::{RunLog, PROGRESS};
use crate::started::Started;

pub fn run(args: FinetuneArgs, log: RunLog) -> Result<(), Failure> {
    let (mut args, start, mut started) = match &args.resume {
        None => (args, Start::Fresh, Started::now()?),
        Some(out) => {
            let out = &Started::out_of(out);
            let was_asked = Started::with_json(out);
            if let Some(figures) = completed(&std::path::absolute(out)?)? {
                note(format_args!("the run is complete: {} is whole", out.display()));
                let output = Output::new(args.json || was_asked);
                for (name, key) in [("original", "perplexity_before"), ("fine-tuned", "perplexity_after")] {
                    let perplexity = figures[key].as_f64().map_or("?".to_owned(), perplexity_in_words);
                    output.line(format!("perplexity, {name:10} {perplexity:>10}"));
                }
                return output.json(&figures);
            }
            // paths of these arguments begin here
            let (here, changes) = (&args, Changes::of(&args)?);
            let (mut args, started) = Started::read(out)?;
            args.json |= here.json;
            args.ignore_limits |= here.ignore_limits;
            args.overwrite |= here.overwrite;
            args.dry_run = here.dry_run;
            args.clustering.palettes.rules = Some(started.layers()?);
            let started = started.with_changes(changes, &mut args)?;
            let start = match here.finish {
                true => Start::Finish,
                false => Start::Resume,
            };
            (args, start, started)
        }
    };
    let output = Output::new(args.json);
    let embedded_folder = match &args.model_dir {
        Some(_) => None,
        None => {
            let folder = tempfile::Builder::new().prefix("edkm-tiny-llama-").tempdir()?;
            embedded::write_to(folder.path())?;
            Some(folder)
        }
    };
    let embedded_folder = embedded_folder.as_ref().map(|folder| folder.path());
    let inputs = Inputs::of(&args, embedded_folder)?;
    let mut settings = settings_of(&args, &inputs)?;
    // what would end the run is said before the text is read, and of a run that is only planned
    if args.epochs.is_some() || args.dry_run {
        OutputDir::check(&settings.out, settings.overwrite)?;
    }
    if let Some(epochs) = args.epochs {
        check_epochs(epochs)?;
        output.progress("reading the text, for --epochs");
        let text = TrainingText::read(&settings)?;
        args.steps = text.steps(&settings, epochs)?;
        started = started.with_steps(args.steps);
        settings = settings_of(&args, &inputs)?;
        if args.dry_run {
            output.line(text.line(&settings));
        }
    }
    if args.clustering.plan {
        let work = Plan {
            settings: &settings,
            output,
        };
        return plan::show(output, args.device.run(work)?);
    }
    if let Some(clustering) = &settings.clustering {
        started = started.with_layers(&clustering.rules);
    }
    settings.out = started.out.clone().unwrap_or(std::path::absolute(&settings.out)?);
    settings.checkpoints = CheckpointSettings {
        every: args.checkpoint_every,
        keep: args.keep.unwrap_or(CheckpointSettings::default().keep),
        start,
        arguments: started.with_out(&settings.out)?,
    };
    if args.dry_run {
        let work = DryRun { settings: &settings };
        return super::dry_run::show(output, &args.device.run(work)?, settings.on_limits);
    }
    notes::before(&args, &settings, &inputs, start);
    tracing::info!(target: PROGRESS, "edkm {}: {}", env!("CARGO_PKG_VERSION"), settings.checkpoints.arguments);
    let has_no_name = args.out.is_none() && start == Start::Fresh;
    let outcome = args.device.run(Training {
        settings: &mut settings,
        renamed: has_no_name.then_some(&started),
        output,
        log: log.clone(),
    })?;
    outcome::show(output, &settings, &outcome);
    notes::after(&settings, &inputs, &outcome, &log);
    output.json(&outcome)?;
    Ok(())
}

/// What each layer would get.
struct Plan<'a> {
    settings: &'a FinetuneSettings,
    output: Output,
}

impl OnDevice for Plan<'_> {
    type Output = Vec<PlannedLayer>;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Self::Output, Failure> {
        let mut progress = Progress::new(self.output).with_signals()?;
        Ok(plan_finetune(self.settings, device, &mut progress)?)
    }
}

/// What the run would take.
struct DryRun<'a> {
    settings: &'a FinetuneSettings,
}

impl OnDevice for DryRun<'_> {
    type Output = Estimate;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Estimate, Failure> {
        Ok(estimate(self.settings, device)?)
    }
}

/// The whole run.
struct Training<'a> {
    settings: &'a mut FinetuneSettings,
    /// What it was started with, if OUT was not named and may be another.
    renamed: Option<&'a Started>,
    output: Output,
    log: RunLog,
}

impl OnDevice for Training<'_> {
    type Output = FinetuneOutcome;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<FinetuneOutcome, Failure> {
        let mut progress = Progress::new(self.output).with_log(self.log).with_signals()?;
        loop {
            match (finetune(self.settings, device, &mut progress), self.renamed) {
                // another process was faster
                (Err(TrainError::Running { .. }), Some(started)) => {
                    self.settings.out = std::path::absolute(unnamed_out())?;
                    self.settings.checkpoints.arguments = started.with_out(&self.settings.out)?;
                }
                (outcome, _) => return Ok(outcome?),
            }
        }
    }
}
