//! What the fuzz target checks. The target in `fuzz` calls it with what the fuzzer finds, the test beside it with damaged files.

use edkm_palette::{read, EntryBytes, EntryView, FormatMetadata};
use safetensors::SafeTensors;

/// A file of any bytes is refused or gives matrices whose every operation is safe.
pub(crate) fn read_file(file: &[u8]) {
    let (Ok(tensors), Ok((_, header))) = (SafeTensors::deserialize(file), SafeTensors::read_metadata(file)) else {
        return;
    };
    let Some(Ok(metadata)) = header.metadata().as_ref().map(FormatMetadata::from_map) else {
        return;
    };
    for (name, _) in metadata.tensors() {
        let matrix = read(name, &metadata, |entry| {
            let view = tensors.tensor(entry).ok()?;
            Some(EntryView {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: EntryBytes::Copied(view.data()),
            })
        });
        let Ok(matrix) = matrix else {
            continue;
        };
        let (x, mut y) = (vec![1.0; matrix.cols()], vec![0.0; matrix.rows()]);
        matrix.matvec(&x, &mut y).expect("sizes match");
        let weights = matrix.dequantize();
        assert!(matrix.row_scales().is_some() || weights.iter().all(|weight| weight.is_finite()));
        let clusters = matrix.spec().clusters();
        assert!(matrix.indices().iter().all(|&index| usize::from(index) < clusters));
        let _ = matrix.coreml_entries(name);
    }
}
