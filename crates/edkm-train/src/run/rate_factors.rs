//! Learning rates relative to weights: a clustered weight must go a gap between centroids to change its cluster, and the gap is as large as the
//! weights of its matrix are. What is not clustered is moved in proportion too, so that a rate which suits a model of large weights does not wipe out the small ones
//! of another.

use std::collections::BTreeMap;

use dfdx::prelude::*;
use dfdx_edkm::{Clustering, EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::model::DynamicLlama;

use super::ClusterSettings;

/// What learning rates are measured in where matrices are clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateUnit {
    /// That of a clustered matrix is multiplied by the root mean square of the matrix as it came, over [`TYPICAL`]; that of another parameter by its own, over
    /// [`TYPICAL_EMBEDDING`] or [`TYPICAL_VECTOR`], and by 1 at most.
    #[default]
    Relative,
    /// One rate for all.
    Absolute,
}

/// The root mean square of a matrix whose learning rate is the run's.
pub const TYPICAL: f64 = 0.12;

/// That of an embedding, or a head, that is not clustered.
pub const TYPICAL_EMBEDDING: f64 = 0.3;

/// That of the scale of a normalisation, and of a bias.
pub const TYPICAL_VECTOR: f64 = 0.5;

/// The factors of the parameters of `model`; none if nothing is clustered. A parameter of zeros has none. `bits_a_weight`: those that the run's rate is for; a matrix of
/// others has the rate that is right for these.
pub(super) fn rate_factors<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    unit: RateUnit,
    bits_a_weight: f64,
) -> BTreeMap<String, f32> {
    let mut visitor = Factors {
        run_rate: ClusterSettings::learning_rate_for(bits_a_weight),
        factors: BTreeMap::new(),
        some_are_clustered: false,
    };
    if unit == RateUnit::Relative {
        match model.visit_parameters("", &mut visitor) {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
    match visitor.some_are_clustered {
        true => visitor.factors,
        false => BTreeMap::new(),
    }
}

struct Factors {
    /// What is right for the bits that a weight has on average.
    run_rate: f64,
    factors: BTreeMap<String, f32>,
    some_are_clustered: bool,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Factors {
    type Error = std::convert::Infallible;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error> {
        let is_clustered = kind.clustering().is_some();
        self.some_are_clustered |= is_clustered;
        let typical = match kind {
            ParameterKind::Linear { .. } => TYPICAL,
            ParameterKind::Embedding { .. } if is_clustered => TYPICAL,
            ParameterKind::Embedding { .. } => TYPICAL_EMBEDDING,
            ParameterKind::Vector => TYPICAL_VECTOR,
        };
        let weight = parameter.as_vec();
        let squares: f64 = weight.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let factor = (squares / weight.len() as f64).sqrt() / typical;
        let factor = match kind.clustering().map(Clustering::spec) {
            Some(spec) => {
                let bits = f64::from(spec.bits.get()) / spec.dim() as f64;
                factor * (ClusterSettings::learning_rate_for(bits) / self.run_rate)
            }
            None => factor.min(1.0),
        } as f32;
        if factor.is_normal() && factor != 1.0 {
            self.factors.insert(name.to_owned(), factor);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use edkm_cluster::Bits;
    use edkm_llama::config::LlamaConfig;

    use super::*;
    use crate::init::random_weights;
    use crate::run::ClusterSettings;

    #[test]
    fn parameters_are_measured_in_their_own_weights_where_some_are_clustered() {
        let sizes = r#"{"model_type": "llama", "vocab_size": 16, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8, "rms_norm_eps": 1e-5}"#;
        let config = LlamaConfig::from_json("config.json".as_ref(), sizes).unwrap();
        // one matrix ten times as large, another of zeros
        let mut weights = random_weights(0, config.num_hidden_layers, 0.03);
        let mut source = |parameter: &edkm_llama::names::Parameter| {
            let factor = match parameter.name.as_str() {
                "model.layers.0.self_attn.q_proj.weight" => 10.0,
                "model.layers.0.self_attn.k_proj.weight" => 0.0,
                "model.layers.0.input_layernorm.weight" => 0.2,
                _ => 1.0,
            };
            Ok(weights(parameter)?.into_iter().map(|w| factor * w).collect())
        };
        let mut model = DynamicLlama::from_weights(&config, &Cpu::default(), &mut source).unwrap();
        assert!(
            rate_factors(&mut model, RateUnit::Relative, 3.0).is_empty(),
            "nothing is clustered"
        );

        model.set_clustering(&ClusterSettings::new(Bits::new(3).unwrap(), 10));
        assert!(rate_factors(&mut model, RateUnit::Absolute, 3.0).is_empty());
        let factors = rate_factors(&mut model, RateUnit::Relative, 3.0);
        // matrices but that of zeros, embedding and head, and the norm of small numbers
        assert_eq!(factors.len(), 7 * config.num_hidden_layers - 1 + 2 + 1, "{factors:?}");
        let of = |name: &str| factors.get(&format!("model.layers.0.{name}.weight")).copied();
        let near = |factor: Option<f32>, want: f64| {
            let factor = f64::from(factor.unwrap());
            // the root mean square of some hundred uniform numbers or more
            assert!((factor / want - 1.0).abs() < 0.1, "{factor} {want}");
        };
        near(of("self_attn.v_proj"), 0.03 / TYPICAL);
        near(of("self_attn.q_proj"), 0.3 / TYPICAL);
        assert_eq!(of("self_attn.k_proj"), None);
        near(of("input_layernorm"), 0.2 / TYPICAL_VECTOR);
        // never more than the run's
        assert_eq!(of("post_attention_layernorm"), None);
        near(
            factors.get("model.embed_tokens.weight").copied(),
            0.03 / TYPICAL_EMBEDDING,
        );
        near(factors.get("lm_head.weight").copied(), 0.03 / TYPICAL_EMBEDDING);
        // where most have 2 bits, for which 4.5e-3 is right in place of 3e-3
        let of_others = rate_factors(&mut model, RateUnit::Relative, 2.0);
        let value = "model.layers.0.self_attn.v_proj.weight";
        near(of_others.get(value).copied(), 0.03 / TYPICAL * 3.0 / 4.5);
    }
}
