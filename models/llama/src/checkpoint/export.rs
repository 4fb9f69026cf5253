//! A model folder for other programs: plain weights, whatever they were stored as here.

use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow, path::Path};

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
/// whole or not at all, and may be `model_dir` itself if it may be replaced. `progress` is told before each weight which share of the numbers is
/// written, and may end it.
///
/// # Errors
/// [`LlamaError::Stopped`] if `progress` ends it; a model that cannot be read or is not what its configuration says; a weight that `dtype` cannot hold, named with its
/// index; an `out` that exists, or a system that does not write.
pub fn export_hugging_face(
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
    let entry = |parameter: Parameter| {
        let (name, shape, checkpoint) = (parameter.name.clone(), parameter.shape.clone(), &checkpoint);
        let turn = turns.of(&parameter);
        TensorEntry::later_values(name, shape, settings.dtype, move || {
            turn()?;
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

/// Tells how far an export is when the turn of each weight comes.
pub(super) struct Turns<P> {
    /// Numbers of all weights, and of those whose turn has come.
    numbers: f64,
    done: RefCell<(f64, P)>,
}

impl<P: FnMut(f64) -> ControlFlow<()>> Turns<P> {
    pub(super) fn new(config: &LlamaConfig, progress: P) -> Self {
        Self {
            numbers: config.parameter_count() as f64,
            done: RefCell::new((0.0, progress)),
        }
    }

    /// What the turn of a weight begins with.
    pub(super) fn of(&self, parameter: &Parameter) -> impl FnOnce() -> Result<(), LlamaError> + use<'_, P> {
        let numbers = parameter.shape.iter().product::<usize>() as f64;
        move || {
            let (done, progress) = &mut *self.done.borrow_mut();
            match progress(*done / self.numbers) {
                ControlFlow::Break(()) => Err(LlamaError::Stopped),
                ControlFlow::Continue(()) => {
                    *done += numbers;
                    Ok(())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
