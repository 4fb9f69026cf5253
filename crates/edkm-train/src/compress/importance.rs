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
use rayon::prelude::*;

use super::{Calibration, PIECE};
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
        let gradient = device.buffer_into_vec(gradient)?;
        let sums = self
            .found
            .entry(name.to_owned())
            .or_insert_with(|| vec![0.0; gradient.len()]);
        let scale = self.scale;
        sums.par_chunks_mut(PIECE)
            .zip(gradient.par_chunks(PIECE))
            .for_each(|(sums, gradient)| {
                sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += scale * g * g);
            });
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dfdx_edkm::Parameters;
    use edkm_llama::config::LlamaConfig;

    use super::*;
    use crate::data::TokenStream;
    use crate::init::random_weights;

    /// Squared gradients of matrices, times `predictions`.
    struct Squares<'a> {
        gradients: &'a mut Gradients<f32, Cpu>,
        predictions: f64,
        found: &'a mut BTreeMap<String, Vec<f64>>,
    }

    impl ParameterVisitor<Cpu> for Squares<'_> {
        type Error = std::convert::Infallible;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            kind: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, Cpu>,
        ) -> Result<(), Self::Error> {
            if !matches!(kind, ParameterKind::Vector) {
                let gradient = self.gradients.get(parameter).as_vec();
                let sums = self.found.entry(name.to_owned()).or_default();
                sums.resize(gradient.len(), 0.0);
                sums.iter_mut()
                    .zip(gradient)
                    .for_each(|(sum, g)| *sum += self.predictions * f64::from(g).powi(2));
            }
            Ok(())
        }
    }

    #[test]
    fn it_is_the_mean_over_windows_of_squared_gradients_times_predictions() {
        let config = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16}"#;
        let config = LlamaConfig::from_json(Path::new("config.json"), config).unwrap();
        let mut model: DynamicLlama<Cpu> =
            DynamicLlama::from_weights(&config, &Cpu::default(), &mut random_weights(3, 2, 0.3)).unwrap();
        // two windows, of which all 8 predictions count and two
        let counted = (0..18).map(|i| i < 9 || i % 3 == 0).collect();
        let stream = TokenStream::of_records((0..18).map(|i| i * i % 31).collect(), counted, 9);
        let calibration = Calibration {
            stream: &stream,
            sequence: 8,
            windows: 2,
            seed: 0,
        };
        let windows = calibration.single_windows().unwrap();
        assert_eq!(windows.len(), 2);
        assert_ne!(windows[0].counted(), windows[1].counted());

        let mut want = BTreeMap::new();
        for window in windows {
            let predictions = window.counted() / 2.0;
            let (tokens, targets) = model_input(window);
            let mut gradients = model
                .try_loss(&tokens, targets, OwnedTape::default())
                .unwrap()
                .backward();
            let mut squares = Squares {
                gradients: &mut gradients,
                predictions,
                found: &mut want,
            };
            let Ok(()) = model.visit_parameters("", &mut squares);
        }
        let found = importance(&model, &calibration, &mut |_| Ok(())).unwrap();
        assert!(found.keys().eq(want.keys()));
        for (name, found) in &found {
            let want = &want[name];
            let largest = want.iter().fold(0.0f64, |a, &b| a.max(b));
            assert!(largest > 0.0 && found.len() == want.len(), "{name}");
            for (&found, want) in found.iter().zip(want) {
                // gradients in f32, which passes by parts may sum in another order, squared
                assert!(
                    (f64::from(found) - want).abs() <= 1e-4 * largest,
                    "{name}: {found} {want}"
                );
            }
        }
    }

    #[test]
    fn a_loss_is_half_of_importances_times_squared_errors() {
        // (2 * 0.5² + 4 * 1²) / 2
        assert_eq!(
            estimated_loss(&[2.0, 4.0, 8.0], &[1.0, -1.0, 3.0], &[1.5, -2.0, 3.0]),
            2.25
        );
        assert_eq!(estimated_loss(&[], &[], &[]), 0.0);
    }
}
