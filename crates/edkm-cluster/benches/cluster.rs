//! Forward and backward of clustering a 4096 x 4096 matrix, as multiples of the time to copy its four matrices once.
//!
//! `cargo bench -p edkm-cluster` runs all cases; an argument chooses those whose name contains it.

use std::num::NonZeroUsize;

use edkm_cluster::bench::run;
use edkm_cluster::{Bits, ClusterError, Grouping, HalfKind, Spec, Temperature, VectorLen};

fn main() -> Result<(), ClusterError> {
    let bits = |bits| Ok::<_, ClusterError>(Spec::new(Bits::new(bits)?));
    let groups = |rows| NonZeroUsize::new(rows).map_or(Grouping::PerTensor, Grouping::PerChannels);
    let cases = [
        ("3 bits", bits(3)?),
        ("8 bits", bits(8)?),
        (
            "8 bits, soft (all clusters matter)",
            bits(8)?.with_temperature(Temperature::Absolute(1e-4)),
        ),
        ("3 bits, f16", bits(3)?.with_half(HalfKind::F16)),
        ("4 bits, groups of 16 channels", bits(4)?.with_grouping(groups(16))),
        ("4 bits, groups of 1 channel", bits(4)?.with_grouping(groups(1))),
        ("vectors of 4, 8 bits", bits(8)?.with_vector(VectorLen::Four)),
        ("vectors of 2, 4 bits", bits(4)?.with_vector(VectorLen::Two)),
        ("vectors of 8, 8 bits", bits(8)?.with_vector(VectorLen::Eight)),
    ];
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!(
        "{:38} {:>10} {:>10} {:>10} {:>8}",
        "4096 x 4096", "forward", "backward", "memcpy", "ratio"
    );
    for (name, spec) in cases {
        if !chosen.is_empty() && !chosen.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let repeats = if spec.vector == VectorLen::One { 15 } else { 3 };
        let bench = run(4096, 4096, &spec, repeats)?;
        println!(
            "{name:38} {:7.1} ms {:7.1} ms {:7.1} ms {:8.2}   {} rows, {} bytes saved",
            bench.forward_seconds * 1e3,
            bench.backward_seconds * 1e3,
            bench.memcpy_seconds * 1e3,
            bench.ratio(),
            bench.distinct_values,
            bench.saved_bytes,
        );
    }
    Ok(())
}
