//! [`AdamW`] over dfdx's `TensorCollection`, as dfdx's own optimizers are used.

use dfdx::nn::modules::{
    RecursiveWalker, TensorCollection, TensorOptions, TensorVisitor, ViewTensorMut, ViewTensorName,
};
use dfdx::optim::{Optimizer, OptimizerUpdateError};
use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;

use super::{AdamW, AdamWConfig};
use crate::EdkmDevice;

/// [`AdamW`] as a dfdx [`Optimizer`] of any module: parameters are told apart by their path, the learning rate stands in a field.
///
/// A gradient that is not there counts as 0 (dfdx's own optimizers return `UnusedParams`; dfdx does not tell others which are there).
///
/// There is no clipping (`clip_norm` is ignored) and no look for gradients that are not finite, and every parameter decays alike, since a `TensorCollection` does not say what is a
/// matrix of a layer and what a bias. [`AdamW::step`] does all three, for models with [`Parameters`](crate::Parameters).
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
}

impl<M: TensorCollection<f32, D>, D: EdkmDevice> Optimizer<M, D, f32> for AdamWOptimizer<D> {
    /// Updates `module`. The gradients are copied once: dfdx lends them for reading only by a clone.
    fn update(&mut self, module: &mut M, gradients: &Gradients<f32, D>) -> Result<(), OptimizerUpdateError<D::Err>> {
        self.adamw.advance();
        let hyper = self.adamw.hyper(self.learning_rate, 1.0);
        let mut update = Update {
            adamw: &mut self.adamw,
            gradients: gradients.clone(),
            hyper,
        };
        M::iter_tensors(&mut RecursiveWalker {
            m: (module, String::new()),
            f: &mut update,
        })
        .map(|_| ())
        .map_err(OptimizerUpdateError::DeviceError)
    }
}

struct Update<'a, D: EdkmDevice> {
    adamw: &'a mut AdamW<D>,
    gradients: Gradients<f32, D>,
    hyper: Hyper,
}

impl<D: EdkmDevice> TensorVisitor<f32, D> for Update<'_, D> {
    type Viewer = (ViewTensorMut, ViewTensorName);
    type Err = D::Err;
    type E2 = f32;
    type D2 = D;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, D>,
        (parameter, path): (&mut Tensor<S, f32, D>, String),
    ) -> Result<Option<Tensor<S, f32, D>>, D::Err> {
        if options.do_gradient_update {
            let gradient = self.gradients.get_or_alloc_mut(parameter)?;
            self.adamw.update_one(&path, parameter, gradient, &self.hyper)?;
        }
        Ok(None)
    }
}
