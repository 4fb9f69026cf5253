//! `edkm export`

use std::ops::ControlFlow;

use edkm_llama::checkpoint::{export_coreml_torch, export_hugging_face, ExportSettings, Sharding};
use edkm_llama::LlamaError;
use edkm_train::run::{check_apart, ModelPalettes, Observer, Stage};
use edkm_train::TrainError;
use serde::Serialize;

use super::{overwrite, Failure};
use crate::args::{ExportArgs, ExportFormat};
use crate::console::{bytes, note, Output};
use crate::hub;
use crate::progress::Progress;

/// The largest file of an export, as transformers writes them.
const SHARD_BYTES: u64 = 5_000_000_000;

#[derive(Serialize)]
struct Figures {
    out: String,
    size_bytes: u64,
    files: usize,
}

pub fn run(args: ExportArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let model_dir = hub::folder(&args.model_dir)?;
    check_apart(&model_dir, &args.out)?;
    let settings = ExportSettings {
        dtype: args.dtype.into(),
        sharding: match args.to {
            ExportFormat::Hf => Sharding::Shards { max_bytes: SHARD_BYTES },
            ExportFormat::CoremlTorch => Sharding::Single,
        },
        overwrite: overwrite(args.overwrite),
    };
    if args.to == ExportFormat::CoremlTorch && ModelPalettes::read(&model_dir)?.is_none() {
        note(format_args!(
            "{} has no palettes: Core ML gets plain weights",
            model_dir.display()
        ));
    }
    if !model_dir.join("tokenizer.json").exists() {
        note("the model has no tokenizer.json: what is written has none either");
    }
    let mut shown = Progress::new(output).with_signals()?;
    shown.stage(Stage::Export);
    let progress = |share| {
        shown.progress(share);
        match shown.interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let written = match args.to {
        ExportFormat::Hf => export_hugging_face(&model_dir, &args.out, &settings, progress),
        ExportFormat::CoremlTorch => export_coreml_torch(&model_dir, &args.out, &settings, progress),
    };
    let written = written.map_err(|error| match error {
        LlamaError::Stopped => TrainError::Stopped,
        other => other.into(),
    })?;
    drop(shown);
    output.line(format!(
        "wrote {}: {} in {} file{}",
        args.out.display(),
        bytes(written.bytes),
        written.files.len(),
        if written.files.len() == 1 { "" } else { "s" }
    ));
    output.json(&Figures {
        out: args.out.display().to_string(),
        size_bytes: written.bytes,
        files: written.files.len(),
    })?;
    Ok(())
}
