//! A state dict from which coremltools makes a Core ML model with the very palettes that were trained.

use std::{borrow::Cow, collections::BTreeMap, ops::ControlFlow, path::Path};

use edkm_palette::coreml_version_entry;

use super::export::Turns;
use super::{
    copy_companions, write_model, Checkpoint, ExportSettings, FloatDtype, OutputDir, TensorEntry, Weight, WrittenModel,
};
use crate::{
    config::LlamaConfig,
    names::{self, Role},
    LlamaError,
};

/// Writes the model in `model_dir` as a PyTorch state dict in safetensors: every weight as plain numbers, and beside each
/// palettized one the buffers `_COREML_/<parameter>/lut`, `palettization_scale`, `compression_type` and their like
/// ([`PalettizedMatrix::coreml_entries`](edkm_palette::PalettizedMatrix::coreml_entries)), once `_COREML_/metadata_version`.
///
/// A PyTorch model takes it with `register_buffer` for each of the buffers and `load_state_dict`; coremltools 8 and later then keep the
/// palettes when they convert it. For that the weights must be the palettes' own numbers: other types than f32 round both apart, so
/// palettized weights are f32 whatever `settings.dtype` says, which is for the others, and the configuration asks for a model in f32. A head that is the embedding
/// is written under its own name too, as a state dict of torch has it.
///
/// # Errors
/// As [`export_hugging_face`](super::export_hugging_face); a matrix whose last group of channels is shorter than the others, which
/// Core ML cannot express.
pub fn export_coreml_torch(
    model_dir: &Path,
    out: &Path,
    settings: &ExportSettings,
    progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<WrittenModel, LlamaError> {
    let mut config = LlamaConfig::read(model_dir)?;
    let checkpoint = Checkpoint::open(model_dir)?;
    checkpoint.verify(&config)?;
    let out = OutputDir::create(out, settings.overwrite)?;

    let turns = Turns::new(&config, progress);
    let mut entries = Vec::new();
    let head = names::parameters(&config)
        .filter(|parameter| config.tie_word_embeddings && parameter.role == Role::Embedding)
        .map(|embedding| (names::HEAD.to_owned(), embedding));
    let named = names::parameters(&config).map(|parameter| (parameter.name.clone(), parameter));
    for (name, parameter) in named.chain(head) {
        let (shape, checkpoint) = (parameter.shape.clone(), &checkpoint);
        let dtype = match checkpoint.weight(&parameter.name, &parameter.shape)? {
            Weight::Dense(_) => settings.dtype,
            Weight::Palettized(matrix) => {
                let buffers = matrix.coreml_entries(&name).map_err(|source| LlamaError::Palettize {
                    name: parameter.name.clone(),
                    source: source.without_tensor(),
                })?;
                entries.extend(buffers.into_iter().map(TensorEntry::from));
                FloatDtype::F32
            }
        };
        let turn = (name == parameter.name).then(|| turns.of(&parameter));
        entries.push(TensorEntry::later_values(name, shape, dtype, move || {
            turn.map_or(Ok(()), |turn| turn())?;
            Ok(checkpoint.weight(&parameter.name, &parameter.shape)?.into_dense())
        }));
    }
    let version = coreml_version_entry();
    entries.push(TensorEntry::bytes(
        version.name,
        version.dtype,
        version.shape,
        Cow::Owned(version.bytes.into_owned()),
    ));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut written = write_model(out.path(), entries, &metadata, settings.sharding)?;

    config.set_stored_dtype(FloatDtype::F32);
    config.write(out.path())?;
    copy_companions(model_dir, out.path())?;
    let target = out.target().to_owned();
    out.commit()?;
    for file in &mut written.files {
        *file = target.join(file.file_name().unwrap_or_default());
    }
    Ok(written)
}
