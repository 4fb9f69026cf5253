//! A model folder for other programs: plain weights, whatever they were stored as here.

use std::{collections::BTreeMap, path::Path};

use super::{
    copy_companions, write_model, Checkpoint, FloatDtype, OutputDir, Overwrite, Sharding, TensorEntry, WrittenModel,
};
use crate::{
    config::LlamaConfig,
    names::{self, Parameter},
    LlamaError,
};

/// How a model is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportSettings {
    /// The type of all weights.
    pub dtype: FloatDtype,
    /// One file or several.
    pub sharding: Sharding,
    /// What is done with a folder that is already there.
    pub overwrite: Overwrite,
}

/// Writes the model in `model_dir` as plain weights in Hugging Face layout, with its configuration and tokenizer.
///
/// What transformers, candle, mlx and llama.cpp's converter load. Palettized weights are unpacked: with [`FloatDtype::F32`]
/// to exactly the numbers that the packed model computes with, otherwise rounded to nearest. Tied embeddings stay tied, and
/// buffers that follow from the configuration are left out.
///
/// One weight passes through memory at a time: 4 bytes, or 6 with a 16-bit type, for each number of the largest. `out` appears
/// whole or not at all, and may be `model_dir` itself if it may be replaced.
///
/// # Errors
/// A model that cannot be read or is not what its configuration says; a weight that `dtype` cannot hold, named with its
/// index; an `out` that exists, or a system that does not write.
pub fn export_hugging_face(
    model_dir: &Path,
    out: &Path,
    settings: &ExportSettings,
) -> Result<WrittenModel, LlamaError> {
    let mut config = LlamaConfig::read(model_dir)?;
    let checkpoint = Checkpoint::open(model_dir)?;
    checkpoint.verify(&config)?;
    let out = OutputDir::create(out, settings.overwrite)?;

    let entry = |parameter: Parameter| {
        let (name, shape, checkpoint) = (parameter.name.clone(), parameter.shape.clone(), &checkpoint);
        TensorEntry::later_values(name, shape, settings.dtype, move || {
            Ok(checkpoint.weight(&parameter.name, &parameter.shape)?.into_dense())
        })
    };
    let entries = names::parameters(&config).map(entry).collect();
    // transformers refuses files that do not say which framework's layout they have.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut written = write_model(out.path(), entries, &metadata, settings.sharding)?;

    config.set_stored_dtype(settings.dtype);
    config.write(out.path())?;
    copy_companions(model_dir, out.path())?;
    let target = out.target().to_owned();
    out.commit()?;
    for file in &mut written.files {
        *file = target.join(file.file_name().unwrap_or_default());
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
