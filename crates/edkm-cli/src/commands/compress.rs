//! `edkm compress`

use dfdx::prelude::*;
use edkm_cluster::Bits;
use edkm_llama::checkpoint::Overwrite;
use edkm_train::compress::Method;
use edkm_train::run::{compress_folder, ClusterSettings, CompressSettings};

use super::Failure;
use crate::args::{CompressArgs, CompressMethod};
use crate::console::{bytes, Output};

pub fn run(args: CompressArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let settings = CompressSettings {
        model_dir: args.model_dir,
        method: match args.method {
            CompressMethod::Kmeans => Method::KMeans,
            CompressMethod::Rtn => Method::RoundToNearest,
        },
        clustering: ClusterSettings {
            group: args.group,
            embedding_bits: args.embedding_bits.map(Bits::new).transpose()?,
            ..ClusterSettings::new(Bits::new(args.bits)?, 0)
        },
        out: args.out,
        overwrite: if args.overwrite {
            Overwrite::Replace
        } else {
            Overwrite::Refuse
        },
    };
    let outcome = compress_folder(&settings, &Cpu::default())?;
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
