//! The runs of a comparison, each by itself.

use std::path::{Path, PathBuf};

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::Overwrite;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;

use super::contender::Training;
use super::{CompareSettings, Contender, RunFigures, Width};
use crate::compress::Method;
use crate::data::TokenStream;
use crate::evaluate::perplexity;
use crate::run::checkpoint::{CheckpointSettings, RunFolder, Start};
use crate::run::estimate::estimate;
use crate::run::{
    check_memory, check_method, compress_folder, finetune, CalibrationSettings, ClusterSettings, CompressSettings,
    FinetuneSettings, Objective, Observer, OnLimits, Stage,
};
use crate::TrainError;

/// One run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Planned {
    pub(super) contender: Contender,
    pub(super) width: Option<Width>,
    seed: Option<u64>,
}

/// By method, width and seed; what does not depend on one of them is run once.
pub(super) fn planned(settings: &CompareSettings) -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::new();
    for &contender in &settings.contenders {
        let widths: Vec<Option<Width>> = match contender.is_clustered() {
            true => settings.widths.iter().copied().map(Some).collect(),
            false => vec![None],
        };
        for width in widths {
            let looks = contender.looks_at_text() || width.is_some_and(|width| width.is_budget());
            let seeds: Vec<Option<u64>> = match looks {
                true => (0..settings.seeds).map(Some).collect(),
                false => vec![None],
            };
            let runs = seeds.into_iter().map(|seed| Planned { contender, width, seed });
            // what is asked for twice is run once
            let new: Vec<Planned> = runs.filter(|run| !plan.contains(run)).collect();
            plan.extend(new);
        }
    }
    plan
}

impl Planned {
    /// The run that these are the figures of; `None` for a method that is not known any more.
    pub(super) fn of(run: &RunFigures) -> Option<Self> {
        let width = run.width.map(|width| width.to_string().parse());
        Some(Self {
            contender: run.method.parse().ok()?,
            width: width.transpose().ok()?,
            seed: run.seed,
        })
    }

    pub(super) fn is(&self, run: &RunFigures) -> bool {
        run.method == self.contender.name() && run.width == self.width.map(Width::bits) && run.seed == self.seed
    }

    /// The name of the model's folder while the run goes on.
    fn folder(&self, out: &Path) -> PathBuf {
        let width = self.width.map_or(String::new(), |width| format!("-{width}"));
        let seed = self.seed.map_or(String::new(), |seed| format!("-seed{seed}"));
        out.join("running")
            .join(format!("{}{width}{seed}", self.contender.name()))
    }

    fn clustering(&self, settings: &CompareSettings, config: &LlamaConfig) -> Option<ClusterSettings> {
        let (common, dtype) = (&settings.clustering, settings.palette_dtype);
        let training = (settings.steps, settings.learning_rate);
        let of_width = |width| self.contender.clustering(common, dtype, width, training, config);
        let seed = self.seed.unwrap_or(0);
        self.width.map(|width| ClusterSettings {
            seed,
            ..of_width(width)
        })
    }

    /// Refuses, before any run, a way of clustering that the method has not, and a training that cannot be, or for which there is not enough.
    pub(super) fn check<D: EdkmDevice>(
        &self,
        settings: &CompareSettings,
        config: &LlamaConfig,
        device: &D,
    ) -> Result<(), TrainError> {
        match (self.contender, self.clustering(settings, config)) {
            (Contender::WithoutTraining(method), Some(clustering)) => check_method(config, method, &clustering),
            // seeds make no difference
            _ if self.seed.is_some_and(|seed| seed > 0) => Ok(()),
            (_, clustering) => {
                let training = self.training(clustering, &self.folder(&settings.out), settings, config);
                let estimate = estimate(&training, device)?;
                match settings.on_limits {
                    OnLimits::Refuse => estimate.check().map_err(|error| self.of_comparison(error)),
                    OnLimits::Ignore => Ok(()),
                }
            }
        }
    }

    /// The same of the memory of a method that does not train and looks at so much text.
    pub(super) fn check_memory<D: EdkmDevice>(
        &self,
        settings: &CompareSettings,
        config: &LlamaConfig,
        tokens: usize,
        device: &D,
    ) -> Result<(), TrainError> {
        match (self.contender, self.clustering(settings, config)) {
            (Contender::WithoutTraining(method), Some(clustering)) if settings.on_limits == OnLimits::Refuse => {
                let compression = self.compression(method, clustering, &self.folder(&settings.out), settings);
                let looked_at = settings.windows.saturating_mul(settings.sequence).min(tokens);
                let checked = check_memory(&compression, config, looked_at as u64, device);
                checked.map_err(|error| self.of_comparison(error))
            }
            _ => Ok(()),
        }
    }

    /// The error of a run, with what a comparison can be given.
    fn of_comparison(&self, error: TrainError) -> TrainError {
        match error {
            TrainError::NotEnough {
                what,
                needed,
                available,
                lower: _,
            } => TrainError::NotEnough {
                what,
                needed,
                available,
                lower: match (what, self.contender) {
                    ("disk", _) => "--out on another disk".to_owned(),
                    (_, Contender::Training(_)) => {
                        format!(
                            "a smaller --batch or --seq, or --methods without {}",
                            self.contender.name()
                        )
                    }
                    (_, Contender::WithoutTraining(_)) => {
                        format!("fewer --windows, or --methods without {}", self.contender.name())
                    }
                },
            },
            // it goes on with the comparison, and not by itself
            TrainError::Ended { source, .. } => *source,
            error => error,
        }
    }

    pub(super) fn run<D: EdkmDevice>(
        &self,
        settings: &CompareSettings,
        config: &LlamaConfig,
        validation: &TokenStream,
        device: &D,
        observer: &mut impl Observer,
    ) -> Result<RunFigures, TrainError> {
        let out = self.folder(&settings.out);
        std::fs::create_dir_all(settings.out.join("running")).map_err(TrainError::io("make", &settings.out))?;
        let clustering = self.clustering(settings, config);
        let figures = match (self.contender, clustering) {
            (Contender::WithoutTraining(method), Some(clustering)) => {
                self.compress(method, clustering, &out, settings, validation, device, observer)?
            }
            (_, clustering) => {
                let training = self.training(clustering, &out, settings, config);
                let outcome = finetune(&training, device, observer).map_err(|error| self.of_comparison(error))?;
                self.figures(
                    outcome.perplexity_after,
                    outcome.bits_per_weight,
                    outcome.size_bytes,
                    outcome.training_seconds,
                )
            }
        };
        std::fs::remove_dir_all(&out).map_err(TrainError::io("remove", &out))?;
        // the last run leaves no trace of the folder; it fails while there are others in it
        let _ = std::fs::remove_dir(settings.out.join("running"));
        Ok(figures)
    }

    fn compress<D: EdkmDevice>(
        &self,
        method: Method,
        clustering: ClusterSettings,
        out: &Path,
        settings: &CompareSettings,
        validation: &TokenStream,
        device: &D,
        observer: &mut impl Observer,
    ) -> Result<RunFigures, TrainError> {
        let compression = self.compression(method, clustering, out, settings);
        let outcome = compress_folder(&compression, device, observer).map_err(|error| self.of_comparison(error))?;
        observer.stage(Stage::EvaluateAfter);
        let model = DynamicLlama::<D>::open(out, device)?;
        let measured = perplexity(&model, validation, settings.sequence, &mut |share| {
            observer.progress(share);
            Ok(())
        })?;
        Ok(self.figures(
            measured.perplexity,
            outcome.bits_per_weight,
            outcome.size_bytes,
            outcome.seconds,
        ))
    }

    /// The run of a method that does not train.
    fn compression(
        &self,
        method: Method,
        clustering: ClusterSettings,
        out: &Path,
        settings: &CompareSettings,
    ) -> CompressSettings {
        CompressSettings {
            model_dir: settings.model_dir.clone(),
            method,
            clustering,
            calibration: Some(CalibrationSettings {
                data: settings.data.clone(),
                sequence: settings.sequence,
                windows: settings.windows,
                seed: self.seed.unwrap_or(0),
            }),
            out: out.to_path_buf(),
            overwrite: Overwrite::Replace,
            on_limits: settings.on_limits,
        }
    }

    /// The run of a method that trains; one that was interrupted goes on.
    fn training(
        &self,
        clustering: Option<ClusterSettings>,
        out: &Path,
        settings: &CompareSettings,
        config: &LlamaConfig,
    ) -> FinetuneSettings {
        let rate = clustering.as_ref().map(|clustering| clustering.bits_a_weight(config));
        let rate = settings.learning_rate.or(rate.map(ClusterSettings::learning_rate_for));
        let (model_dir, data) = (&settings.model_dir, settings.data.clone());
        let defaults = FinetuneSettings::new(model_dir, data, clustering, settings.steps, out);
        let start = match RunFolder::open(out).newest() {
            Ok(_) => Start::Resume,
            Err(_) => Start::Fresh,
        };
        FinetuneSettings {
            validation: settings.validation.clone(),
            evaluation_tokens: settings.evaluation_tokens,
            objective: match self.contender {
                Contender::Training(Training::Dkm | Training::StraightThrough) => Objective::BEST,
                _ => Objective::Text,
            },
            learning_rate: rate.unwrap_or(defaults.learning_rate),
            sequence: settings.sequence,
            batch: settings.batch,
            seed: self.seed.unwrap_or(0),
            overwrite: Overwrite::Replace,
            on_limits: settings.on_limits,
            checkpoints: CheckpointSettings {
                start,
                ..CheckpointSettings::default()
            },
            ..defaults
        }
    }

    fn figures(&self, perplexity: f64, bits_per_weight: Option<f64>, size_bytes: u64, seconds: f64) -> RunFigures {
        RunFigures {
            method: self.contender.name().to_owned(),
            width: self.width.map(Width::bits),
            seed: self.seed,
            perplexity,
            bits_per_weight,
            size_bytes,
            seconds,
            original_perplexity: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::Cpu;
    use edkm_cluster::Bits;

    use super::*;
    use crate::run::DataSource;

    #[test]
    #[cfg(target_os = "linux")] // where the system tells how much memory there is
    fn a_method_that_the_memory_does_not_hold_is_refused_unless_limits_are_ignored() {
        let sizes = r#"{"model_type": "llama", "vocab_size": 1000, "hidden_size": 131072, "intermediate_size": 131072, "num_hidden_layers": 80,
            "num_attention_heads": 16, "max_position_embeddings": 512}"#;
        let config = LlamaConfig::from_json("config.json".as_ref(), sizes).unwrap();
        let mut settings = CompareSettings {
            model_dir: "model".into(),
            data: DataSource::Text(String::new()),
            validation: DataSource::Text(String::new()),
            evaluation_tokens: 100,
            contenders: vec![Contender::WithoutTraining(Method::RoundToNearest)],
            widths: vec![Width::Bits(Bits::new(3).unwrap())],
            seeds: 1,
            clustering: ClusterSettings::new(Bits::new(3).unwrap(), 10),
            palette_dtype: None,
            steps: 10,
            learning_rate: None,
            sequence: 16,
            batch: 2,
            windows: usize::MAX,
            out: "out".into(),
            overwrite: Overwrite::Refuse,
            on_limits: OnLimits::Refuse,
        };
        let run = planned(&settings)[0];
        let error = run.check_memory(&settings, &config, 1000, &Cpu::default()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("TiB of memory") && message.contains("--methods without rtn"),
            "{message}"
        );
        settings.on_limits = OnLimits::Ignore;
        run.check_memory(&settings, &config, 1000, &Cpu::default()).unwrap();
    }
}
