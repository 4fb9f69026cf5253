use std::path::Path;

use safetensors::tensor::{serialize_to_file, TensorView};

use super::*;

/// Written by the reference implementation of the format.
fn write_reference(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn reads_what_the_reference_writes() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..300_000).map(|i| (i as f32 - 150_000.0) * 0.125).collect();
    write_reference(
        &dir.path().join(MODEL_FILE),
        &[("a", Dtype::F32, vec![300, 1000], bytes_of(&values))],
    );
    for access in [Access::Map, Access::Read] {
        let checkpoint = Checkpoint::open_with(dir.path(), access).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
        assert_eq!(checkpoint.read_f32("a", &[300, 1000]).unwrap(), values);
        assert_eq!(*checkpoint.raw("a").unwrap().bytes.as_slice(), bytes_of(&values)[..]);
    }
}

#[test]
fn reads_a_pretrained_model() {
    let models = std::env::var("EDKM_MODELS").unwrap_or_else(|_| "../../../shared/models".into());
    let dir = Path::new(&models).join("stories260k");
    if !dir.exists() {
        eprintln!("skipped: {} is not there", dir.display());
        return;
    }
    let config = crate::config::LlamaConfig::read(&dir).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    checkpoint.verify(&config).unwrap();
    let total: usize = crate::names::parameters(&config)
        .map(|p| checkpoint.read_f32(&p.name, &p.shape).unwrap().len())
        .sum();
    assert_eq!((total, config.parameter_count()), (260_032, 260_032));
}
