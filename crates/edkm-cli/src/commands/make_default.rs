//! `edkm make-default`: how the embedded model was made.

use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::optim::MomentFormat;
use edkm_llama::checkpoint::{FloatDtype, Sharding};
use edkm_llama::config::{LlamaConfig, CONFIG_FILE};
use edkm_llama::model::{DynamicLlama, Recompute};
use edkm_store::StoreSpec;
use edkm_train::data::Apart;
use edkm_train::device_share::DeviceShare;
use edkm_train::init::random_weights;
use edkm_train::run::checkpoint::CheckpointSettings;
use edkm_train::run::{
    finetune, DataSource, FinetuneSettings, KeptModel, Measure, Objective, OnLimits, OnNonFinite, RateUnit,
};
use edkm_train::synthetic::{self, Split};
use edkm_train::trainer::Update;

use super::{overwrite, Failure};
use crate::args::MakeDefaultArgs;
use crate::console::Output;
use crate::embedded;
use crate::progress::Progress;

/// The shape of the embedded model: a quarter of a million parameters.
const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "hidden_size": 64,
  "intermediate_size": 176,
  "num_hidden_layers": 5,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "vocab_size": 512,
  "max_position_embeddings": 512,
  "rms_norm_eps": 1e-5,
  "rope_theta": 10000.0,
  "hidden_act": "silu",
  "tie_word_embeddings": true,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "torch_dtype": "bfloat16"
}"#;

/// The seed of the first weights and of the order of the text.
const SEED: u64 = 0;

pub fn run(args: MakeDefaultArgs) -> Result<(), Failure> {
    let start = tempfile::tempdir()?;
    let text = synthetic::generate(Split::Train, embedded::PRETRAINING_SEED, args.bytes);
    untrained(start.path(), &text)?;
    let device = Cpu::default();
    let settings = FinetuneSettings {
        model_dir: start.path().to_path_buf(),
        data: DataSource::Text(text),
        validation: DataSource::Text(embedded::validation_text()),
        apart: Apart::Records,
        evaluation_tokens: 40_000,
        evaluate_every: None,
        kept_model: KeptModel::Last,
        clustering: None,
        objective: Objective::Text,
        teacher_dir: None,
        steps: args.steps,
        learning_rate: args.lr,
        rate_unit: RateUnit::default(),
        weight_decay: 0.1,
        moments: MomentFormat::F32,
        update: Update::AfterBackward,
        sequence: 256,
        batch: 16,
        accumulate: 1,
        seed: SEED,
        store: StoreSpec::default(),
        device_share: DeviceShare::default(),
        recompute: Recompute::Nothing,
        baselines: Measure::No,
        out: args.out,
        overwrite: overwrite(args.overwrite),
        on_non_finite: OnNonFinite::Stop,
        checkpoints: CheckpointSettings::default(),
        on_limits: OnLimits::Refuse,
    };
    let outcome = finetune(&settings, &device, &mut Progress::new(Output::Human))?;
    Output::Human.line(format!(
        "perplexity {:.4} -> {:.4}",
        outcome.perplexity_before, outcome.perplexity_after
    ));
    Output::Human.line(format!("wrote {}", outcome.out.display()));
    Ok(())
}

/// Writes a folder with the tokenizer of the text and random weights.
fn untrained(dir: &Path, text: &str) -> Result<(), Failure> {
    let config = LlamaConfig::from_json(&dir.join(CONFIG_FILE), CONFIG)?;
    config.write(dir)?;
    std::fs::write(
        dir.join("tokenizer.json"),
        synthetic::train_tokenizer(text, config.vocab_size)?,
    )?;
    let tokenizer_config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": config.max_position_embeddings,
    });
    std::fs::write(
        dir.join("tokenizer_config.json"),
        serde_json::to_vec_pretty(&tokenizer_config)?,
    )?;
    let mut weights = random_weights(SEED, config.num_hidden_layers, 0.05);
    let mut model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&config, &Cpu::default(), &mut weights)?;
    model.write_weights(dir, &[], FloatDtype::Bf16, Sharding::Single)?;
    Ok(())
}
