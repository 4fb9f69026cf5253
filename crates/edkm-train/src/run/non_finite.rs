//! What a run does about a loss or a gradient that is not finite.

#![allow(non_snake_case)] // axes: N tokens, B batch, S sequence, H hidden

use dfdx::prelude::*;
use dfdx_edkm::ops::as_matrix;
use dfdx_edkm::ops::embedding::embedding;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::model::{DynamicLlama, Recompute, Tokens};
use serde::{Deserialize, Serialize};

/// The choice. The parameters are as they were before the step, but where they are updated in backward ([`Update::InBackward`](crate::trainer::Update)): there a
/// gradient that is not finite leaves the layers behind it updated. A warning, or the error, names step and tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnNonFinite {
    /// The run ends with an error.
    #[default]
    Stop,
    /// The step is left out, with its data; at most [`MOST_IN_A_ROW`] one after the other.
    Skip,
    /// The run goes back to its newest checkpoint and goes on behind the data of the step; at most [`MOST_ROLLBACKS`] times to the same one,
    /// which may hold what went wrong: then to the one before it, if that was kept.
    Rollback,
}

/// Steps that are left out one after the other before a run is given up.
pub const MOST_IN_A_ROW: u64 = 16;

/// Times that a run goes back to the same checkpoint before that is given up.
pub const MOST_ROLLBACKS: u64 = 3;

/// How often it happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonFiniteCounts {
    /// Steps that were left out.
    pub skipped: u64,
    /// Times the run went back to a checkpoint.
    pub rollbacks: u64,
}

impl NonFiniteCounts {
    /// A line for people, if anything happened.
    pub fn note(self) -> Option<String> {
        let NonFiniteCounts { skipped, rollbacks } = self;
        (skipped + rollbacks > 0).then(|| {
            format!(
                "a loss or gradient was not finite: {skipped} steps left out, {rollbacks} times back to a checkpoint"
            )
        })
    }
}

/// The first tensor that is not finite on the way of these tokens through the model: a parameter by its name, or what a layer gives.
/// `None` if all are up to the output projection. Runs a forward pass without a tape, layer by layer.
pub(crate) fn first_not_finite<D: EdkmDevice>(model: &mut DynamicLlama<D>, tokens: &Tokens) -> Option<String> {
    if let Some(name) = parameter_not_finite(model) {
        return Some(name);
    }
    // an op that fails here failed in the step too, which has said so
    outputs(model, tokens).ok().flatten()
}

/// The first parameter that is not finite.
pub(super) fn parameter_not_finite<D: EdkmDevice>(model: &mut DynamicLlama<D>) -> Option<String> {
    struct Find;
    impl<D: EdkmDevice> ParameterVisitor<D> for Find {
        type Error = String;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), String> {
            match is_finite(parameter) {
                true => Ok(()),
                false => Err(format!("the parameter {name}")),
            }
        }
    }
    model.visit_parameters("", &mut Find).err()
}

fn outputs<D: EdkmDevice>(model: &DynamicLlama<D>, tokens: &Tokens) -> Result<Option<String>, D::Err> {
    let table = as_matrix(model.embed_VH.clone())?;
    let h_NH = embedding(tokens.ids.clone(), &table, model.embed_clustering.as_ref(), NoneTape)?;
    let mut h_BSH = h_NH.try_reshape_like(&(tokens.batch, tokens.seq(), model.embed_VH.shape().1))?;
    if !is_finite(&h_BSH) {
        return Ok(Some("the output of the embedding".to_owned()));
    }
    for (index, layer) in model.layers.iter().enumerate() {
        h_BSH = layer.try_forward_saving(h_BSH, tokens.segments.as_ref(), Recompute::Nothing)?;
        if !is_finite(&h_BSH) {
            return Ok(Some(format!("the output of layer {index}")));
        }
    }
    Ok((!is_finite(&model.norm.try_forward(h_BSH)?)).then(|| "the output of the last norm".to_owned()))
}

fn is_finite<S: Shape, D: EdkmDevice>(tensor: &Tensor<S, f32, D>) -> bool {
    tensor.as_vec().iter().all(|x| x.is_finite())
}
