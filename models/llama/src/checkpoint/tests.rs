use std::{fs, path::Path};

use edkm_palette::FormatMetadata;
use edkm_testkit::golden::Folder;
use half::{bf16, f16};
use safetensors::tensor::{serialize_to_file, TensorView};

use super::*;
use crate::{
    config::{tests::tiny, AttentionBias, LlamaConfig},
    names, MisshapenTensor,
};

/// A file as the reference implementation of the format writes it.
fn write_reference(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, view(*dtype, shape, bytes)));
    serialize_to_file(views, None, path).unwrap();
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A folder with these tensors in `model.safetensors`.
fn folder(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_reference(&dir.path().join(MODEL_FILE), tensors);
    dir
}

/// A folder with every parameter of a model, each filled with its number in the table.
fn model(config: &LlamaConfig, sharding: Sharding) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let filled: Vec<_> = names::parameters(config).enumerate().map(filled).collect();
    let entries = filled
        .iter()
        .map(|(p, values)| TensorEntry::values(&p.name, &*p.shape, values, FloatDtype::F32));
    write_model(dir.path(), entries.collect(), &BTreeMap::new(), sharding).unwrap();
    dir
}

fn filled((i, parameter): (usize, names::Parameter)) -> (names::Parameter, Vec<f32>) {
    let values = vec![i as f32; parameter.shape.iter().product()];
    (parameter, values)
}

#[test]
fn reads_what_the_reference_writes() {
    // Several chunks, the last of them short.
    let values: Vec<f32> = (0..600_007).map(|i| (i as f32 - 150_000.0) * 0.125).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let bf16s: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    let shape = vec![1, 600_007];
    let dir = folder(&[
        ("a", Dtype::F32, shape.clone(), bytes_of(&values)),
        ("b", Dtype::F16, shape.clone(), f16s),
        ("c", Dtype::BF16, shape.clone(), bf16s.clone()),
        ("empty", Dtype::F32, vec![0, 3], vec![]),
    ]);
    for access in [Access::Map, Access::Read] {
        let checkpoint = Checkpoint::open_with(dir.path(), access).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c", "empty"]);
        assert_eq!(checkpoint.read_f32("a", &shape).unwrap(), values);
        let rounded = |round: fn(f32) -> f32| values.iter().map(|&v| round(v)).collect::<Vec<f32>>();
        assert_eq!(
            checkpoint.read_f32("b", &shape).unwrap(),
            rounded(|v| f16::from_f32(v).to_f32())
        );
        assert_eq!(
            checkpoint.read_f32("c", &shape).unwrap(),
            rounded(|v| bf16::from_f32(v).to_f32())
        );
        assert_eq!(checkpoint.read_f32("empty", &[0, 3]).unwrap(), [0f32; 0]);
        let raw = checkpoint.raw("c").unwrap();
        assert_eq!(
            (raw.dtype, &raw.shape, raw.bytes.as_slice()),
            (Dtype::BF16, &shape, &bf16s[..])
        );
        assert_eq!(
            checkpoint.file_bytes(),
            fs::metadata(dir.path().join(MODEL_FILE)).unwrap().len()
        );
    }
}

#[test]
fn what_is_asked_for_must_be_what_is_there() {
    let dir = folder(&[
        ("a", Dtype::F32, vec![2, 3], bytes_of(&[0.0; 6])),
        ("b", Dtype::I64, vec![1], vec![0; 8]),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let message = |result: Result<Vec<f32>, LlamaError>| result.unwrap_err().to_string();
    let missing = message(checkpoint.read_f32("z", &[1]));
    assert!(missing.contains("no tensor \"z\""), "{missing}");
    // As many elements do not make it the same shape.
    let shape = message(checkpoint.read_f32("a", &[3, 2]));
    assert!(
        shape.contains("\"a\" has shape [2, 3]") && shape.contains("[3, 2]"),
        "{shape}"
    );
    let dtype = message(checkpoint.read_f32("b", &[1]));
    assert!(
        dtype.contains("\"b\" has type I64") && dtype.contains("BF16"),
        "{dtype}"
    );
    let short = checkpoint.read_f32_into("a", &[2, 3], &mut [0.0; 5]);
    assert!(matches!(
        short,
        Err(LlamaError::WrongLength {
            expected: 24,
            got: 20,
            ..
        })
    ));
}

#[test]
fn the_first_weight_that_is_not_finite_is_named() {
    let mut values = vec![0.5f32; 700_000];
    for (index, value) in [
        (300_001, f32::INFINITY),
        (300_002, f32::NAN),
        (650_000, f32::NEG_INFINITY),
    ] {
        values[index] = value;
    }
    let halves = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let shape = vec![700, 1000];
    let dir = folder(&[
        ("a", Dtype::F32, shape.clone(), bytes_of(&values)),
        ("b", Dtype::F16, shape.clone(), halves),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for name in ["a", "b"] {
        let error = checkpoint.read_f32(name, &shape).unwrap_err();
        assert!(
            matches!(
                error,
                LlamaError::NotFinite {
                    index: 300_001,
                    value: f32::INFINITY,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("\"{name}\" holds inf at flat index 300001")),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let dir = folder(&[("a", Dtype::F32, vec![4], bytes_of(&[1.0; 4]))]);
    let path = dir.path().join(MODEL_FILE);
    for access in [Access::Map, Access::Read] {
        let checkpoint = Checkpoint::open_with(dir.path(), access).unwrap();
        let content = fs::read(&path).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(content.len() as u64 - 1)
            .unwrap();
        for error in [
            checkpoint.read_f32("a", &[4]).unwrap_err(),
            checkpoint.raw("a").unwrap_err(),
        ] {
            assert!(
                matches!(&error, LlamaError::Shrunk { name, .. } if name == "a"),
                "{error}"
            );
        }
        fs::write(&path, content).unwrap();
    }
}

#[test]
fn missing_and_truncated_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(open(), LlamaError::Missing { .. }));
    let path = dir.path().join(MODEL_FILE);
    write_reference(&path, &[("a", Dtype::F32, vec![4], bytes_of(&[1.0; 4]))]);
    let content = fs::read(&path).unwrap();
    for length in 0..content.len() {
        fs::write(&path, &content[..length]).unwrap();
        let message = open().to_string();
        assert!(
            message.contains("model.safetensors") && message.contains("truncated"),
            "{length}: {message}"
        );
    }
    fs::write(&path, &content[..content.len() - 3]).unwrap();
    assert!(open().to_string().contains("\"a\" ends at byte"), "{}", open());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(open(), LlamaError::NotAFile { .. }));
}

#[test]
fn shards_are_one_checkpoint() {
    let config = LlamaConfig {
        tie_word_embeddings: false,
        ..tiny()
    };
    for max_bytes in [0, 700, 1 << 20] {
        let dir = model(&config, Sharding::Shards { max_bytes });
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        checkpoint.verify(&config).unwrap();
        assert_eq!(dir.path().join(INDEX_FILE).exists(), max_bytes < 1 << 20);
        for (parameter, values) in names::parameters(&config).enumerate().map(filled) {
            assert_eq!(checkpoint.read_f32(&parameter.name, &parameter.shape).unwrap(), values);
        }
    }
}

#[test]
fn an_index_is_not_believed() {
    let dir = folder(&[("a", Dtype::U8, vec![1], vec![1])]);
    fs::rename(dir.path().join(MODEL_FILE), dir.path().join("one.safetensors")).unwrap();
    let open = |index: &str| {
        fs::write(dir.path().join(INDEX_FILE), index).unwrap();
        Checkpoint::open(dir.path())
    };
    open(r#"{"metadata":{"total_size":1,"x":[1]},"weight_map":{"a":"one.safetensors"}}"#).unwrap();
    for (index, part) in [
        (r#"{"weight_map":{"a":"../one.safetensors"}}"#, "named without a folder"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "named without a folder"),
        (
            r#"{"weight_map":{"a":"sub/one.safetensors"}}"#,
            "named without a folder",
        ),
        (
            r#"{"weight_map":{"a":"..\\one.safetensors"}}"#,
            "named without a folder",
        ),
        (r#"{"weight_map":{"a":"C:one.safetensors"}}"#, "named without a folder"),
        (
            r#"{"weight_map":{"a":"one.safetensors\u0000"}}"#,
            "named without a folder",
        ),
        (r#"{"weight_map":{"a":".."}}"#, "named without a folder"),
        (r#"{"weight_map":{"a":"."}}"#, "named without a folder"),
        (r#"{"weight_map":{"a":""}}"#, "named without a folder"),
        (
            r#"{"weight_map":{"a":"two.safetensors"}}"#,
            "\"two.safetensors\" is missing",
        ),
        (
            r#"{"weight_map":{"b":"one.safetensors"}}"#,
            "\"b\" is not in \"one.safetensors\"",
        ),
        (
            r#"{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}"#,
            "\"a\" occurs twice",
        ),
        (r#"{"weight_map":{"a":1}}"#, "expected a string"),
        (r#"{"weight_map":{}}"#, "no tensors"),
        (r#"{"metadata":{}}"#, "weight_map"),
        ("[", "EOF"),
    ] {
        let message = open(index).unwrap_err().to_string();
        assert!(
            message.contains(INDEX_FILE) && message.contains(part),
            "{index}: {message}"
        );
    }
}

#[test]
fn shards_must_agree_on_our_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, name: &str, edkm: &str| {
        let metadata = BTreeMap::from([
            ("edkm".to_owned(), edkm.to_owned()),
            ("file".to_owned(), file.to_owned()),
        ]);
        let entry = TensorEntry::bytes(name, Dtype::U8, [1], &[0][..]);
        write_safetensors(&dir.path().join(file), vec![entry], &metadata).unwrap();
    };
    fs::write(dir.path().join(INDEX_FILE), r#"{"weight_map":{"a":"1","b":"2"}}"#).unwrap();
    write("1", "a", r#"{"version":1,"tensors":{}}"#);
    write("2", "b", r#"{"version":1,"tensors":{}}"#);
    assert_eq!(
        Checkpoint::open(dir.path()).unwrap().format(),
        Some(&FormatMetadata::new())
    );
    write("2", "b", r#"{"version":2,"tensors":{}}"#);
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("disagree on the metadata \"edkm\""), "{message}");
}

#[test]
fn all_that_differs_from_the_configuration_is_told_at_once() {
    let config = tiny();
    let dir = model(&config, Sharding::Single);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.verify(&config).unwrap();

    let untied = LlamaConfig {
        tie_word_embeddings: false,
        ..config.clone()
    };
    let message = checkpoint.verify(&untied).unwrap_err().to_string();
    assert!(
        message.contains("missing: lm_head.weight (if it is the embedding, set tie_word"),
        "{message}"
    );

    let other = LlamaConfig {
        num_hidden_layers: 1,
        vocab_size: 17,
        attention_bias: AttentionBias::All,
        ..config
    };
    match checkpoint.verify(&other).unwrap_err() {
        LlamaError::Parameters {
            missing,
            unexpected,
            misshapen,
            ..
        } => {
            assert_eq!(missing.len(), 4);
            assert!(missing.contains(&"model.layers.0.self_attn.o_proj.bias".to_owned()));
            assert_eq!(unexpected.len(), 9);
            assert!(unexpected.iter().all(|name| name.starts_with("model.layers.1.")));
            let want = MisshapenTensor {
                name: names::Kind::EmbedTokens.name(0),
                expected: vec![17, 8],
                got: vec![16, 8],
            };
            assert_eq!(misshapen, [want]);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn buffers_and_a_tied_head_are_overlooked() {
    let config = tiny();
    let dir = tempfile::tempdir().unwrap();
    let mut filled: Vec<_> = names::parameters(&config).enumerate().map(filled).collect();
    let like = filled[0].0.clone();
    for (name, shape) in [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", vec![1]),
        (names::HEAD, vec![16, 8]),
    ] {
        let values = vec![0.0; shape.iter().product()];
        filled.push((
            names::Parameter {
                name: name.into(),
                shape,
                ..like.clone()
            },
            values,
        ));
    }
    let entries = filled
        .iter()
        .map(|(p, values)| TensorEntry::values(&p.name, &*p.shape, values, FloatDtype::Bf16));
    write_model(dir.path(), entries.collect(), &BTreeMap::new(), Sharding::Single).unwrap();
    Checkpoint::open(dir.path()).unwrap().verify(&config).unwrap();
}

#[test]
fn reads_a_pretrained_model() {
    let Some(dir) = Folder::Models.locate_in("stories260k") else {
        return;
    };
    let config = LlamaConfig::read(&dir).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    checkpoint.verify(&config).unwrap();
    let read = |p: names::Parameter| checkpoint.read_f32(&p.name, &p.shape).unwrap().len() as u64;
    assert_eq!(
        names::parameters(&config).map(read).sum::<u64>(),
        config.parameter_count()
    );
}
