//! The CUDA C sources, as they stand in `cuda/`.

/// What comes first in each translation unit, in this order.
pub const HEADERS: [&str; 2] = [include_str!("../cuda/prelude.cuh"), include_str!("../cuda/tiles.cuh")];

/// The files, by name.
pub const FILES: [(&str, &str); 18] = [
    ("adamw.cu", include_str!("../cuda/adamw.cu")),
    ("attention.cu", include_str!("../cuda/attention.cu")),
    ("cached_attention.cu", include_str!("../cuda/cached_attention.cu")),
    ("clustering.cu", include_str!("../cuda/clustering.cu")),
    ("dense.cu", include_str!("../cuda/dense.cu")),
    ("digest.cu", include_str!("../cuda/digest.cu")),
    ("elementwise.cu", include_str!("../cuda/elementwise.cu")),
    ("embedding.cu", include_str!("../cuda/embedding.cu")),
    ("half.cu", include_str!("../cuda/half.cu")),
    ("halves.cu", include_str!("../cuda/halves.cu")),
    ("hidden_distance.cu", include_str!("../cuda/hidden_distance.cu")),
    ("losses.cu", include_str!("../cuda/losses.cu")),
    ("packed.cu", include_str!("../cuda/packed.cu")),
    ("repetitions.cu", include_str!("../cuda/repetitions.cu")),
    ("rms_norm.cu", include_str!("../cuda/rms_norm.cu")),
    ("rotary.cu", include_str!("../cuda/rotary.cu")),
    ("row_scales.cu", include_str!("../cuda/row_scales.cu")),
    ("swiglu.cu", include_str!("../cuda/swiglu.cu")),
];

/// All of it as one translation unit.
pub fn translation_unit() -> String {
    let files = FILES.iter().map(|(_, source)| *source);
    HEADERS.into_iter().chain(files).collect::<Vec<_>>().join("\n")
}

/// The names of all kernels.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    FILES.iter().flat_map(|(_, source)| {
        let heads = source.split("EDKM_KERNEL ").skip(1);
        heads.filter_map(|head| head.split('(').next())
    })
}
