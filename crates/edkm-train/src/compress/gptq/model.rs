//! Layer by layer through the model.

use dfdx::prelude::*;
use dfdx_edkm::ops::add::add;
use dfdx_edkm::ops::embedding::embedding;
use dfdx_edkm::ops::{as_matrix, Matrix};
use dfdx_edkm::EdkmDevice;
use edkm_cluster::MatrixShape;
use edkm_llama::model::{DynamicLlama, PalettizedParameter, Projection};
use edkm_llama::names::Kind;
use edkm_palette::PaletteDType;

use super::factor::LayerInputs;
use super::quantize::quantize_factored;
use super::{Hessian, Levels};
use crate::compress::{with_palettes, Calibration};
use crate::run::OnProgress;
use crate::trainer::segments;
use crate::TrainError;

/// Rounds the clustered layers inside the decoder of `model`, in the order in which the model uses them; `done` holds the parameters that are
/// palettized already (the embeddings). `progress` is told the share that is done.
///
/// Memory: the hidden states of the calibration text and what the widest projection is given of them (4 bytes x tokens x (hidden size + intermediate
/// size)), a copy of one layer's weights, its Hessian (8 bytes x inputs^2), and that of one matrix's [`quantize_scaled`](super::quantize_scaled).
///
/// # Errors
/// Text shorter than a window, inputs or weights that are not finite; each names the parameter. What `progress` gives.
pub(crate) fn gptq<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    done: Vec<PalettizedParameter>,
    calibration: &Calibration<'_>,
    levels: Levels,
    dtype: &dyn Fn(&str) -> PaletteDType,
    progress: &mut OnProgress<'_>,
) -> Result<Vec<PalettizedParameter>, TrainError> {
    // palettes are needed of the clone, whose weights are those of the compressed model as far as it is done
    let layers = model.layers.clone();
    let model = with_palettes(model, &done)?;
    let mut found = done;
    let device = model.embed_VH.device().clone();
    let failed = |error: D::Err| TrainError::Device {
        reason: format!("calibration: {error}"),
    };
    let batches = calibration.batches()?;
    let table = as_matrix(model.embed_VH.clone()).map_err(failed)?;
    let mut hidden: Vec<Matrix<D>> = Vec::with_capacity(batches.len());
    for batch in &batches {
        hidden.push(embedding(batch.inputs.clone().into(), &table, None, NoneTape).map_err(failed)?);
    }
    let count = layers.len() as f64;
    // a layer goes when it is done: nobody reads its rounded weights any more
    for (index, mut layer) in layers.into_iter().enumerate() {
        let mut round = Round {
            device: &device,
            levels,
            dtype,
            layer: index,
            found: &mut found,
        };
        let mut done = 0.0;
        let mut tell = |parts: f64| {
            done += parts;
            progress((index as f64 + done / 7.0) / count)
        };
        let normed = each(hidden.iter().cloned(), |h| layer.input_norm.try_forward(h)).map_err(failed)?;
        let mut inputs = inputs_of(&normed);
        round.run(&mut layer.query, Kind::Query, &mut inputs)?;
        round.run(&mut layer.key, Kind::Key, &mut inputs)?;
        round.run(&mut layer.value, Kind::Value, &mut inputs)?;
        tell(3.0)?;
        drop(inputs);
        let windows = normed.into_iter().zip(&batches);
        let attended = windows
            .map(|(x, batch)| layer.try_attended(x, batch.batch, batch.sequence, segments(batch).as_ref()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        round.run(&mut layer.output, Kind::Output, &mut inputs_of(&attended))?;
        tell(1.0)?;
        for (hidden, attended) in hidden.iter_mut().zip(attended) {
            *hidden = add(hidden.clone(), layer.output.apply(attended).map_err(failed)?).map_err(failed)?;
        }
        let normed = each(hidden.iter().cloned(), |h| layer.post_attention_norm.try_forward(h)).map_err(failed)?;
        let mut inputs = inputs_of(&normed);
        round.run(&mut layer.gate, Kind::Gate, &mut inputs)?;
        round.run(&mut layer.up, Kind::Up, &mut inputs)?;
        drop(inputs);
        tell(2.0)?;
        let gated = each(normed, |x| layer.try_gated(x)).map_err(failed)?;
        round.run(&mut layer.down, Kind::Down, &mut inputs_of(&gated))?;
        tell(1.0)?;
        for (hidden, gated) in hidden.iter_mut().zip(gated) {
            *hidden = add(hidden.clone(), layer.down.apply(gated).map_err(failed)?).map_err(failed)?;
        }
    }
    Ok(found)
}

/// `f` of each batch.
fn each<D: EdkmDevice>(
    batches: impl IntoIterator<Item = Matrix<D>>,
    f: impl FnMut(Matrix<D>) -> Result<Matrix<D>, D::Err>,
) -> Result<Vec<Matrix<D>>, D::Err> {
    batches.into_iter().map(f).collect()
}

fn inputs_of<D: EdkmDevice>(inputs: &[Matrix<D>]) -> LayerInputs {
    let mut hessian = Hessian::new(inputs.first().map_or(0, |x| x.shape().1));
    inputs.iter().for_each(|x| hessian.add(&x.as_vec()));
    LayerInputs::new(hessian)
}

/// The rounding of one layer's projections.
struct Round<'a, D> {
    device: &'a D,
    levels: Levels,
    dtype: &'a dyn Fn(&str) -> PaletteDType,
    layer: usize,
    found: &'a mut Vec<PalettizedParameter>,
}

impl<D: EdkmDevice> Round<'_, D> {
    /// Rounds the projection's weight if it is clustered; what comes after it then sees the rounded weight.
    fn run(
        &mut self,
        projection: &mut Projection<usize, usize, D>,
        kind: Kind,
        inputs: &mut LayerInputs,
    ) -> Result<(), TrainError> {
        let Some(clustering) = projection.clustering.take() else {
            return Ok(());
        };
        let name = kind.name(self.layer);
        let shape = *projection.weight.shape();
        let matrix_shape = MatrixShape::new(shape.0, shape.1);
        let weight = projection.weight.as_vec();
        let dtype = (self.dtype)(&name);
        let spec = clustering.spec();
        let rounded = inputs.factored(spec.dim()).and_then(|factored| {
            let channel_scale = clustering.channel_scale();
            quantize_factored(
                &weight,
                matrix_shape,
                factored,
                &spec,
                channel_scale,
                self.levels,
                dtype,
            )
        });
        let rounded = rounded.map_err(|source| TrainError::Gptq {
            name: name.clone(),
            source,
        })?;
        projection.weight = self
            .device
            .tensor_from_host(rounded.matrix.dequantize(), shape)
            .map_err(|error| TrainError::Device {
                reason: format!("{name}: {error}"),
            })?;
        self.found.push(PalettizedParameter {
            name,
            matrix: rounded.matrix,
        });
        Ok(())
    }
}
