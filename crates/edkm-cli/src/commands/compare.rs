//! `edkm compare`

use std::path::Path;

use dfdx::prelude::*;
use edkm_cluster::Spec;
use edkm_train::compare::{compare, CompareSettings};
use edkm_train::run::{free_folder, ClusterSettings, DataSource};

use super::{on_limits, overwrite, Failure};
use crate::args::CompareArgs;
use crate::console::Output;
use crate::embedded;
use crate::hub;
use crate::progress::Progress;

/// The folder that is written if none is named.
const DEFAULT_OUT: &str = "edkm-compare";

pub fn run(args: CompareArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let (_embedded, model_dir) = match args.model_dir {
        Some(dir) => (None, hub::folder(&dir)?),
        None => {
            let folder = tempfile::Builder::new().prefix("edkm-tiny-llama-").tempdir()?;
            embedded::write_to(folder.path())?;
            let path = folder.path().to_path_buf();
            (Some(folder), path)
        }
    };
    let (data, validation) = match (args.data.is_empty(), args.valid.is_empty()) {
        (false, false) => (DataSource::Files(args.data), DataSource::Files(args.valid)),
        _ => (
            DataSource::Text(embedded::training_text()),
            DataSource::Text(embedded::validation_text()),
        ),
    };
    let settings = CompareSettings {
        model_dir,
        data,
        validation,
        evaluation_tokens: args.eval_tokens,
        contenders: args.methods,
        widths: args.bits,
        seeds: args.seeds,
        clustering: args
            .palettes
            .shapes(ClusterSettings::new(Spec::default().bits, args.steps))?,
        palette_dtype: args.palettes.dtype(),
        steps: args.steps,
        learning_rate: args.lr,
        sequence: args.seq,
        batch: args.batch,
        windows: args.windows,
        out: std::path::absolute(args.out.unwrap_or_else(|| free_folder(Path::new(DEFAULT_OUT))))?,
        overwrite: overwrite(args.overwrite),
        on_limits: on_limits(args.ignore_limits),
    };
    let comparison = compare(&settings, &Cpu::default(), &mut Progress::new(output).with_signals()?)?;
    output.line("");
    output.line(comparison.markdown());
    output.line(format!("table, numbers and plot are in {}", settings.out.display()));
    output.json(&comparison)?;
    Ok(())
}
