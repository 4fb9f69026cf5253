//! The frequencies of the rotary position embedding (Su et al., arXiv 2104.09864) and their scaling to longer contexts.

use crate::config::{LlamaConfig, RopeScaling};

/// The angle in radians by which each pair of a head's coordinates turns from one position to the next.
///
/// `head_dim / 2` numbers, the fastest first: `rope_theta^(-2j / head_dim)`, then changed as [`RopeScaling`] says. Pair `j`
/// is made of the coordinates `j` and `j + head_dim / 2`, the order of Hugging Face checkpoints. Kept in f64: at
/// position 100,000 an f32 angle would be off by some thousandths.
pub fn inverse_frequencies(config: &LlamaConfig) -> Vec<f64> {
    let head_dim = config.head_dim;
    (0..head_dim / 2)
        .map(|j| config.rope_theta.powf(-((2 * j) as f64) / head_dim as f64))
        .map(|frequency| scale(frequency, &config.rope_scaling))
        .collect()
}

fn scale(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        // Llama 3.1: what turns many times within the original context stays, what does not turn once is slowed down
        // by the whole factor, and between the two the mixture is linear in the number of turns.
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;

    fn close(a: f64, b: f64) {
        // The two are the same formula in another order: a few roundings.
        assert!(((a - b) / b).abs() <= 1e-14, "{a} against {b}");
    }

    #[test]
    fn unscaled_is_a_geometric_sequence_from_one() {
        let config = LlamaConfig {
            head_dim: 64,
            rope_theta: 10_000.0,
            ..tiny()
        };
        let frequencies = inverse_frequencies(&config);
        assert_eq!((frequencies.len(), frequencies[0]), (32, 1.0));
        for pair in frequencies.windows(2) {
            close(pair[1] / pair[0], 10_000f64.powf(-2.0 / 64.0));
        }
        close(frequencies[16], 0.01);
    }

    #[test]
    fn linear_scaling_divides() {
        let plain = LlamaConfig { head_dim: 8, ..tiny() };
        let scaled = LlamaConfig {
            rope_scaling: RopeScaling::Linear { factor: 4.0 },
            ..plain.clone()
        };
        for (a, b) in inverse_frequencies(&scaled).iter().zip(inverse_frequencies(&plain)) {
            close(*a, b / 4.0);
        }
    }

    /// Against the definition in wavelengths, as Meta published it, with the values of Llama 3.1 8B.
    #[test]
    fn llama3_scaling_is_the_published_one() {
        let (factor, low, high, context) = (8.0, 1.0, 4.0, 8192.0);
        let plain = LlamaConfig {
            head_dim: 128,
            rope_theta: 500_000.0,
            ..tiny()
        };
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: 8192,
        };
        let scaled = inverse_frequencies(&LlamaConfig {
            rope_scaling: scaling,
            ..plain.clone()
        });
        let mut seen = [0; 3];
        for (got, frequency) in scaled.into_iter().zip(inverse_frequencies(&plain)) {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            let want = if wavelength < context / high {
                seen[0] += 1;
                frequency
            } else if wavelength > context / low {
                seen[2] += 1;
                frequency / factor
            } else {
                seen[1] += 1;
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            };
            close(got, want);
        }
        assert!(seen.iter().all(|&n| n > 0), "each of the three ranges occurs: {seen:?}");
    }
}
