//! What a run leaves: the folder with the compressed model, and its figures.

use std::path::Path;

use dfdx_edkm::EdkmDevice;
use edkm_kernels::LargePages;
use edkm_llama::checkpoint::{FloatDtype, OutputDir, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;

use super::bits_budget::write_rules;
use super::finetune::Run;
use super::known::Known;
use super::texts::document_beginning;
use super::{report, FinetuneOutcome, NonFiniteCounts, Observer, SavedBytes, Sizes, Stage, TrainingText};
use crate::data::TokenStream;
use crate::evaluate::{perplexity, perplexity_in_words};
use crate::memory::peak_resident_bytes;
use crate::metrics::StepMetrics;
use crate::report::StoreLayerFigures;
use crate::trainer::Trainer;
use crate::{Tokenizer, TrainError};

/// What the result is written with, beside the model.
pub(super) struct Beside<'a> {
    pub(super) config: &'a LlamaConfig,
    pub(super) tokenizer: &'a Tokenizer,
    /// The text that was trained on.
    pub(super) text: TrainingText,
    pub(super) validation: &'a TokenStream,
    /// The type of what is not clustered.
    pub(super) dtype: FloatDtype,
    /// Bytes of the model's files as they came.
    pub(super) size_before_bytes: u64,
}

/// What the training leaves beside the model.
struct Trained {
    known: Known,
    training_seconds: f64,
    steps: Vec<StepMetrics>,
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
        (steps, non_finite): (Vec<StepMetrics>, NonFiniteCounts),
        beside: &Beside<'_>,
        observer: &mut impl Observer,
    ) -> Result<FinetuneOutcome, TrainError> {
        let training_seconds = known.clock.training_seconds();
        let (store, saved_bytes) = (trainer.store().report(), SavedBytes::of(&mut trainer));
        // optimizer and teacher have done their part
        let model = trainer.into_model();
        LargePages::give_back();
        let trained = Trained {
            saved_bytes: known.saved_bytes.max(saved_bytes),
            known,
            training_seconds,
            steps,
            non_finite,
            store,
        };
        observer.stage(Stage::Save);
        let mut out = OutputDir::stage(&self.settings.out, self.settings.overwrite)?;
        if let Err(why) = self.folder.note_staging(out.path()) {
            // it serves to clean up alone
            tracing::warn!("{why}; if this process is killed now, {} stays", out.path().display());
        }
        let weights = self.write(model, beside, out.path())?;
        let outcome = self.complete(trained, weights, beside, out.path(), observer);
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

    /// Configuration and weights: their sizes, and the bytes of the file.
    fn write(&self, mut model: DynamicLlama<D>, beside: &Beside<'_>, out: &Path) -> Result<(Sizes, u64), TrainError> {
        beside.config.write(out)?;
        let palettes = match &self.settings.clustering {
            Some(clustering) => {
                write_rules(clustering, beside.config, out)?;
                model.palettize_by_name(&|name| clustering.palette_dtype_of(name))?
            }
            None => Vec::new(),
        };
        let written = model.write_weights(out, &palettes, beside.dtype, Sharding::Single)?;
        Ok((Sizes::of(&palettes), written.bytes))
    }

    /// All that OUT has beside configuration and weights.
    fn complete(
        &self,
        trained: Trained,
        (sizes, size_bytes): (Sizes, u64),
        beside: &Beside<'_>,
        out: &Path,
        observer: &mut impl Observer,
    ) -> Result<FinetuneOutcome, TrainError> {
        let Self {
            settings,
            folder,
            device,
            ..
        } = self;
        let Trained {
            known,
            steps,
            store,
            saved_bytes,
            ..
        } = trained;
        folder.copy_companions(out)?;
        let metrics = folder.metrics();
        std::fs::copy(&metrics, out.join("metrics.jsonl")).map_err(TrainError::io("copy", &metrics))?;

        observer.stage(Stage::EvaluateAfter);
        let written = DynamicLlama::<D>::open(out, device)?;
        let after = perplexity(&written, beside.validation, settings.sequence, &mut |share| {
            observer.progress(share);
            Ok(())
        })?;
        drop(written);
        observer.result(&format!(
            "perplexity {} on {} tokens",
            perplexity_in_words(after.perplexity),
            after.tokens
        ));
        let prompt = document_beginning(beside.validation, beside.tokenizer);
        let sample = report::sample(prompt, beside.tokenizer, &settings.model_dir, out);

        let outcome = FinetuneOutcome {
            perplexity_before: known.perplexity_before,
            perplexity_after: after.perplexity,
            bits_per_weight: sizes.bits_per_weight(),
            size_bytes,
            size_before_bytes: beside.size_before_bytes,
            steps: settings.steps,
            non_finite: trained.non_finite,
            tokens: steps.iter().map(|step| step.tokens).sum(),
            training_text: beside.text,
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
            sample: sample.clone(),
            out: settings.out.clone(),
        };
        let page = report::data(settings, &outcome, steps, sample, out)?;
        report::write(&page, out)?;
        if folder.log().exists() {
            std::fs::copy(folder.log(), out.join("log.txt")).map_err(TrainError::io("copy", &folder.log()))?;
        }
        folder.note_result(out, &outcome)?;
        Ok(outcome)
    }
}
