//! A trained model as a file of palettes, packed indices, and what is not clustered.

use dfdx::prelude::*;
use edkm_palette::{PaletteDType, PaletteFile, PlainTensor};

use crate::parameters::{as_matrix_shape, numbers};
use crate::{EdkmDevice, PackError, ParameterKind, ParameterVisitor, Parameters};

/// What a file of the model holds: each clustered matrix packed at its nearest centroids, in palettes of this type, and all other parameters in f32, by the names
/// that they have in dfdx's files. A clustered weight of another shape than a matrix is written as the matrix that is clustered, its first axis and all others.
/// The running statistics of a `BatchNorm1D` are no parameters: who runs the file puts them into [`PaletteFile::plain`] besides.
///
/// # Errors
/// Those of [`Clustering::palettize`](crate::Clustering::palettize), with the parameter's name.
pub fn packed_file<D: EdkmDevice>(
    model: &mut impl Parameters<D>,
    dtype: PaletteDType,
) -> Result<PaletteFile, PackError> {
    let mut pack = Pack {
        dtype,
        file: PaletteFile::default(),
    };
    model.visit_parameters("", &mut pack)?;
    Ok(pack.file)
}

struct Pack {
    dtype: PaletteDType,
    file: PaletteFile,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Pack {
    type Error = PackError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), PackError> {
        let numbers = numbers(parameter);
        let Some(clustering) = kind.clustering() else {
            let shape = parameter.shape().concrete().as_ref().to_vec();
            self.file.plain.insert(name.to_owned(), PlainTensor { shape, numbers });
            return Ok(());
        };
        let matrix = clustering
            .palettize(&numbers, as_matrix_shape(parameter.shape()), self.dtype)
            .map_err(|source| PackError {
                name: name.to_owned(),
                source,
            })?;
        self.file.matrices.insert(name.to_owned(), matrix);
        Ok(())
    }
}
