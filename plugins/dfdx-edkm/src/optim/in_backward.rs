//! The update within the backward pass: a gradient is used as soon as it is whole, and freed (as in LOMO, arXiv 2306.09782).

use std::cell::RefCell;
use std::collections::HashSet;

use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;

use super::adamw::{clip_factor, device_error, gradient_of, sum_of_squares, Names};
use super::{AdamW, StepError};
use crate::{
    backward_each_part, take_gradient, EdkmDevice, EdkmError, ParameterKind, ParameterVisitor, ParametersByPart,
    StoreTape,
};

impl<D: EdkmDevice> AdamW<D> {
    /// The backward pass of `loss` and the update of every parameter of `model`, part by part: once the gradients of a part are whole its parameters are
    /// updated and the gradients freed. Memory of the gradients of the largest part in place of 4 bytes a parameter. Gives the norm of all gradients before
    /// clipping.
    ///
    /// A part begins on the tape before any of its parameters is used: where one was used before, the step ends with [`EdkmError::GradientTaken`] once that shows.
    ///
    /// Parameters whose part does not begin on the loss's own tape (see [`SaveForBackward::begin_part`](crate::SaveForBackward::begin_part)) are updated
    /// together at the end. The gradients of one backward pass make the step: there is nothing to accumulate into.
    ///
    /// The norm of all gradients is known when all is done, so each part's are clipped on their own: to the root of its share in `clip_norm` squared,
    /// one of as many as there are parts. So the norm of all stays within `clip_norm`.
    ///
    /// # Errors
    /// Those of [`backward_each_part`]; a number that cannot be used, two parameters of one name in a part; a gradient that is not finite ([`StepError::NotFinite`]) or moments
    /// of another length than their parameter, where later parts have been updated and this one and earlier ones are as they were; the device's.
    pub fn backward_and_step(
        &mut self,
        model: &mut impl ParametersByPart<D>,
        loss: Tensor<Rank0, f32, D, StoreTape<f32, D>>,
        learning_rate: f64,
    ) -> Result<f64, StepError> {
        self.check(learning_rate, 1.0)?;
        let mut step = PartialStep {
            hyper: Hyper {
                step: self.step + 1,
                ..self.hyper(learning_rate, 1.0)
            },
            clip_norm: self.config().clip_norm / (model.parts().max(1) as f64).sqrt(),
            optimizer: self,
            sum_of_squares: 0.0,
            updated: HashSet::new(),
        };
        // both walk over the model, one after the other
        let (model, step_in_turn) = (RefCell::new(model), RefCell::new(&mut step));
        let done = backward_each_part(
            loss,
            |part, gradients| {
                let _span = tracing::trace_span!("optimizer", part).entered();
                let visit = |visitor: &mut Pass<'_, '_, D>| model.borrow_mut().visit_part(part, "", visitor);
                step_in_turn.borrow_mut().update(gradients, End::No, visit)
            },
            |rest| {
                let _span = tracing::trace_span!("optimizer").entered();
                let visit = |visitor: &mut Pass<'_, '_, D>| model.borrow_mut().visit_parameters("", visitor);
                step_in_turn.borrow_mut().update(rest, End::Yes, visit)
            },
        );
        let model = model.into_inner();
        match done {
            Ok(()) => Ok(step.sum_of_squares.sqrt()),
            Err(error) => {
                if !step.updated.is_empty() {
                    // a step that counts leaves no parameter without moments, so that a saved state is whole
                    model.visit_parameters("", &mut Begin(self))?;
                }
                Err(error)
            }
        }
    }
}

/// Gives parameters moments that have none.
struct Begin<'a, D: EdkmDevice>(&'a mut AdamW<D>);

impl<D: EdkmDevice> ParameterVisitor<D> for Begin<'_, D> {
    type Error = StepError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), StepError> {
        if self.0.is_frozen(name) {
            return Ok(());
        }
        let begun = self.0.begin_moments(name, parameter.shape());
        begun.map_err(|error| device_error(name, error))
    }
}

/// A step that has come to some part.
struct PartialStep<'a, D: EdkmDevice> {
    hyper: Hyper,
    /// That of a part.
    clip_norm: f64,
    optimizer: &'a mut AdamW<D>,
    /// Of the gradients so far.
    sum_of_squares: f64,
    /// Parameters, by name.
    updated: HashSet<String>,
}

impl<'a, D: EdkmDevice> PartialStep<'a, D> {
    /// Updates what `visit` shows to it and has not been updated yet, from gradients that are whole.
    fn update(
        &mut self,
        gradients: &mut Gradients<f32, D>,
        end: End,
        mut visit: impl FnMut(&mut Pass<'_, 'a, D>) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let mut pass = Pass {
            step: self,
            gradients,
            end,
            sum_of_squares: 0.0,
            names: Names::default(),
            factor: None,
        };
        visit(&mut pass)?;
        pass.factor = Some(clip_factor(pass.sum_of_squares.sqrt(), pass.step.clip_norm));
        visit(&mut pass)?;
        self.sum_of_squares += pass.sum_of_squares;
        Ok(())
    }
}

/// Whether the backward pass is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    Yes,
}

/// A walk over the parameters of a part: the first sums up the squares of their gradients, the second updates them.
struct Pass<'p, 'a, D: EdkmDevice> {
    step: &'p mut PartialStep<'a, D>,
    gradients: &'p mut Gradients<f32, D>,
    end: End,
    sum_of_squares: f64,
    names: Names,
    /// What the gradients are multiplied with, once that is known.
    factor: Option<f64>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Pass<'_, '_, D> {
    type Error = StepError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), StepError> {
        let PartialStep {
            hyper,
            optimizer,
            updated,
            ..
        } = &mut *self.step;
        let slot = gradient_of(self.gradients, name, parameter)?;
        if updated.contains(name) {
            // what was taken is zeros, unless an op has added to it since
            let is_added_to = || Ok::<_, StepError>(sum_of_squares(&optimizer.device, name, slot)? != 0.0);
            return match self.end == End::Yes && self.factor.is_none() && is_added_to()? {
                true => Err(StepError::Backward(EdkmError::GradientTaken)),
                false => Ok(()),
            };
        }
        let Some(factor) = self.factor else {
            self.names.add(name, parameter)?;
            optimizer.check_moments(name, parameter.shape())?;
            if !optimizer.is_frozen(name) {
                self.sum_of_squares += sum_of_squares(&optimizer.device, name, slot)?;
            }
            return Ok(());
        };
        let gradient = take_gradient(self.gradients, parameter).map_err(|e| device_error(name, e))?;
        let hyper = Hyper {
            grad_scale: factor as f32,
            ..*hyper
        };
        // a step that changes nothing is none
        optimizer.step = hyper.step;
        updated.insert(name.to_owned());
        optimizer.update_of_kind(name, kind, parameter, &gradient, hyper)
    }
}
