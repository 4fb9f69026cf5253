//! The model from a folder, and into one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_palette::FormatMetadata;

use super::{Llama, PalettizedParameter};
use crate::checkpoint::{write_model, Checkpoint, FloatDtype, Sharding, TensorEntry, WrittenModel};
use crate::config::LlamaConfig;
use crate::names::{parameters, Parameter};
use crate::LlamaError;

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Llama<V, H, Q, K, F, D> {
    /// Reads a model folder: Hugging Face's, or one with palettes, whose weights are unpacked to f32. Memory: 4 bytes a parameter, and as many for each coordinate of a head
    /// at each position that is computed.
    ///
    /// # Errors
    /// A folder that is not what `config.json` says, a weight that is not finite; each names file and tensor.
    pub fn open(model_dir: impl AsRef<Path>, device: &D) -> Result<Self, LlamaError> {
        let config = LlamaConfig::read(model_dir.as_ref())?;
        Self::from_checkpoint(&Checkpoint::open(model_dir)?, &config, device)
    }

    /// The same, from files that are already open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, config: &LlamaConfig, device: &D) -> Result<Self, LlamaError> {
        checkpoint.verify(config)?;
        Self::from_weights(config, device, &mut |parameter: &Parameter| {
            checkpoint
                .weight(&parameter.name, &parameter.shape)
                .map(|weight| weight.into_dense())
        })
    }

    /// Writes the parameters into a folder that holds no model: those in `palettized` as palettes and packed indices, the rest as
    /// `dtype`. Config and tokenizer are the caller's to add. Memory: a copy of
    /// the largest dense parameter.
    ///
    /// # Errors
    /// [`LlamaError::OutputExists`] where there is a model; a palettized parameter that the model has not, or has in another shape; a parameter that is not finite in `dtype`; a
    /// system that does not write.
    pub fn write_weights(
        &mut self,
        dir: &Path,
        palettized: &[PalettizedParameter],
        dtype: FloatDtype,
        sharding: Sharding,
    ) -> Result<WrittenModel, LlamaError> {
        let mut format = FormatMetadata::new();
        for parameter in palettized {
            format.insert(&parameter.name, &parameter.matrix);
        }
        check_palettized(&self.config, palettized, dir)?;
        let mut dense = Dense {
            palettized,
            dtype,
            found: Vec::new(),
        };
        self.visit_parameters("", &mut dense)?;
        let entries = dense
            .found
            .into_iter()
            .chain(
                palettized
                    .iter()
                    .flat_map(|p| p.matrix.to_entries(&p.name))
                    .map(TensorEntry::from),
            )
            .collect();
        let metadata = metadata(&format, palettized)?;
        write_model(dir, entries, &metadata, sharding)
    }
}

/// `format: pt`, as Hugging Face's readers expect, and what palettes need.
fn metadata(
    format: &FormatMetadata,
    palettized: &[PalettizedParameter],
) -> Result<BTreeMap<String, String>, LlamaError> {
    let map = match palettized.first() {
        None => HashMap::new(),
        Some(first) => format.to_map().map_err(|source| LlamaError::Palettize {
            name: first.name.clone(),
            source,
        })?,
    };
    Ok(map
        .into_iter()
        .chain([("format".to_owned(), "pt".to_owned())])
        .collect())
}

/// Refuses palettes of parameters that the model has not, or has in another shape.
fn check_palettized(config: &LlamaConfig, palettized: &[PalettizedParameter], dir: &Path) -> Result<(), LlamaError> {
    let shapes: HashMap<String, Vec<usize>> = parameters(config).map(|p| (p.name, p.shape)).collect();
    palettized.iter().try_for_each(|PalettizedParameter { name, matrix }| {
        let (path, name, got) = (dir.to_owned(), name.clone(), vec![matrix.rows(), matrix.cols()]);
        match shapes.get(&name) {
            None => Err(LlamaError::NoTensor { path, name }),
            Some(expected) if *expected != got => Err(LlamaError::Shape {
                path,
                name,
                expected: expected.clone(),
                got,
            }),
            Some(_) => Ok(()),
        }
    })
}

/// The parameters that stay as they are.
struct Dense<'a> {
    palettized: &'a [PalettizedParameter],
    dtype: FloatDtype,
    found: Vec<TensorEntry<'a>>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Dense<'_> {
    type Error = LlamaError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), LlamaError> {
        if !self.palettized.iter().any(|p| p.name == name) {
            let shape: Vec<usize> = parameter.shape().concrete().into();
            // the same memory: numbers come to the host when their turn comes
            let parameter = parameter.clone();
            let values = move || Ok(parameter.as_vec());
            self.found
                .push(TensorEntry::later_values(name, shape, self.dtype, values));
        }
        Ok(())
    }
}
