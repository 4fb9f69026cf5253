//! What a run leaves: the folder with the compressed model, and its figures.

use std::fs;
use std::path::{Path, PathBuf};

use dfdx_edkm::EdkmDevice;
use edkm_kernels::LargePages;
use edkm_llama::checkpoint::{OutputDir, Sharding, MODEL_FILE};
use edkm_llama::model::DynamicLlama;

use super::bits_budget::write_rules;
use super::checkpoint::Measured;
use super::finetune::Run;
use super::known::Known;
use super::observer::is_tried_again;
use super::step_log::StepLog;
use super::texts::document_beginning;
use super::{
    count, report, FinetuneOutcome, KeptModel, NonFiniteCounts, Observer, RunRecord, SavedBytes, Sizes, Stage,
    TrainingText,
};
use crate::evaluate::{perplexity, perplexity_in_words, Perplexity};
use crate::memory::peak_resident_bytes;
use crate::report::{StoreLayerFigures, WeightFigure};
use crate::trainer::Trainer;
use crate::{Tokenizer, TrainError};

/// What the result is written with, beside the model.
pub(super) struct Beside<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    /// The text that was trained on.
    pub(super) text: TrainingText,
    /// Bytes of the model's files as they came.
    pub(super) size_before_bytes: u64,
}

/// What the weights' file has come to.
struct Written {
    sizes: Sizes,
    bytes: u64,
    /// The matrices that are clustered.
    figures: Vec<WeightFigure>,
}

/// What the training leaves beside the model.
struct Trained {
    known: Known,
    training_seconds: f64,
    /// Steps that are done.
    done: u64,
    log: StepLog,
    non_finite: NonFiniteCounts,
    store: edkm_store::Report,
    saved_bytes: SavedBytes,
}

impl<D: EdkmDevice> Run<'_, D> {
    /// Writes OUT, measured and whole, when all steps are done. What cannot be finished once the weights are written is kept beside OUT.
    ///
    /// # Errors
    /// A weight that is not finite, a measurement that failed, a system that does not write.
    pub(super) fn finish(
        &self,
        mut trainer: Trainer<D>,
        known: Known,
        (log, non_finite): (StepLog, NonFiniteCounts),
        beside: &Beside<'_>,
        observer: &mut impl Observer,
    ) -> Result<FinetuneOutcome, TrainError> {
        let training_seconds = known.clock.training_seconds();
        let (store, saved_bytes) = (trainer.store().report(), SavedBytes::of(&mut trainer));
        let done = trainer.step_count();
        // optimizer and teacher have done their part
        let mut model = trainer.into_model();
        LargePages::give_back();
        let trained = Trained {
            saved_bytes: known.saved_bytes.max(saved_bytes),
            known,
            training_seconds,
            done,
            log,
            non_finite,
            store,
        };
        observer.stage(Stage::Save);
        let (mut out, written) = loop {
            match self.staged(&mut model) {
                Ok(staged) => break staged,
                // what was trained is in memory alone
                Err(why) if is_tried_again(observer, &why) => {}
                Err(why) => return Err(why),
            }
        };
        drop(model);
        let outcome = self.complete(trained, written, beside, out.path(), observer);
        match outcome.and_then(|outcome| Ok(out.put().map(|()| outcome)?)) {
            Ok(outcome) => Ok(outcome),
            Err(source) => match out.keep() {
                Some(kept) => Err(TrainError::KeptBeside {
                    kept,
                    source: Box::new(source),
                }),
                None => Err(source),
            },
        }
    }

    /// The folder in the making, with the model in it: [`Self::write`].
    fn staged(&self, model: &mut DynamicLlama<D>) -> Result<(OutputDir, Written), TrainError> {
        let out = OutputDir::stage(&self.settings.out, self.settings.overwrite)?;
        if let Err(why) = self.folder.note_staging(out.path()) {
            // it serves to clean up alone
            tracing::warn!("{why}; if this process is killed now, {} stays", out.path().display());
        }
        let written = self.write(model, out.path())?;
        Ok((out, written))
    }

    /// Tokenizer, configuration and weights.
    fn write(&self, model: &mut DynamicLlama<D>, out: &Path) -> Result<Written, TrainError> {
        // first what is small: if the disk is full behind the weights, the model can be used all the same
        self.folder.copy_companions(out)?;
        self.config.write(out)?;
        let palettes = match &self.settings.clustering {
            Some(clustering) => {
                write_rules(clustering, self.config, out)?;
                model.palettize_by_name(&|name| clustering.palette_dtype_of(name))?
            }
            None => Vec::new(),
        };
        let written = model.write_weights(out, &palettes, self.dtype, Sharding::Single)?;
        Ok(Written {
            sizes: Sizes::of(&palettes),
            bytes: written.bytes,
            figures: report::trained_weights(model, &palettes),
        })
    }

    /// All that OUT has beside the model.
    fn complete(
        &self,
        trained: Trained,
        written: Written,
        beside: &Beside<'_>,
        out: &Path,
        observer: &mut impl Observer,
    ) -> Result<FinetuneOutcome, TrainError> {
        let Self { settings, folder, .. } = self;
        let Written {
            sizes,
            bytes: mut size_bytes,
            mut figures,
        } = written;
        let Trained {
            known,
            done,
            mut log,
            store,
            saved_bytes,
            ..
        } = trained;
        let metrics = folder.metrics();
        log.catch_up()?;
        let steps = log.into_steps();
        std::fs::copy(&metrics, out.join("metrics.jsonl")).map_err(TrainError::io("copy", &metrics))?;

        observer.stage(Stage::EvaluateAfter);
        let last = self.measured(out, observer)?;
        observer.result(&format!(
            "perplexity {} on {}",
            perplexity_in_words(last.perplexity),
            count(last.tokens, "token")
        ));
        let mut kept = Measured {
            steps: done,
            perplexity: last.perplexity,
        };
        if let Some((dir, best)) = self.better(kept, observer) {
            size_bytes = put_in_place(&dir.join(MODEL_FILE), &out.join(MODEL_FILE))?;
            figures = report::written_weights(out)?;
            observer.result(&format!(
                "perplexity {} after {} of {}: that model is kept",
                perplexity_in_words(best.perplexity),
                count(best.steps, "step"),
                done
            ));
            kept = best;
        }
        let prompt = document_beginning(self.validation, beside.tokenizer);
        let sample = report::sample(prompt, beside.tokenizer, &settings.model_dir, out);

        let outcome = FinetuneOutcome {
            perplexity_before: known.perplexity_before,
            perplexity_after: kept.perplexity,
            perplexity_last: last.perplexity,
            kept_steps: kept.steps,
            bits_per_weight: sizes.bits_per_weight(),
            size_bytes,
            size_before_bytes: beside.size_before_bytes,
            steps: done,
            planned_steps: settings.steps,
            non_finite: trained.non_finite,
            tokens: steps.iter().map(|step| step.tokens).sum(),
            training_text: beside.text.of_steps(settings, done),
            seconds: known.clock.seconds(),
            training_seconds: trained.training_seconds,
            peak_rss_bytes: peak_resident_bytes(),
            saved_bytes_peak: saved_bytes.kept,
            saved_bytes_logical: saved_bytes.logical,
            saved_bytes_device: saved_bytes.device,
            saved_bytes_disk: saved_bytes.disk,
            store_layers: StoreLayerFigures::of(&store),
            saved_bytes_clustering: saved_bytes.clustering,
            saved_bytes_plain_dkm: saved_bytes.plain_dkm,
            bits_chosen: known.bits_chosen,
            baselines: known.baselines,
            settings: RunRecord::of(settings),
            sample: sample.clone(),
            out: settings.out.clone(),
        };
        let page = report::data(settings, &outcome, (steps, figures), sample, out)?;
        report::write(&page, out)?;
        if folder.log().exists() {
            std::fs::copy(folder.log(), out.join("log.txt")).map_err(TrainError::io("copy", &folder.log()))?;
        }
        folder.note_result(out, &outcome)?;
        Ok(outcome)
    }

    /// Perplexity of a model as it was written.
    fn measured(&self, dir: &Path, observer: &mut impl Observer) -> Result<Perplexity, TrainError> {
        let written = DynamicLlama::<D>::open(dir, self.device)?;
        perplexity(&written, self.validation, self.settings.sequence, &mut |share| {
            observer.progress(share);
            Ok(())
        })
    }

    /// The folder of the model that was kept on the way, if that is better than the last one as it was written; one that cannot be read is none, with a warning.
    fn better(&self, last: Measured, observer: &mut impl Observer) -> Option<(PathBuf, Measured)> {
        let kept = match self.settings.kept_model {
            KeptModel::Last => None,
            KeptModel::Best => self.folder.best(),
        };
        // anything is better than what is no number
        let is_better =
            |perplexity: f64| perplexity < last.perplexity || (last.perplexity.is_nan() && perplexity.is_finite());
        let (dir, best) = kept.filter(|(_, best)| is_better(best.perplexity))?;
        match self.measured(&dir, observer) {
            // measured again: the figures of a result are those of its file
            Ok(written) if is_better(written.perplexity) => {
                let perplexity = written.perplexity;
                Some((dir, Measured { perplexity, ..best }))
            }
            Ok(_) => None,
            Err(why) => {
                tracing::warn!(
                    "{}: {why}; the model of the last step is written in place of the one after {}",
                    dir.display(),
                    count(best.steps, "step")
                );
                None
            }
        }
    }
}

/// Has `model` in the place of another one too, and gives its bytes. It stays where it is: a run that is killed now and goes on finds it there.
fn put_in_place(model: &Path, place: &Path) -> Result<u64, TrainError> {
    fs::remove_file(place).map_err(TrainError::io("remove", place))?;
    // Windows flushes only handles that may write
    let sync = |_| fs::File::options().write(true).open(place)?.sync_all();
    let by_copy = |_| fs::copy(model, place).and_then(sync);
    fs::hard_link(model, place)
        .or_else(by_copy)
        .map_err(TrainError::io("write", place))?;
    Ok(fs::metadata(place).map_err(TrainError::io("read", place))?.len())
}
