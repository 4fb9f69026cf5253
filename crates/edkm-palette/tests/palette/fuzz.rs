//! A bounded run of the fuzz target: small files of each kind, and damaged copies of them. `EDKM_FUZZ=N` tries N of them.

use std::num::NonZeroUsize;

use edkm_palette::{PaletteDType, PaletteSpec};
use edkm_testkit::mutations::{count, mutated};

use crate::common::Parts;
use crate::format::file;
use crate::fuzz_body::read_file;

#[test]
fn damaged_files_are_refused_or_safe() {
    let kinds = [
        (PaletteDType::F32, 3, 1, None),
        (PaletteDType::F16, 8, 4, None),
        (PaletteDType::Bf16, 1, 2, NonZeroUsize::new(5)),
        (PaletteDType::I8, 2, 1, NonZeroUsize::new(1)),
    ];
    let seeds: Vec<_> = kinds
        .map(|(palette_dtype, bits, vector, group_rows)| {
            let spec = PaletteSpec {
                bits,
                group_rows,
                vector,
                palette_dtype,
            };
            let matrix = Parts::random(18, 8, spec, bits == 2, 1).pack();
            file(&[("w", &matrix)])
        })
        .into();
    mutated(&seeds, count(10_000)).for_each(|input| read_file(&input));
}
