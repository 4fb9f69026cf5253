//! Random weights, for training from the start and for benchmarks.

use edkm_llama::names::{Parameter, Role};
use edkm_llama::LlamaError;
use rand_chacha::rand_core::RngCore;

use crate::random::generator;

/// Weights for a new model, each parameter from a stream of its own: matrices uniform with standard deviation `deviation`, scaled down by the
/// root of twice the layers where they add to the residual stream (as GPT-2 does); norms one; biases zero. The same on every platform.
pub fn random_weights(
    seed: u64,
    layers: usize,
    deviation: f32,
) -> impl FnMut(&Parameter) -> Result<Vec<f32>, LlamaError> {
    let residual = 1.0 / (2.0 * layers.max(1) as f32).sqrt();
    move |parameter| {
        let len = parameter.shape.iter().product();
        let adds_to_residual =
            parameter.name.ends_with("o_proj.weight") || parameter.name.ends_with("down_proj.weight");
        let deviation = if adds_to_residual {
            deviation * residual
        } else {
            deviation
        };
        Ok(match parameter.role {
            Role::Norm => vec![1.0; len],
            Role::Bias => vec![0.0; len],
            Role::Embedding | Role::Head | Role::Linear => {
                let stream = xxhash_rust::xxh3::xxh3_64(parameter.name.as_bytes());
                let mut random = generator(seed, stream);
                // a uniform number from [-1, 1) has standard deviation 1 / sqrt(3)
                let bound = deviation * 3f32.sqrt();
                (0..len)
                    .map(|_| bound * (random.next_u32() as i32 as f32 / 2f32.powi(31)))
                    .collect()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use edkm_llama::names::Kind;

    use super::*;

    #[test]
    fn weights_have_the_deviation_and_differ_between_parameters() {
        let parameter = |name: &str| Parameter {
            name: name.into(),
            kind: Kind::Query,
            layer: Some(0),
            role: Role::Linear,
            shape: vec![100, 200],
        };
        let mut source = random_weights(1, 2, 0.02);
        let a = source(&parameter("a")).unwrap();
        let b = source(&parameter("b")).unwrap();
        assert_ne!(a, b);
        let variance = a.iter().map(|w| f64::from(w * w)).sum::<f64>() / a.len() as f64;
        // five standard errors of a variance over 20,000 uniform numbers: 5 sqrt(0.8 / 20000)
        assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.032, "{variance}");
        let residual = source(&parameter("x.o_proj.weight")).unwrap();
        assert!(residual.iter().all(|w| w.abs() <= 0.5 * 0.02 * 1.733));
    }
}
