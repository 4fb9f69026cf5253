//! The model from a folder, and into one.

use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Reads a model folder: Hugging Face's, or one with palettes, whose weights are unpacked to f32. Memory: 4 bytes a parameter.
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
    /// `dtype`. Config and tokenizer are the caller's to add. Memory: a copy of the dense parameters.
    ///
    /// # Errors
    /// A palettized parameter that the model has not, or has in another shape; a parameter that is not finite in `dtype`; a system that does not write.
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
        let mut dense = Dense {
            dir,
            palettized,
            found: Vec::new(),
            met: 0,
        };
        self.visit_parameters("", &mut dense)?;
        if dense.met < palettized.len() {
            let known: HashSet<String> = parameters(&self.config).map(|parameter| parameter.name).collect();
            if let Some(unknown) = palettized.iter().find(|p| !known.contains(&p.name)) {
                return Err(LlamaError::NoTensor {
                    path: dir.to_owned(),
                    name: unknown.name.clone(),
                });
            }
        }
        let entries = dense
            .found
            .iter()
            .map(|(name, shape, values)| TensorEntry::values(name, shape.clone(), values, dtype))
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

/// The parameters that stay as they are.
struct Dense<'a> {
    /// Where they will be written.
    dir: &'a Path,
    palettized: &'a [PalettizedParameter],
    /// How many of those there are.
    met: usize,
    found: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Dense<'_> {
    type Error = LlamaError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), LlamaError> {
        let shape: Vec<usize> = parameter.shape().concrete().into();
        match self.palettized.iter().find(|p| p.name == name) {
            None => self.found.push((name.to_owned(), shape, parameter.as_vec())),
            Some(PalettizedParameter { matrix, .. }) if shape != [matrix.rows(), matrix.cols()] => {
                return Err(LlamaError::Shape {
                    path: self.dir.to_owned(),
                    name: name.to_owned(),
                    expected: shape,
                    got: vec![matrix.rows(), matrix.cols()],
                })
            }
            Some(_) => self.met += 1,
        }
        Ok(())
    }
}
