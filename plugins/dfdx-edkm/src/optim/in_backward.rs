//! The update within the backward pass: a gradient is used as soon as it is whole, and freed (as in LOMO, arXiv 2306.09782).

use std::collections::HashSet;

use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;

use super::adamw::{device_error, sum_of_squares};
use super::{AdamW, StepError};
use crate::device::take_gradient;
use crate::{backward_by_parts, EdkmDevice, ParameterKind, ParameterVisitor, ParametersByPart, StoreTape};

impl<D: EdkmDevice> AdamW<D> {
    /// The backward pass of `loss` and the update of every parameter of `model`, part by part: once the gradients of a part are whole its parameters are
    /// updated and the gradients freed. Memory of the gradients of the largest part in place of 4 bytes a parameter. Gives the norm of all gradients.
    ///
    /// Parameters whose part does not begin on the loss's own tape (see [`SaveForBackward::begin_part`](crate::SaveForBackward::begin_part)) are updated
    /// at the end. The gradients of one backward pass make the step: there is nothing to accumulate into.
    ///
    /// There is no clipping (`clip_norm` is not used), since the norm is known when all is done. AdamW bounds each step by itself: with betas of 0.9 and
    /// 0.95 no number changes by more than 1.2 times the learning rate, whatever its gradients (arXiv 1412.6980, section 2.1).
    ///
    /// # Errors
    /// Those of [`backward_by_parts`]; a gradient that is not finite ([`StepError::NotFinite`]), where parameters of later parts have been updated and the others are
    /// as they were; the device's.
    pub fn backward_and_step(
        &mut self,
        model: &mut impl ParametersByPart<D>,
        loss: Tensor<Rank0, f32, D, StoreTape<f32, D>>,
        learning_rate: f64,
    ) -> Result<f64, StepError> {
        let hyper = Hyper {
            step: self.step + 1,
            ..self.hyper(learning_rate, 1.0)
        };
        let mut progress = Progress {
            hyper,
            optimizer: self,
            sum_of_squares: 0.0,
            updated: HashSet::new(),
        };
        let mut rest = backward_by_parts(loss, |part, gradients| {
            let _span = tracing::trace_span!("optimizer", part).entered();
            model.visit_part(part, "", &mut progress.with(gradients))
        })?;
        let _span = tracing::trace_span!("optimizer").entered();
        model.visit_parameters("", &mut progress.with(&mut rest))?;
        Ok(progress.sum_of_squares.sqrt())
    }
}

/// A step that has come to some part.
struct Progress<'a, D: EdkmDevice> {
    hyper: Hyper,
    optimizer: &'a mut AdamW<D>,
    sum_of_squares: f64,
    /// Parameters, by name.
    updated: HashSet<String>,
}

impl<'a, D: EdkmDevice> Progress<'a, D> {
    fn with<'p>(&'p mut self, gradients: &'p mut Gradients<f32, D>) -> UpdateOnce<'a, 'p, D> {
        UpdateOnce {
            progress: self,
            gradients,
        }
    }
}

/// Updates what has not been updated yet in this step.
struct UpdateOnce<'a, 'p, D: EdkmDevice> {
    progress: &'p mut Progress<'a, D>,
    gradients: &'p mut Gradients<f32, D>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for UpdateOnce<'_, '_, D> {
    type Error = StepError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), StepError> {
        let Self { progress, gradients } = self;
        if !progress.updated.insert(name.to_owned()) {
            return Ok(());
        }
        let slot = gradients
            .get_or_alloc_mut(parameter)
            .map_err(|e| device_error(name, e))?;
        let optimizer = &mut *progress.optimizer;
        let gradient = take_gradient(&optimizer.device, slot).map_err(|e| device_error(name, e))?;
        progress.sum_of_squares += sum_of_squares(&optimizer.device, name, &gradient)?;
        // a step that changes nothing is none
        optimizer.step = progress.hyper.step;
        optimizer.update_of_kind(name, kind, parameter, &gradient, progress.hyper)
    }
}
