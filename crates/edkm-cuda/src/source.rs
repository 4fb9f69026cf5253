//! The CUDA C sources, as they stand in `cuda/`.

/// What comes first in each translation unit.
pub const PRELUDE: &str = include_str!("../cuda/prelude.cuh");

/// The files, by name.
pub const FILES: [(&str, &str); 14] = [
    ("adamw.cu", include_str!("../cuda/adamw.cu")),
    ("attention.cu", include_str!("../cuda/attention.cu")),
    ("clustering.cu", include_str!("../cuda/clustering.cu")),
    ("digest.cu", include_str!("../cuda/digest.cu")),
    ("elementwise.cu", include_str!("../cuda/elementwise.cu")),
    ("embedding.cu", include_str!("../cuda/embedding.cu")),
    ("half.cu", include_str!("../cuda/half.cu")),
    ("halves.cu", include_str!("../cuda/halves.cu")),
    ("losses.cu", include_str!("../cuda/losses.cu")),
    ("packed.cu", include_str!("../cuda/packed.cu")),
    ("repetitions.cu", include_str!("../cuda/repetitions.cu")),
    ("rms_norm.cu", include_str!("../cuda/rms_norm.cu")),
    ("rotary.cu", include_str!("../cuda/rotary.cu")),
    ("swiglu.cu", include_str!("../cuda/swiglu.cu")),
];

/// All of it as one translation unit.
pub fn translation_unit() -> String {
    let files = FILES.iter().map(|(_, source)| *source);
    std::iter::once(PRELUDE).chain(files).collect::<Vec<_>>().join("\n")
}

/// The names of all kernels.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    FILES.iter().flat_map(|(_, source)| {
        let heads = source.split("EDKM_KERNEL ").skip(1);
        heads.filter_map(|head| head.split('(').next())
    })
}
