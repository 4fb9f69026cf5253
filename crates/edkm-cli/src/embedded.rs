//! The model inside the program: a tiny LLaMA that was trained on generated stories (`docs/default-model.md` says how).

use std::io;
use std::path::Path;

use edkm_train::synthetic::{self, Split};

/// The files of its folder.
const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../assets/tiny-llama/config.json")),
    (
        "model.safetensors",
        include_bytes!("../assets/tiny-llama/model.safetensors"),
    ),
    ("tokenizer.json", include_bytes!("../assets/tiny-llama/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../assets/tiny-llama/tokenizer_config.json"),
    ),
];

/// The seeds of the text that the model is trained on, fine-tuned on and measured on; no document of the last is in the others.
pub const PRETRAINING_SEED: u64 = 1;
/// See [`PRETRAINING_SEED`].
pub const TRAINING_SEED: u64 = 2;
/// See [`PRETRAINING_SEED`].
pub const VALIDATION_SEED: u64 = 3;

/// The text that it is fine-tuned on.
pub fn training_text() -> String {
    synthetic::generate(Split::Train, TRAINING_SEED, 1_000_000)
}

/// The text that it is measured on.
pub fn validation_text() -> String {
    synthetic::generate(Split::Validation, VALIDATION_SEED, 160_000)
}

/// Writes the model's folder.
pub fn write_to(dir: &Path) -> io::Result<()> {
    FILES
        .iter()
        .try_for_each(|(name, content)| std::fs::write(dir.join(name), content))
}
