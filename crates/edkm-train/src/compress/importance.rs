//! How much the loss feels each weight: squared gradients over calibration text (SqueezeLLM, arXiv 2306.07629, section 4.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::{
    backward_each_part, gradients_of, take_gradient, EdkmDevice, EdkmError, ParameterKind, ParameterVisitor,
    ParametersByPart, StoreTape,
};
use edkm_llama::model::DynamicLlama;
use edkm_store::{Backend, Store};

use super::Calibration;
use crate::run::{first_not_finite, OnProgress};
use crate::trainer::model_input;
use crate::TrainError;

/// For each parameter by name, the diagonal of the Fisher information: half of it times a squared error is what that error costs, in nats a
/// token, to second order.
pub type Importances = BTreeMap<String, Vec<f32>>;

/// The importance of every weight in every matrix of `model`, from one backward pass for each window: the mean over windows of the squared
/// gradient of the window's loss, times the predictions in it. Clustering is left out: the gradients are those of the weights as they are.
/// `progress` is told the share that is done.
///
/// Memory: 4 bytes a parameter, the gradients of one layer, and what a training step on one window saves.
///
/// # Errors
/// Text shorter than a window, a loss that is not finite, an op that failed, what `progress` gives.
pub fn importance<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    calibration: &Calibration<'_>,
    progress: &mut OnProgress<'_>,
) -> Result<Importances, TrainError> {
    let mut model = model.clone();
    model.set_clustering(&|_: &edkm_llama::names::Parameter| None);
    let store: Arc<dyn Backend> = Arc::new(Store::marshaling());
    let windows = calibration.single_windows()?;
    let count = windows.len();
    let mut found = Importances::new();
    for (index, window) in windows.into_iter().enumerate() {
        let predictions = window.counted();
        let tape = StoreTape::shared(store.clone(), gradients_of(&mut model));
        let failure = tape.failure();
        let (tokens, targets) = model_input(window);
        let step = index as u64;
        let loss = model
            .try_loss(&tokens, targets, tape)
            .map_err(|device| TrainError::Step {
                step,
                source: failure
                    .take()
                    .unwrap_or_else(|| EdkmError::Device(format!("calibration: {device}"))),
            })?;
        let value = f64::from(loss.as_vec()[0]);
        if !value.is_finite() {
            drop(loss);
            let tensor = first_not_finite(&mut model, &tokens);
            return Err(TrainError::LossNotFinite {
                step,
                loss: value,
                tensor,
            });
        }
        let squares = |part, gradients: &mut Gradients<f32, D>| {
            let mut add = AddSquares {
                gradients,
                scale: (predictions / count as f64) as f32,
                found: &mut found,
            };
            model
                .visit_part(part, "", &mut add)
                .map_err(|error: D::Err| EdkmError::Device(format!("calibration: {error}")))
        };
        backward_each_part(loss, squares, |_| Ok(())).map_err(|source| TrainError::Step { step, source })?;
        progress((index + 1) as f64 / count as f64)?;
    }
    Ok(found)
}

struct AddSquares<'a, D: EdkmDevice> {
    gradients: &'a mut Gradients<f32, D>,
    scale: f32,
    found: &'a mut Importances,
}

impl<D: EdkmDevice> ParameterVisitor<D> for AddSquares<'_, D> {
    type Error = D::Err;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), D::Err> {
        if let ParameterKind::Vector = kind {
            return Ok(());
        }
        let device = parameter.device().clone();
        let gradient = take_gradient(self.gradients, parameter)?;
        let gradient = device.buffer_to_vec(&gradient)?;
        let sums = self
            .found
            .entry(name.to_owned())
            .or_insert_with(|| vec![0.0; gradient.len()]);
        for (sum, g) in sums.iter_mut().zip(gradient) {
            *sum += self.scale * g * g;
        }
        Ok(())
    }
}

/// The sum of an importance over the squared differences of two weights, halved: nats a token to second order.
pub fn estimated_loss(importance: &[f32], weight: &[f32], rounded: &[f32]) -> f64 {
    let sum: f64 = importance
        .iter()
        .zip(weight.iter().zip(rounded))
        .map(|(&i, (&w, &r))| f64::from(i) * (f64::from(w) - f64::from(r)).powi(2))
        .sum();
    sum / 2.0
}
