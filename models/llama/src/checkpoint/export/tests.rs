use std::fs;

use edkm_palette::{FormatMetadata, PaletteSpec, PalettizedMatrix};
use half::{bf16, f16};

use super::*;
use crate::{
    config::{tests::tiny, CONFIG_FILE},
    names::Role,
};

/// A folder with a tokenizer in which the linear layers are palettized; and its weights as they are computed with.
fn packed(config: &LlamaConfig) -> (tempfile::TempDir, BTreeMap<String, Vec<f32>>) {
    let dir = tempfile::tempdir().unwrap();
    let mut format = FormatMetadata::new();
    let (mut dense, mut matrices) = (Vec::new(), Vec::new());
    for (i, p) in names::parameters(config).enumerate() {
        let count = p.shape.iter().product::<usize>();
        if p.role == Role::Linear {
            let indices: Vec<u8> = (0..count).map(|j| ((i + j) % 8) as u8).collect();
            let palette: Vec<f32> = (0..8).map(|k| ((k + i) as f32 * 0.7).sin()).collect();
            let scales: Vec<f32> = (0..p.shape[0]).map(|row| 1.0 + row as f32 / 3.0).collect();
            let spec = PaletteSpec::new(3);
            let matrix = PalettizedMatrix::pack(p.shape[0], p.shape[1], spec, &palette, &indices, Some(&scales));
            matrices.push((p.name, matrix.unwrap()));
        } else {
            dense.push((
                p.name,
                p.shape,
                (0..count).map(|j| ((i * 31 + j) as f32).cos()).collect::<Vec<f32>>(),
            ));
        }
    }
    let mut entries = Vec::new();
    let mut weights = BTreeMap::new();
    for (name, shape, values) in &dense {
        entries.push(TensorEntry::values(name, &**shape, values, FloatDtype::F32));
        weights.insert(name.clone(), values.clone());
    }
    for (name, matrix) in &matrices {
        format.insert(name, matrix);
        entries.extend(matrix.to_entries(name).into_iter().map(TensorEntry::from));
        weights.insert(name.clone(), matrix.dequantize());
    }
    let metadata = format.to_map().unwrap().into_iter().collect();
    write_model(dir.path(), entries, &metadata, Sharding::Single).unwrap();
    config.write(dir.path()).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    (dir, weights)
}

#[test]
fn weights_are_those_that_the_packed_model_computes_with() {
    let config = LlamaConfig {
        tie_word_embeddings: false,
        ..tiny()
    };
    let (from, weights) = packed(&config);
    for (dtype, round, torch) in [
        (FloatDtype::F32, (|v| v) as fn(f32) -> f32, "float32"),
        (FloatDtype::F16, |v| f16::from_f32(v).to_f32(), "float16"),
        (FloatDtype::Bf16, |v| bf16::from_f32(v).to_f32(), "bfloat16"),
    ] {
        for sharding in [Sharding::Single, Sharding::Shards { max_bytes: 1000 }] {
            let to = tempfile::tempdir().unwrap();
            let settings = ExportSettings {
                dtype,
                sharding,
                ..Default::default()
            };
            let written = export_hugging_face(from.path(), to.path(), &settings, to_the_end).unwrap();
            let checkpoint = Checkpoint::open(to.path()).unwrap();
            let read = LlamaConfig::read(to.path()).unwrap();
            checkpoint.verify(&read).unwrap();
            assert_eq!(read.extra["torch_dtype"], torch);
            assert_eq!(
                LlamaConfig {
                    extra: config.extra.clone(),
                    ..read
                },
                config
            );
            assert!(checkpoint.format().is_none());
            for parameter in names::parameters(&config) {
                let want: Vec<f32> = weights[&parameter.name].iter().map(|&v| round(v)).collect();
                assert_eq!(
                    checkpoint.read_f32(&parameter.name, &parameter.shape).unwrap(),
                    want,
                    "{}",
                    parameter.name
                );
                assert_eq!(checkpoint.info(&parameter.name).unwrap().dtype, dtype.safetensors());
            }
            assert!(to.path().join("tokenizer.json").exists());
            let sizes = written.files.iter().map(|file| fs::metadata(file).unwrap().len());
            assert_eq!(
                written.bytes,
                sizes.sum::<u64>(),
                "the files are where they are said to be"
            );
        }
    }
}

fn to_the_end(_: f64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn how_far_it_is_is_told_and_it_can_be_ended() {
    let (from, _) = packed(&tiny());
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("out");
    type Export =
        fn(&Path, &Path, &ExportSettings, &mut dyn FnMut(f64) -> ControlFlow<()>) -> Result<WrittenModel, LlamaError>;
    for export in [
        (|from, out, settings, progress| export_hugging_face(from, out, settings, progress)) as Export,
        |from, out, settings, progress| super::super::export_coreml_torch(from, out, settings, progress),
    ] {
        let settings = ExportSettings::default();
        let stopped = export(from.path(), &out, &settings, &mut |share| match share < 0.5 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        });
        assert!(matches!(stopped, Err(LlamaError::Stopped)));
        assert_eq!(around.path().read_dir().unwrap().count(), 0);
        let mut shares = Vec::new();
        let whole = export(from.path(), &out, &settings, &mut |share| {
            shares.push(share);
            ControlFlow::Continue(())
        });
        whole.unwrap();
        assert_eq!(shares.len(), names::parameters(&tiny()).count());
        assert!(shares[0] == 0.0 && shares.is_sorted() && shares.iter().all(|&share| share < 1.0));
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn exporting_twice_gives_the_same_bytes() {
    let (from, _) = packed(&tiny());
    let export = || {
        let to = tempfile::tempdir().unwrap();
        let settings = ExportSettings {
            dtype: FloatDtype::Bf16,
            ..Default::default()
        };
        export_hugging_face(from.path(), to.path(), &settings, to_the_end).unwrap();
        ["model.safetensors", CONFIG_FILE].map(|name| fs::read(to.path().join(name)).unwrap())
    };
    assert_eq!(export(), export());
}

#[test]
fn a_folder_can_be_exported_onto_itself() {
    let config = tiny();
    let (dir, weights) = packed(&config);
    let settings = ExportSettings {
        overwrite: Overwrite::Replace,
        ..Default::default()
    };
    export_hugging_face(dir.path(), dir.path(), &settings, to_the_end).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for parameter in names::parameters(&config) {
        let read = checkpoint.read_f32(&parameter.name, &parameter.shape).unwrap();
        assert_eq!(read, weights[&parameter.name]);
    }
}

#[test]
fn a_weight_that_does_not_fit_is_named_and_nothing_is_left() {
    let config = tiny();
    let dir = tempfile::tempdir().unwrap();
    let filled = |p: Parameter| {
        let mut values = vec![0.5; p.shape.iter().product()];
        if p.name == "model.layers.1.mlp.up_proj.weight" {
            values[7] = 1e6;
        }
        (p, values)
    };
    let filled: Vec<_> = names::parameters(&config).map(filled).collect();
    let entries = filled
        .iter()
        .map(|(p, values)| TensorEntry::values(&p.name, &*p.shape, values, FloatDtype::F32));
    write_model(dir.path(), entries.collect(), &BTreeMap::new(), Sharding::Single).unwrap();
    config.write(dir.path()).unwrap();

    let around = tempfile::tempdir().unwrap();
    let to = around.path().join("out");
    let export = |dtype| {
        export_hugging_face(
            dir.path(),
            &to,
            &ExportSettings {
                dtype,
                ..Default::default()
            },
            to_the_end,
        )
    };
    let message = export(FloatDtype::F16).unwrap_err().to_string();
    assert!(
        message.contains("layers.1.mlp.up_proj.weight\": 1000000 at flat index 7"),
        "{message}"
    );
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 0);
    export(FloatDtype::Bf16).unwrap();
    let again = export(FloatDtype::Bf16).unwrap_err();
    assert!(matches!(again, LlamaError::OutputExists { .. }), "{again}");
}
