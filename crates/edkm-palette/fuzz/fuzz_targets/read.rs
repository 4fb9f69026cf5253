//! A file of any bytes is refused or gives matrices whose every operation is safe.
#![no_main]

use edkm_palette::{read, EntryBytes, EntryView, FormatMetadata};
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|file: &[u8]| {
    let (Ok(tensors), Ok((_, header))) = (SafeTensors::deserialize(file), SafeTensors::read_metadata(file)) else { return };
    let Some(Ok(metadata)) = header.metadata().as_ref().map(FormatMetadata::from_map) else { return };
    for (name, _) in metadata.tensors() {
        let matrix = read(name, &metadata, |entry| {
            let view = tensors.tensor(entry).ok()?;
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            Some(EntryView { dtype, shape, bytes: EntryBytes::Copied(view.data()) })
        });
        let Ok(matrix) = matrix else { continue };
        let (x, mut y) = (vec![1.0; matrix.cols()], vec![0.0; matrix.rows()]);
        matrix.matvec(&x, &mut y).expect("sizes match");
        let weights = matrix.dequantize();
        assert!(matrix.row_scales().is_some() || weights.iter().all(|weight| weight.is_finite()));
        assert!(matrix.indices().iter().all(|&index| usize::from(index) < matrix.spec().clusters()));
        let _ = matrix.coreml_entries(name);
    }
});
