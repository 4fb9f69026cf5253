//! `edkm export`

use edkm_llama::checkpoint::{export_coreml_torch, export_hugging_face, ExportSettings, Overwrite, Sharding};
use serde::Serialize;

use super::Failure;
use crate::args::{ExportArgs, ExportFormat};
use crate::console::{bytes, Output};
use crate::hub;

/// The largest file of an export, as transformers writes them.
const SHARD_BYTES: u64 = 5_000_000_000;

#[derive(Serialize)]
struct Figures<'f> {
    out: &'f std::path::Path,
    bytes: u64,
    files: usize,
}

pub fn run(args: ExportArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let model_dir = hub::folder(&args.model_dir)?;
    let settings = ExportSettings {
        dtype: args.dtype.into(),
        sharding: match args.to {
            ExportFormat::Hf => Sharding::Shards { max_bytes: SHARD_BYTES },
            ExportFormat::CoremlTorch => Sharding::Single,
        },
        overwrite: match args.overwrite {
            true => Overwrite::Replace,
            false => Overwrite::Refuse,
        },
    };
    let export = match args.to {
        ExportFormat::Hf => export_hugging_face,
        ExportFormat::CoremlTorch => export_coreml_torch,
    };
    let written = export(&model_dir, &args.out, &settings)?;
    output.line(format!(
        "wrote {}: {} in {} file{}",
        args.out.display(),
        bytes(written.bytes),
        written.files.len(),
        if written.files.len() == 1 { "" } else { "s" }
    ));
    output.json(&Figures {
        out: &args.out,
        bytes: written.bytes,
        files: written.files.len(),
    })?;
    Ok(())
}
