//! Losses of a model of which only the layers from one on change.

use dfdx::prelude::NoneTape;
use dfdx_edkm::EdkmDevice;
use edkm_llama::model::{DynamicLlama, Residual};

use crate::data::windows::Batch;
use crate::trainer::{model_input, segments};
use crate::TrainError;

/// What is given to one layer by the batches of a text: the layers before it run once, whatever is tried in it and behind it.
///
/// Memory: 4 bytes x tokens x hidden size.
pub(super) struct Prefix<'a, D: EdkmDevice> {
    batches: &'a [Batch],
    layer: usize,
    hidden: Vec<Residual<usize, usize, usize, D, NoneTape>>,
}

impl<'a, D: EdkmDevice> Prefix<'a, D> {
    /// What is given to the first layer.
    ///
    /// # Errors
    /// An op that failed.
    pub(super) fn new(model: &DynamicLlama<D>, batches: &'a [Batch]) -> Result<Self, TrainError> {
        let embedded = |batch: &Batch| {
            let (tokens, _) = model_input(batch.clone());
            model.try_embed(&tokens, NoneTape).map_err(failed::<D>)
        };
        Ok(Self {
            batches,
            layer: 0,
            hidden: batches.iter().map(embedded).collect::<Result<_, _>>()?,
        })
    }

    /// Goes on to what is given to `layer`, of which the layers before must not change any more.
    ///
    /// # Errors
    /// An op that failed.
    pub(super) fn go_on_to(&mut self, layer: usize, model: &DynamicLlama<D>) -> Result<(), TrainError> {
        let between = self.layer..layer;
        for (hidden, batch) in self.hidden.iter_mut().zip(self.batches) {
            *hidden = model
                .try_layers(between.clone(), hidden.clone(), segments(batch).as_ref())
                .map_err(failed::<D>)?;
        }
        self.layer = layer;
        Ok(())
    }

    /// Mean loss of each batch in nats a token. `measured` hears of each, and ends it with an error.
    ///
    /// # Errors
    /// An op that failed, what `measured` gives.
    pub(super) fn losses(
        &self,
        model: &DynamicLlama<D>,
        measured: &mut dyn FnMut() -> Result<(), TrainError>,
    ) -> Result<Vec<f64>, TrainError> {
        let loss = |(batch, hidden): (&Batch, &Residual<usize, usize, usize, D, NoneTape>)| {
            let (tokens, targets) = model_input(batch.clone());
            let loss = model
                .try_loss_from(self.layer, hidden.clone(), tokens.segments.as_ref(), targets)
                .map_err(failed::<D>)?;
            measured()?;
            Ok(f64::from(loss.as_vec()[0]))
        };
        self.batches.iter().zip(&self.hidden).map(loss).collect()
    }
}

fn failed<D: EdkmDevice>(error: D::Err) -> TrainError {
    TrainError::Device {
        reason: format!("calibration: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dfdx::prelude::Cpu;
    use edkm_llama::config::LlamaConfig;

    use super::*;
    use crate::compress::{replace_values, Calibration};
    use crate::data::TokenStream;
    use crate::init::random_weights;

    /// The bits of a whole forward pass, wherever a change lies: also in text that is kept apart.
    #[test]
    fn a_change_in_a_layer_is_seen_from_there_on_as_it_is_by_the_whole_model() {
        let config = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16}"#;
        let config = LlamaConfig::from_json(Path::new("config.json"), config).unwrap();
        let mut model: DynamicLlama<Cpu> =
            DynamicLlama::from_weights(&config, &Cpu::default(), &mut random_weights(3, 3, 0.3)).unwrap();
        let stream = TokenStream::of_lengths(&[5, 3, 8, 9, 2, 4]);
        let calibration = Calibration {
            stream: &stream,
            sequence: 8,
            windows: 4,
            seed: 0,
        };
        let batches = calibration.at_least(2).unwrap();
        assert!(batches.len() > 1 && batches.iter().any(|batch| segments(batch).is_some()));
        let whole = |model: &DynamicLlama<Cpu>| -> Vec<f64> {
            let loss = |batch: &Batch| {
                let (tokens, targets) = model_input(batch.clone());
                f64::from(model.try_loss(&tokens, targets, NoneTape).unwrap().as_vec()[0])
            };
            batches.iter().map(loss).collect()
        };
        let mut heard = 0;
        let mut prefix = Prefix::new(&model, &batches).unwrap();
        let mut before = whole(&model);
        for layer in [0, 2] {
            prefix.go_on_to(layer, &model).unwrap();
            let changed = format!("model.layers.{layer}.mlp.up_proj.weight");
            replace_values(&mut model, |name, _| (name == changed).then(|| vec![0.125; 24 * 16])).unwrap();
            let losses = prefix.losses(&model, &mut || {
                heard += 1;
                Ok(())
            });
            let losses = losses.unwrap();
            assert_eq!(losses, whole(&model), "{layer}");
            assert_ne!(losses, before);
            before = losses;
        }
        assert_eq!(heard, 2 * batches.len());
    }
}
