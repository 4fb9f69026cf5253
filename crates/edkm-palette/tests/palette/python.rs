//! The reader in docs/palettized-format.md reads what this crate writes.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};

use edkm_palette::{FormatMetadata, PaletteDType, PaletteSpec};

use crate::common::Parts;

const FORMAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/palettized-format.md");

/// The code of the document's reader.
fn reader() -> String {
    let text = fs::read_to_string(FORMAT).unwrap();
    let code = text
        .split("```python\n")
        .nth(1)
        .expect("the document has a block of Python");
    code.split("```").next().unwrap().to_owned()
}

/// Runs a program of Python; `None` without python3 or numpy.
fn python(dir: &Path, code: &str) -> Option<String> {
    let numpy = Command::new("python3")
        .args(["-c", "import numpy"])
        .stderr(Stdio::null())
        .status();
    if !numpy.is_ok_and(|status| status.success()) {
        return None;
    }
    let output = Command::new("python3")
        .args(["-c", code])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_documented_reader_reads_every_kind_of_tensor() {
    let mut cases = Vec::new();
    for bits in 1..=8 {
        for (vector, group, dtype, scaled) in [
            (1, None, PaletteDType::F32, false),
            (1, Some(8), PaletteDType::F16, true),
            (2, Some(15), PaletteDType::Bf16, false),
            (4, Some(31), PaletteDType::I8, true),
            (8, Some(24), PaletteDType::F32, false),
            (1, Some(99), PaletteDType::F32, false),
        ] {
            let group_rows = group.and_then(NonZeroUsize::new);
            let spec = PaletteSpec {
                bits,
                group_rows,
                vector,
                palette_dtype: dtype,
            };
            cases.push(Parts::random(50, 13 * vector, spec, scaled, u64::from(bits)));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut metadata = FormatMetadata::new();
    let matrices: Vec<_> = cases.iter().map(Parts::pack).collect();
    let names: Vec<_> = (0..cases.len()).map(|i| format!("tensor{i}")).collect();
    let mut entries = Vec::new();
    for (name, matrix) in names.iter().zip(&matrices) {
        metadata.insert(name, matrix);
        entries.extend(matrix.to_entries(name));
    }
    let views = entries.iter().map(|entry| (entry.name.as_str(), entry));
    let file = safetensors::serialize(views, Some(metadata.to_map().unwrap())).unwrap();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();

    let program = format!(
        "{}\nfor i in range({}):\n    read('model.safetensors', f'tensor{{i}}').astype('<f4').tofile(f'tensor{{i}}')\n",
        reader(),
        cases.len()
    );
    if python(dir.path(), &program).is_none() {
        edkm_testkit::skipped("python3 with numpy is not there");
        return;
    }
    for ((name, matrix), parts) in names.iter().zip(&matrices).zip(&cases) {
        let bytes = fs::read(dir.path().join(name)).unwrap();
        let weights: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        assert_eq!(weights, parts.weights(matrix), "{name}: {:?}", parts.spec);
    }
}
