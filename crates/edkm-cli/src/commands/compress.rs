//! `edkm compress`

use dfdx::prelude::*;
use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, KeepZero, Spec, VectorLen};
use edkm_llama::checkpoint::Overwrite;
use edkm_train::run::{
    compress_folder, plan_compress, CalibrationSettings, ClusterSettings, CompressSettings, DataSource, LayerRules,
};

use super::{plan, Failure};
use crate::args::{CompressArgs, PaletteType};
use crate::console::{bytes, Output};
use crate::hub;
use crate::progress::Progress;

pub fn run(args: CompressArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let settings = CompressSettings {
        model_dir: hub::folder(&args.model_dir)?,
        method: args.method.into(),
        clustering: ClusterSettings {
            group: args.group,
            embedding_bits: args.embedding_bits.map(Bits::new).transpose()?,
            vector: VectorLen::new(args.vector.parse().unwrap_or(1))?,
            palette_dtype: PaletteType::or_default(args.palette_dtype, args.group, args.bits_budget),
            channel_scale: if args.per_channel_scale {
                ChannelScale::RootMeanSquare
            } else {
                ChannelScale::None
            },
            keep_zero: if args.keep_zero {
                KeepZero::Exact
            } else {
                KeepZero::Free
            },
            bits_budget: args.bits_budget,
            rules: args
                .layers
                .as_deref()
                .map(LayerRules::read)
                .transpose()?
                .unwrap_or_default(),
            ..ClusterSettings::new(args.bits.map_or(Ok(Spec::default().bits), Bits::new)?, 0)
        },
        calibration: (!args.data.is_empty()).then_some(CalibrationSettings {
            data: DataSource::Files(args.data),
            sequence: args.seq,
            windows: args.windows,
            seed: args.seed,
        }),
        out: args.out,
        overwrite: if args.overwrite {
            Overwrite::Replace
        } else {
            Overwrite::Refuse
        },
    };
    if args.plan {
        let layers = plan_compress(&settings, &Cpu::default(), &mut Progress::new(output))?;
        return plan::show(output, layers);
    }
    let outcome = compress_folder(&settings, &Cpu::default(), &mut Progress::new(output))?;
    output.line(format!(
        "{} -> {}, {:.3} bits a compressed weight, palettes counted; {:.1} s",
        bytes(outcome.size_before_bytes),
        bytes(outcome.size_bytes),
        outcome.bits_per_weight.unwrap_or_default(),
        outcome.seconds
    ));
    output.line(format!("wrote {}", outcome.out.display()));
    output.json(&outcome)?;
    Ok(())
}
