//! A model of another folder that a run learns from.

use std::path::Path;

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicTeacher;
use edkm_llama::names::{Parameter, Role};
use edkm_llama::LlamaError;

use super::check::check_positions;
use super::checkpoint::Fingerprint;
use super::{count, FinetuneSettings, Objective};
use crate::{Tokenizer, TrainError};

/// The model, and what it is recognised by when the run goes on.
pub(super) struct OtherTeacher<D: EdkmDevice> {
    pub(super) teacher: DynamicTeacher<D>,
    pub(super) fingerprint: u64,
}

impl<D: EdkmDevice> OtherTeacher<D> {
    /// That of `settings`, if they name one, with the first `rows` rows of its embedding and head: those behind them, which fill up a round number, are no tokens
    /// of the model that learns. Of a layer that lies there in 16 bits so much is held, and 4 bytes a parameter while it is read.
    ///
    /// # Errors
    /// A folder that cannot be read, or a tokenizer in it that has another token somewhere.
    pub(super) fn read(
        settings: &FinetuneSettings,
        tokenizer: &Tokenizer,
        rows: usize,
        device: &D,
    ) -> Result<Option<Self>, TrainError> {
        let Some(dir) = &settings.teacher_dir else {
            return Ok(None);
        };
        check_tokens(dir, tokenizer)?;
        let config = LlamaConfig::read(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        checkpoint.verify(&config)?;
        let mut fingerprint = Fingerprint::new(&config);
        let mut weights = |parameter: &Parameter| -> Result<Vec<f32>, LlamaError> {
            let has_rows = matches!(parameter.role, Role::Embedding | Role::Head);
            let mut shape = parameter.shape.clone();
            if has_rows {
                shape[0] = config.vocab_size;
            }
            let mut weight = checkpoint.weight(&parameter.name, &shape)?.into_dense();
            weight.truncate(parameter.shape.iter().product());
            fingerprint.add(&parameter.name, &weight);
            Ok(weight)
        };
        let as_ours = LlamaConfig {
            vocab_size: rows,
            ..config.clone()
        };
        let teacher = DynamicTeacher::from_weights(&as_ours, device, &mut weights)?;
        Ok(Some(Self {
            teacher,
            fingerprint: fingerprint.finish(),
        }))
    }
}

/// Refuses a model that one of `config` cannot learn from as `settings` want it: reads no weights.
pub(super) fn check_teacher(settings: &FinetuneSettings, config: &LlamaConfig) -> Result<(), TrainError> {
    let Some(dir) = &settings.teacher_dir else {
        return Ok(());
    };
    let Objective::Teacher(lesson) = settings.objective else {
        return Err(TrainError::Teacher {
            folder: dir.clone(),
            reason: "nothing is to be learned from it".to_owned(),
        });
    };
    let teacher = LlamaConfig::read(dir)?;
    let same = |theirs: usize, ours: usize, what: &str, rest: &str| match theirs == ours {
        true => Ok(()),
        false => Err(TrainError::Teacher {
            folder: dir.clone(),
            reason: format!(
                "it has {}, and the model that learns has {}: {rest}",
                count(theirs as u64, what),
                count(ours as u64, what)
            ),
        }),
    };
    // more fill up a round number, where the tokens can be seen to be the same
    if teacher.vocab_size < config.vocab_size || !dir.join("tokenizer.json").exists() {
        same(
            teacher.vocab_size,
            config.vocab_size,
            "token",
            "it must be the same vocabulary",
        )?;
    }
    if !lesson.hidden.is_zero() {
        let rest = "their hidden states cannot be compared, only what they predict (--distill-hidden 0)";
        same(teacher.num_hidden_layers, config.num_hidden_layers, "layer", rest)?;
        same(teacher.hidden_size, config.hidden_size, "hidden number", rest)?;
    }
    check_positions(settings.sequence, &teacher)
}

/// Refuses a folder with a tokenizer that has another token than `ours` somewhere; it may have none.
fn check_tokens(dir: &Path, ours: &Tokenizer) -> Result<(), TrainError> {
    if !dir.join("tokenizer.json").exists() {
        tracing::warn!(
            "{}: no tokenizer.json; its tokens are taken to be those of the model that learns",
            dir.display()
        );
        return Ok(());
    }
    match ours.first_other_token(&Tokenizer::from_dir(dir)?) {
        None => Ok(()),
        Some((id, ours, theirs)) => Err(TrainError::Teacher {
            folder: dir.to_path_buf(),
            reason: format!("its token {id} is {theirs:?}, and that of the model that learns is {ours:?}: it must be the same vocabulary"),
        }),
    }
}
