//! [`AdamW`] over dfdx's `TensorCollection`, as dfdx's own optimizers are used.

use std::collections::BTreeSet;

use dfdx::nn::modules::{
    RecursiveWalker, TensorCollection, TensorOptions, TensorVisitor, ViewTensorMut, ViewTensorName,
};
use dfdx::optim::{Optimizer, OptimizerUpdateError};
use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;

use super::adamw::{clip_factor, gradient_of, sum_of_squares};
use super::{AdamW, AdamWConfig, StepError};
use crate::tape::listener;
use crate::{EdkmDevice, EdkmError, ParameterKind};

/// [`AdamW`] as a dfdx [`Optimizer`] of any module: parameters are told apart by their path, the learning rate stands in a field.
///
/// A gradient that is not there counts as 0 (dfdx's own optimizers return `UnusedParams`; dfdx does not tell others which are there).
///
/// As in [`AdamW::step`], gradients are clipped together, one that is not finite is an error, and vectors (biases, scales of normalisations) do not decay.
#[derive(Debug, Clone)]
pub struct AdamWOptimizer<D: EdkmDevice> {
    /// Moments and settings; save and restore it by [`AdamW::state`].
    pub adamw: AdamW<D>,
    /// The learning rate of the next update.
    pub learning_rate: f64,
}

impl<D: EdkmDevice> AdamWOptimizer<D> {
    /// An optimizer that has seen nothing.
    pub fn new(device: D, learning_rate: f64, config: AdamWConfig) -> Self {
        Self {
            adamw: AdamW::new(device, config),
            learning_rate,
        }
    }

    /// Updates `module`. The gradients are copied once: dfdx lends them for reading only by a clone.
    ///
    /// # Errors
    /// A gradient that is not finite, a number that cannot be used, a factor of a learning rate for no parameter: nothing is changed then. Moments of another length
    /// than their parameter, the device's errors.
    pub fn try_update<M: TensorCollection<f32, D>>(
        &mut self,
        module: &mut M,
        gradients: &Gradients<f32, D>,
    ) -> Result<(), StepError> {
        self.adamw.check(self.learning_rate, 1.0)?;
        let factors = self.adamw.rate_factors();
        if !factors.is_empty() {
            let mut paths = Paths(BTreeSet::new());
            visit(module, &mut paths)?;
            if let Some(name) = factors.keys().find(|name| !paths.0.contains(*name)) {
                return Err(StepError::NoParameter { name: name.clone() });
            }
        }
        let mut norm = Norm {
            adamw: &self.adamw,
            gradients: gradients.clone(),
            sum_of_squares: 0.0,
        };
        visit(module, &mut norm)?;
        let Norm {
            gradients,
            sum_of_squares,
            ..
        } = norm;
        let clip = clip_factor(sum_of_squares.sqrt(), self.adamw.config().clip_norm);
        self.adamw.advance();
        let hyper = self.adamw.hyper(self.learning_rate, clip);
        let mut update = Update {
            adamw: &mut self.adamw,
            gradients,
            hyper,
        };
        visit(module, &mut update)
    }
}

impl<M: TensorCollection<f32, D>, D: EdkmDevice> Optimizer<M, D, f32> for AdamWOptimizer<D> {
    /// [`try_update`](AdamWOptimizer::try_update), whose error [`with_reason`](crate::with_reason) has: dfdx's says only that there was one.
    fn update(&mut self, module: &mut M, gradients: &Gradients<f32, D>) -> Result<(), OptimizerUpdateError<D::Err>> {
        self.try_update(module, gradients).map_err(|error| {
            if let Some(failure) = listener() {
                failure.set(EdkmError::Optimizer(Box::new(error)));
            }
            OptimizerUpdateError::DeviceError(D::failed())
        })
    }
}

fn visit<D: EdkmDevice, M: TensorCollection<f32, D>, V>(module: &mut M, visitor: &mut V) -> Result<(), StepError>
where
    V: TensorVisitor<f32, D, Viewer = (ViewTensorMut, ViewTensorName), Err = StepError, E2 = f32, D2 = D>,
{
    M::iter_tensors(&mut RecursiveWalker {
        m: (module, String::new()),
        f: visitor,
    })
    .map(|_| ())
}

/// The paths of all parameters that are updated.
struct Paths(BTreeSet<String>);

impl<D: EdkmDevice> TensorVisitor<f32, D> for Paths {
    type Viewer = (ViewTensorMut, ViewTensorName);
    type Err = StepError;
    type E2 = f32;
    type D2 = D;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, D>,
        (_, path): (&mut Tensor<S, f32, D>, String),
    ) -> Result<Option<Tensor<S, f32, D>>, StepError> {
        if options.do_gradient_update {
            self.0.insert(path);
        }
        Ok(None)
    }
}

/// The norm of all gradients.
struct Norm<'a, D: EdkmDevice> {
    adamw: &'a AdamW<D>,
    gradients: Gradients<f32, D>,
    sum_of_squares: f64,
}

impl<D: EdkmDevice> TensorVisitor<f32, D> for Norm<'_, D> {
    type Viewer = (ViewTensorMut, ViewTensorName);
    type Err = StepError;
    type E2 = f32;
    type D2 = D;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, D>,
        (parameter, path): (&mut Tensor<S, f32, D>, String),
    ) -> Result<Option<Tensor<S, f32, D>>, StepError> {
        if options.do_gradient_update && !self.adamw.is_frozen(&path) {
            let gradient = gradient_of(&mut self.gradients, &path, parameter)?;
            self.sum_of_squares += sum_of_squares(self.adamw.device(), &path, gradient)?;
        }
        Ok(None)
    }
}

struct Update<'a, D: EdkmDevice> {
    adamw: &'a mut AdamW<D>,
    gradients: Gradients<f32, D>,
    hyper: Hyper,
}

impl<D: EdkmDevice> TensorVisitor<f32, D> for Update<'_, D> {
    type Viewer = (ViewTensorMut, ViewTensorName);
    type Err = StepError;
    type E2 = f32;
    type D2 = D;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, D>,
        (parameter, path): (&mut Tensor<S, f32, D>, String),
    ) -> Result<Option<Tensor<S, f32, D>>, StepError> {
        if options.do_gradient_update && !self.adamw.is_frozen(&path) {
            let gradient = gradient_of(&mut self.gradients, &path, parameter)?;
            let kind = match S::NUM_DIMS {
                0 | 1 => ParameterKind::Vector,
                _ => ParameterKind::Linear { clustering: None },
            };
            self.adamw
                .update_of_kind(&path, kind, parameter, gradient, self.hyper)?;
        }
        Ok(None)
    }
}
