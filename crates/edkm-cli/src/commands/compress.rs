//! `edkm compress`

use dfdx::prelude::*;
use edkm_cluster::{Bits, Spec};
use edkm_llama::config::LlamaConfig;
use edkm_train::run::{
    compress_folder, plan_compress, CalibrationSettings, ClusterSettings, CompressSettings, DataSource, ModelPalettes,
};

use super::{on_limits, overwrite, plan, Failure};
use crate::args::CompressArgs;
use crate::console::{bytes, note, Output};
use crate::hub;
use crate::progress::Progress;

pub fn run(args: CompressArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let plain = ClusterSettings {
        seed: args.seed,
        ..ClusterSettings::new(args.bits.map_or(Ok(Spec::default().bits), Bits::new)?, 0)
    };
    let has_bits = args.bits.is_some();
    let settings = CompressSettings {
        model_dir: hub::folder(&args.model_dir)?,
        method: args.method.into(),
        clustering: args.palettes.settings(args.bits_budget, plain)?,
        calibration: (!args.data.is_empty()).then_some(CalibrationSettings {
            data: DataSource::Files(args.data),
            sequence: args.seq,
            windows: args.windows,
            seed: args.seed,
        }),
        // a plan writes nothing
        out: args.out.unwrap_or_default(),
        overwrite: overwrite(args.overwrite),
        on_limits: on_limits(args.ignore_limits),
    };
    if settings.calibration.is_some() && !settings.looks_at_text() {
        note(format_args!(
            "{} looks at no text: --data is not read",
            settings.method.name()
        ));
    }
    let config = LlamaConfig::read(&settings.model_dir)?;
    if has_bits {
        args.palettes.check_bits(&settings.clustering, &config)?;
    }
    let mut progress = Progress::new(output).with_signals()?;
    if args.plan {
        let layers = plan_compress(&settings, &Cpu::default(), &mut progress)?;
        return plan::show(output, layers);
    }
    if let Some(palettes) = ModelPalettes::read(&settings.model_dir)? {
        note(format_args!(
            "{} is compressed already ({}): what becomes of it is that of its palettes, not of the original's weights",
            settings.model_dir.display(),
            palettes.in_words()
        ));
    }
    plan::note_if_larger(&config, &settings.clustering);
    if !settings.model_dir.join("tokenizer.json").exists() {
        note("the model has no tokenizer.json: eval, generate and chat will need one beside what is written");
    }
    let outcome = compress_folder(&settings, &Cpu::default(), &mut progress)?;
    output.line(format!(
        "{} -> {}, {}; {:.1} s",
        bytes(outcome.size_before_bytes),
        bytes(outcome.size_bytes),
        match outcome.bits_per_weight {
            Some(bits) => format!("{bits:.3} bits a clustered weight, palettes counted"),
            None => "no matrix compressed".to_owned(),
        },
        outcome.seconds
    ));
    output.line(format!("wrote {}", outcome.out.display()));
    output.json(&outcome)?;
    Ok(())
}
