//! Whole files: what is written is read, and what is wrong is named.

use edkm_palette::{FileError, PaletteDType, PaletteError, PaletteFile, PaletteSpec, PalettizedMatrix, PlainTensor};

fn file() -> PaletteFile {
    let spec = PaletteSpec {
        palette_dtype: PaletteDType::F16,
        ..PaletteSpec::new(2)
    };
    let indices = [0, 1, 2, 3, 3, 2, 1, 0];
    let matrix = PalettizedMatrix::pack(2, 4, spec, &[-1.0, 0.0, 0.5, 2.0], &indices, Some(&[1.0, 3.0])).unwrap();
    let plain = PlainTensor {
        shape: vec![2, 1],
        numbers: vec![0.25, -7.0],
    };
    PaletteFile {
        matrices: [("a.weight".to_owned(), matrix)].into(),
        plain: [("a.bias".to_owned(), plain)].into(),
    }
}

#[test]
fn what_is_saved_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, "what was there").unwrap();
    file().save(&path).unwrap();
    let left: Vec<_> = dir
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["model.safetensors"]);
    let opened = PaletteFile::open(&path).unwrap();
    assert_eq!(opened.plain, file().plain);
    assert_eq!(
        opened.matrices["a.weight"].dequantize(),
        file().matrices["a.weight"].dequantize()
    );
    assert_eq!(opened.matrices["a.weight"].dequantize()[4..], [6.0, 1.5, 0.0, -3.0]);
    assert_eq!(opened.to_bytes().unwrap(), std::fs::read(&path).unwrap());
}

#[test]
fn tensors_in_sixteen_bits_are_widened_and_others_refused() {
    let bytes = file().to_bytes().unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + header_len]).unwrap();
    // the eight bytes of the bias are four numbers of 16 bits
    let as_dtype = |dtype: &str, shape: &str| {
        let header = header.replace(
            r#""a.bias":{"dtype":"F32","shape":[2,1]"#,
            &format!(r#""a.bias":{{"dtype":"{dtype}","shape":{shape}"#),
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.into_bytes());
        file.extend(&bytes[8 + header_len..]);
        PaletteFile::from_bytes(&file)
    };
    let numbers = |dtype| as_dtype(dtype, "[4]").unwrap().plain["a.bias"].numbers.clone();
    assert_eq!(numbers("BF16"), [0.0, 0.25, 0.0, -7.0]);
    // 0x3e80 and 0xc0e0
    assert_eq!(numbers("F16"), [0.0, 1.625, 0.0, -2.4375]);
    assert!(matches!(
        as_dtype("I64", "[1]").unwrap_err(),
        PaletteError::Dtype { entry, .. } if entry == "a.bias"
    ));
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no").join("model.safetensors");
    let error = file().save(&path).unwrap_err();
    assert!(matches!(error, FileError::Io { action: "write", .. }));
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert!(PaletteFile::open(&path)
        .unwrap_err()
        .to_string()
        .starts_with("cannot read"));
    let path = dir.path().join("text.safetensors");
    std::fs::write(&path, "no such thing").unwrap();
    let error = PaletteFile::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("text.safetensors") && error.contains("not a safetensors file"),
        "{error}"
    );

    let mut twice = file();
    twice
        .plain
        .insert("a.weight.indices".to_owned(), PlainTensor::default());
    let short = twice.to_bytes().unwrap_err();
    assert!(short.to_string().contains("a.weight.indices"), "{short}");
    let none = PlainTensor {
        shape: vec![0],
        numbers: Vec::new(),
    };
    twice.plain.insert("a.weight.indices".to_owned(), none);
    assert!(matches!(twice.to_bytes().unwrap_err(), PaletteError::SameEntry { entry } if entry == "a.weight.indices"));
    let plain = safetensors::serialize(std::iter::empty::<(&str, &edkm_palette::Entry<'_>)>(), None).unwrap();
    assert!(matches!(
        PaletteFile::from_bytes(&plain).unwrap_err(),
        PaletteError::NotPalettized { .. }
    ));
}
