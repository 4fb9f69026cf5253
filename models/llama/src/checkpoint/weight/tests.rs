use std::fs;

use edkm_palette::PaletteSpec;

use super::*;
use crate::checkpoint::{write_model, Access, FloatDtype, Sharding, TensorEntry, MODEL_FILE};

/// Two palettized matrices beside a dense one.
fn palettized_folder() -> (tempfile::TempDir, PalettizedMatrix) {
    let dir = tempfile::tempdir().unwrap();
    let indices: Vec<u8> = (0..20 * 8).map(|i| (i % 4) as u8).collect();
    let scales = [0.5; 20];
    let matrix = PalettizedMatrix::pack(
        20,
        8,
        PaletteSpec::new(2),
        &[-1.0, 0.0, 0.5, 2.0],
        &indices,
        Some(&scales),
    );
    let matrix = matrix.unwrap();
    let mut format = FormatMetadata::new();
    let mut entries = vec![TensorEntry::values("norm.weight", [2], &[1.0, 2.0], FloatDtype::F32)];
    for name in ["a.weight", "b.weight"] {
        format.insert(name, &matrix);
        entries.extend(matrix.to_entries(name).into_iter().map(TensorEntry::from));
    }
    let metadata = format.to_map().unwrap().into_iter().collect();
    write_model(dir.path(), entries, &metadata, Sharding::Single).unwrap();
    (dir, matrix)
}

#[test]
fn palettized_weights_are_weights() {
    let (dir, matrix) = palettized_folder();
    for access in [Access::Map, Access::Read] {
        let checkpoint = Checkpoint::open_with(dir.path(), access).unwrap();
        assert_eq!(
            checkpoint.weight_names().collect::<Vec<_>>(),
            ["a.weight", "b.weight", "norm.weight"]
        );
        assert_eq!(checkpoint.weight_shape("b.weight"), Some(vec![20, 8]));
        assert!(checkpoint.is_palettized("a.weight") && !checkpoint.is_palettized("norm.weight"));
        let Weight::Palettized(read) = checkpoint.weight("a.weight", &[20, 8]).unwrap() else {
            panic!("stored as palette")
        };
        assert_eq!(read.dequantize(), matrix.dequantize());
        // Either owner is shared with the matrix: the packed words are not copied again.
        assert!(read.is_mapped());
        let dense = checkpoint.weight("norm.weight", &[2]).unwrap();
        assert!(matches!(&dense, Weight::Dense(values) if values == &[1.0, 2.0]));
        let message = checkpoint.weight("a.weight", &[8, 20]).unwrap_err().to_string();
        assert!(message.contains("\"a.weight\" has shape [20, 8]"), "{message}");
        assert!(matches!(
            checkpoint.palettized("norm.weight"),
            Err(LlamaError::NoTensor { .. })
        ));
    }
}

#[test]
fn a_mapped_matrix_outlives_its_checkpoint_and_its_file() {
    let (dir, matrix) = palettized_folder();
    let read = Checkpoint::open(dir.path()).unwrap().palettized("a.weight").unwrap();
    drop(dir);
    assert_eq!(read.indices(), matrix.indices());
}

#[test]
fn damaged_palettized_files_are_refused() {
    let (dir, _) = palettized_folder();
    let path = dir.path().join(MODEL_FILE);
    let content = fs::read(&path).unwrap();
    let open = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = content.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut damaged = content.clone();
        damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, damaged).unwrap();
        Checkpoint::open(dir.path())
    };
    let message = open(r#"\"version\":1"#, r#"\"version\":7"#).unwrap_err().to_string();
    assert!(message.contains("version `7`"), "{message}");
    let message = open("a.weight.indices", "z.weight.indices")
        .unwrap()
        .palettized("a.weight")
        .unwrap_err()
        .to_string();
    assert!(message.contains("`a.weight.indices` is missing"), "{message}");
    let message = open(r#"\"shape\":[20,8]"#, r#"\"shape\":[90,8]"#)
        .unwrap()
        .palettized("a.weight")
        .unwrap_err();
    assert!(matches!(message, LlamaError::Palette { .. }), "{message}");
    let shrunk = Checkpoint::open(dir.path()).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(content.len() as u64 / 2)
        .unwrap();
    assert!(matches!(shrunk.palettized("b.weight"), Err(LlamaError::Shrunk { .. })));
}
