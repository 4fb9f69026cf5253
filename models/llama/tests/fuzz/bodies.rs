//! What the fuzz targets check. The targets in `fuzz` call it with what the fuzzer finds, the tests here with damaged seeds. Files are written
//! into `folder`.

use std::fs;
use std::path::Path;

use edkm_llama::checkpoint::{Access, Checkpoint};
use edkm_llama::config::LlamaConfig;

/// A `config.json` is refused, or what it says is written and read back.
pub(crate) fn config(_folder: &Path, input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let path = Path::new("config.json");
    if let Ok(config) = LlamaConfig::from_json(path, text) {
        let _ = config.parameter_count();
        let written = serde_json::to_string(&config).expect("a config");
        assert_eq!(
            LlamaConfig::from_json(path, &written).expect("what was written"),
            config
        );
    }
}

/// A `model.safetensors` is refused, or every weight of it is refused or has the numbers of its shape, all finite.
pub(crate) fn weights(folder: &Path, input: &[u8]) {
    let path = folder.join("model.safetensors");
    fs::write(&path, input).expect("a file");
    let Ok(checkpoint) = Checkpoint::open_file(path, Access::Read) else {
        return;
    };
    for name in checkpoint.weight_names() {
        let shape = checkpoint.weight_shape(name).expect("that of a weight there is");
        if let Ok(weight) = checkpoint.weight(name, &shape) {
            assert_eq!(weight.into_dense().len(), shape.iter().product::<usize>());
        }
    }
}

/// A `model.safetensors.index.json` is refused, or it is about files of its folder: there is one, `one.safetensors`.
pub(crate) fn index(folder: &Path, input: &[u8]) {
    fs::write(folder.join("model.safetensors.index.json"), input).expect("a file");
    if let Ok(checkpoint) = Checkpoint::open(folder) {
        let one = fs::metadata(folder.join("one.safetensors")).expect("it is there");
        assert!(checkpoint.file_bytes() <= one.len());
    }
}
