//! A small generator of random numbers whose stream is fixed, and models of random weights.

use std::num::NonZeroUsize;
use std::path::Path;

use edkm_palette::{FormatMetadata, PaletteError, PaletteSpec, PalettizedMatrix};
use rayon::prelude::*;

use crate::checkpoint::{write_model, FloatDtype, Sharding, TensorEntry, Weight, WrittenModel};
use crate::config::{LlamaConfig, CONFIG_FILE};
use crate::names::{self, Parameter, Role};
use crate::LlamaError;

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): 64 bits of state, the
/// same numbers on every machine and in every version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The generator of a seed; all seeds are equally good.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number that is uniform in `0 <= u < 1`, a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Weights of no meaning but of the size and form of a compressed model's: for measuring speed and memory.
///
/// For [`InferenceModel::from_parts`](super::InferenceModel::from_parts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomWeights {
    /// Bits of the linear layers of the decoder, 1 to 8; `None` makes them plain f32 numbers.
    pub bits: Option<u8>,
    /// Rows of a linear layer of the decoder that share a palette; all of them without it.
    pub group_rows: Option<NonZeroUsize>,
    /// Bits of the embedding and of the output projection.
    pub embedding_bits: Option<u8>,
    /// Where the stream of random numbers begins.
    pub seed: u64,
}

impl RandomWeights {
    /// A random weight, of a size that keeps activations about 1.
    ///
    /// Allocates one byte for each weight while a matrix is packed.
    ///
    /// # Errors
    /// [`LlamaError::Palettize`] if the bits are none that a palette can have.
    pub fn weight(&self, parameter: &Parameter) -> Result<Weight, LlamaError> {
        let seed = parameter
            .name
            .bytes()
            .fold(self.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let (bits, group_rows) = match parameter.role {
            Role::Embedding | Role::Head => (self.embedding_bits, None),
            Role::Linear => (self.bits, self.group_rows),
            Role::Norm => return Ok(Weight::Dense(vec![1.0; parameter.shape.iter().product()])),
            Role::Bias => return Ok(Weight::Dense(vec![0.0; parameter.shape.iter().product()])),
        };
        let (rows, cols) = (parameter.shape[0], parameter.shape[1]);
        // Uniform in -a..a has the variance a^2 / 3.
        let size = if parameter.role == Role::Embedding {
            1.0
        } else {
            (3.0 / cols as f32).sqrt()
        };
        let Some(bits) = bits else {
            let mut values = vec![0.0f32; rows * cols];
            fill(&mut values, seed, |random| {
                ((2.0 * random.uniform() - 1.0) as f32) * size
            });
            return Ok(Weight::Dense(values));
        };
        let packed = || -> Result<PalettizedMatrix, PaletteError> {
            let spec = PaletteSpec {
                group_rows,
                ..PaletteSpec::new(bits)
            };
            spec.validate()?;
            let clusters = spec.clusters();
            let palettes: Vec<f32> = (0..spec.groups(rows) * clusters)
                .map(|i| size * ((2 * (i % clusters) + 1) as f32 / clusters as f32 - 1.0))
                .collect();
            let mut indices = vec![0; rows * cols];
            fill(&mut indices, seed, |random| {
                (random.next_u64() >> (64 - u32::from(bits))) as u8
            });
            PalettizedMatrix::pack(rows, cols, spec, &palettes, &indices, None)
        };
        packed()
            .map(Weight::Palettized)
            .map_err(|source| LlamaError::Palettize {
                name: parameter.name.clone(),
                source,
            })
    }
}

impl RandomWeights {
    /// Writes a model folder without a tokenizer. Memory: all of its weights as they are stored.
    ///
    /// # Errors
    /// As [`weight`](Self::weight); a configuration that is not valid; a system that does not write.
    pub fn write(&self, config: &LlamaConfig, dir: &Path) -> Result<WrittenModel, LlamaError> {
        config.validate(Path::new(CONFIG_FILE))?;
        let weights = names::parameters(config)
            .map(|parameter| Ok((self.weight(&parameter)?, parameter)))
            .collect::<Result<Vec<_>, LlamaError>>()?;
        let mut format = FormatMetadata::new();
        let mut entries = Vec::new();
        for (weight, parameter) in &weights {
            match weight {
                Weight::Dense(values) => entries.push(TensorEntry::values(
                    &parameter.name,
                    parameter.shape.clone(),
                    values,
                    FloatDtype::F32,
                )),
                Weight::Palettized(matrix) => {
                    format.insert(&parameter.name, matrix);
                    entries.extend(matrix.to_entries(&parameter.name).into_iter().map(TensorEntry::from));
                }
            }
        }
        let metadata = format.to_map().map_err(|source| LlamaError::Palettize {
            name: String::new(),
            source,
        })?;
        let written = write_model(dir, entries, &metadata.into_iter().collect(), Sharding::Single)?;
        config.write(dir)?;
        Ok(written)
    }
}

/// Fills pieces of a slice by generators of their own, so that the number of threads does not matter.
fn fill<T: Send>(out: &mut [T], seed: u64, next: impl Fn(&mut SplitMix64) -> T + Sync) {
    out.par_chunks_mut(1 << 16).enumerate().for_each(|(i, piece)| {
        let mut random = SplitMix64::new(SplitMix64::new(seed.wrapping_add(i as u64)).next_u64());
        piece.iter_mut().for_each(|value| *value = next(&mut random));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::testing::config;
    use crate::inference::InferenceModel;

    /// The first numbers of seed 1234567, as published with the algorithm.
    #[test]
    fn the_stream_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn uniform_numbers_fill_their_range() {
        let mut random = SplitMix64::new(3);
        let numbers: Vec<f64> = (0..10_000).map(|_| random.uniform()).collect();
        assert!(numbers.iter().all(|u| (0.0..1.0).contains(u)));
        // The mean of n uniform numbers strays by 1 / sqrt(12 n) = 0.003; five times that.
        let mean = numbers.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() <= 0.015, "{mean}");
    }

    #[test]
    fn random_models_have_the_form_asked_for() {
        let weights = RandomWeights {
            bits: Some(3),
            group_rows: None,
            embedding_bits: Some(8),
            seed: 1,
        };
        let model = InferenceModel::from_parts(config(), |parameter| weights.weight(parameter)).unwrap();
        let linear = 2 * (48 * 48 * 2 + 16 * 48 * 2 + 3 * 88 * 48);
        let embedding = 2 * 97 * 48;
        let norms = 5 * 48 * 4;
        let smallest = linear * 3 / 8 + embedding + norms;
        let bytes = model.weight_bytes();
        // Besides: palettes, and rows padded to tiles of 16 and words of 32 bits.
        assert!(
            (smallest..smallest * 5 / 4 + 4096).contains(&bytes.owned),
            "{bytes:?} against {smallest}"
        );
        let refused = RandomWeights {
            bits: Some(9),
            ..weights
        };
        let error = InferenceModel::from_parts(config(), |parameter| refused.weight(parameter)).unwrap_err();
        assert!(matches!(error, LlamaError::Palettize { .. }), "{error}");
    }
}
