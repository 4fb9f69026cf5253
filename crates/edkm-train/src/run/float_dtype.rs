//! The type of weights that are not clustered.

use edkm_llama::checkpoint::{Checkpoint, Dtype, FloatDtype};
use edkm_llama::names::is_derived;

/// The type that weights which are not clustered are written in: the one they came in, and of several the one that loses nothing of any.
pub(crate) fn float_dtype(checkpoint: &Checkpoint) -> FloatDtype {
    // old checkpoints hold tables beside them, which are not written
    let is_plain = |name: &&str| !checkpoint.is_palettized(name) && !is_derived(name);
    let names = checkpoint.weight_names().filter(is_plain);
    let mut types = names
        .filter_map(|name| checkpoint.info(name))
        .map(|info| match info.dtype {
            Dtype::F16 => FloatDtype::F16,
            Dtype::BF16 => FloatDtype::Bf16,
            _ => FloatDtype::F32,
        });
    let first = types.next().unwrap_or(FloatDtype::F32);
    match types.all(|other| other == first) {
        true => first,
        false => FloatDtype::F32,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use edkm_llama::checkpoint::{write_safetensors, Access, TensorEntry};

    use super::*;

    #[test]
    fn nothing_is_rounded_where_types_are_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let table = "model.layers.0.self_attn.rotary_emb.inv_freq";
        let of = |types: [FloatDtype; 2]| {
            let path = dir.path().join("x.safetensors");
            let entry = |(name, dtype): (&str, FloatDtype)| TensorEntry::values(name, vec![1], &[1.5], dtype);
            let named = ["a", "b"].into_iter().zip(types).chain([(table, FloatDtype::F32)]);
            let entries = named.map(entry).collect();
            write_safetensors(&path, entries, &BTreeMap::new()).unwrap();
            float_dtype(&Checkpoint::open_file(&path, Access::Read).unwrap())
        };
        use FloatDtype::{Bf16, F16, F32};
        assert_eq!([of([F32, F32]), of([F16, F16]), of([Bf16, Bf16])], [F32, F16, Bf16]);
        assert_eq!([of([F32, Bf16]), of([Bf16, F32]), of([F16, Bf16])], [F32, F32, F32]);
    }
}
