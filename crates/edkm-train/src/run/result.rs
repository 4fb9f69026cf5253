//! What a run leaves: the folder with the compressed model, and its figures.

use dfdx_edkm::EdkmDevice;
use edkm_kernels::LargePages;
use edkm_llama::checkpoint::{copy_companions, FloatDtype, OutputDir, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_store::Backend;

use super::bits_budget::write_rules;
use super::clustering_bytes::clustering_bytes;
use super::finetune::Run;
use super::known::Known;
use super::texts::document_beginning;
use super::{report, FinetuneOutcome, NonFiniteCounts, Observer, Sizes, Stage, TrainingText};
use crate::data::TokenStream;
use crate::evaluate::perplexity;
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

impl<D: EdkmDevice> Run<'_, D> {
    /// Writes OUT, measured and whole, when all steps are done.
    ///
    /// # Errors
    /// A weight that is not finite, a measurement that failed, a system that does not write.
    pub(super) fn finish(
        &self,
        trainer: Trainer<D>,
        known: Known,
        (steps, non_finite): (Vec<StepMetrics>, NonFiniteCounts),
        beside: &Beside<'_>,
        observer: &mut impl Observer,
    ) -> Result<FinetuneOutcome, TrainError> {
        let Self {
            settings,
            folder,
            device,
            ..
        } = self;
        let training_seconds = known.clock.training_seconds();
        let (store, budget) = (trainer.store().report(), trainer.device_budget().cloned());
        // optimizer and teacher have done their part
        let mut model = trainer.into_model();
        LargePages::give_back();
        let clustering_bytes = clustering_bytes(&mut model);

        observer.stage(Stage::Save);
        let out = OutputDir::create(&settings.out, settings.overwrite)?;
        let metrics = folder.metrics();
        std::fs::copy(&metrics, out.path().join("metrics.jsonl")).map_err(TrainError::io("copy", &metrics))?;
        let palettes = match &settings.clustering {
            Some(clustering) => model.palettize_by_name(&|name| clustering.palette_dtype_of(name))?,
            None => Vec::new(),
        };
        let size_bytes = model
            .write_weights(out.path(), &palettes, beside.dtype, Sharding::Single)?
            .bytes;
        drop(model);
        beside.config.write(out.path())?;
        if let Some(clustering) = &settings.clustering {
            write_rules(clustering, beside.config, out.path())?;
        }
        copy_companions(&settings.model_dir, out.path())?;

        observer.stage(Stage::EvaluateAfter);
        let written = DynamicLlama::<D>::open(out.path(), device)?;
        let after = perplexity(&written, beside.validation, settings.sequence, &mut |share| {
            observer.progress(share);
            Ok(())
        })?;
        drop(written);
        observer.result(&format!(
            "perplexity {:.4} on {} tokens",
            after.perplexity, after.tokens
        ));
        let prompt = document_beginning(beside.validation, beside.tokenizer);
        let sample = report::sample(prompt, beside.tokenizer, &settings.model_dir, out.path())?;

        let outcome = FinetuneOutcome {
            perplexity_before: known.perplexity_before,
            perplexity_after: after.perplexity,
            perplexity_uncompressed: None,
            bits_per_weight: Sizes::of(&palettes).bits_per_weight(),
            size_bytes,
            size_before_bytes: beside.size_before_bytes,
            steps: settings.steps,
            non_finite,
            tokens: steps.iter().map(|step| step.tokens).sum(),
            training_text: beside.text,
            seconds: known.clock.seconds(),
            training_seconds,
            peak_rss_bytes: peak_resident_bytes(),
            saved_bytes_peak: store.peak_bytes,
            saved_bytes_logical: store.logical_peak_bytes,
            saved_bytes_device: budget.map_or(0, |budget| budget.peak_bytes()),
            saved_bytes_disk: store.disk_peak_bytes,
            store_layers: StoreLayerFigures::of(&store),
            saved_bytes_clustering: clustering_bytes.here,
            saved_bytes_plain_dkm: clustering_bytes.plain_dkm,
            bits_chosen: known.bits_chosen,
            baselines: known.baselines,
            sample: sample.clone(),
            out: settings.out.clone(),
        };
        let page = report::data(settings, &outcome, steps, &store, sample, out.path())?;
        report::write(&page, out.path())?;
        if folder.log().exists() {
            std::fs::copy(folder.log(), out.path().join("log.txt")).map_err(TrainError::io("copy", &folder.log()))?;
        }
        folder.note_result(out.path(), &outcome)?;
        out.commit()?;
        Ok(outcome)
    }
}
