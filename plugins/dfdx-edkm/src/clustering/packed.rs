//! Clustered weights as they are written into a model's file.

use edkm_cluster::{Centroids, Grouping, MatrixShape, Prepared, Spec};
use edkm_palette::{PaletteDType, PaletteSpec, PalettizedMatrix};

use crate::PalettizeError;

/// The palettes of a weight and which entry each of its values takes.
#[derive(Debug, Clone)]
pub struct LearnedPalette {
    /// The centroids, one palette a group.
    pub centroids: Centroids,
    /// The index of each weight (or vector of weights) into the palette of its group, row-major.
    pub indices: Vec<u8>,
    /// What multiplies each row of the looked-up centroids, if they were scaled.
    pub row_scales: Option<Vec<f32>>,
}

/// Packs a weight with these palettes: each number, or vector, in the 16 bits in which it is clustered, takes the nearest of the numbers that a file of this type has in
/// place of the centroids.
/// `row_scales`: what the weight's rows were divided by, if they were.
///
/// # Errors
/// Centroids that are not the weight's; one that is beyond the range of the palettes' type.
pub fn pack(
    weight: &Prepared<'_>,
    shape: MatrixShape,
    spec: PaletteSpec,
    centroids: &Centroids,
    row_scales: Option<&[f32]>,
) -> Result<PalettizedMatrix, PalettizeError> {
    let in_file = spec.rounded(centroids.as_slice())?;
    let in_file = Centroids::from_vec(in_file, centroids.clusters(), centroids.dim())?;
    let indices = weight.assign(&in_file)?;
    let palettes = centroids.as_slice();
    Ok(PalettizedMatrix::pack(
        shape.rows, shape.cols, spec, palettes, &indices, row_scales,
    )?)
}

/// The packed form of a clustering's settings.
pub fn palette_spec(spec: &Spec, dtype: PaletteDType) -> PaletteSpec {
    PaletteSpec {
        bits: spec.bits.get(),
        group_rows: match spec.grouping {
            Grouping::PerTensor => None,
            Grouping::PerChannels(channels) => Some(channels),
        },
        vector: spec.vector.get(),
        palette_dtype: dtype,
    }
}
