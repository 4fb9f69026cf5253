//! Time and memory of one decoder layer, forward and backward: of dfdx's own ops, of ours, clustered, and clustered with checkpointing.

use std::time::Instant;

use dfdx::prelude::*;
use dfdx_edkm::{backward, try_checkpoint, ParameterKind, ParameterVisitor, Parameters, StoreTape};
use edkm_cluster::bench::median;
use edkm_cluster::Bits;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_store::{Backend, Store};
use rand_chacha::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use super::stock_layer::{FusedDecoderLayer, StockDecoderLayer};
use crate::init::random_weights;
use crate::memory::{peak_resident_bytes, reset_peak_resident, resident_bytes};
use crate::random::generator;
use crate::run::ClusterSettings;
use crate::TrainError;

/// The layer and what goes through it.
#[derive(Debug, Clone, Copy)]
pub struct LayerSettings {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Sequences.
    pub batch: usize,
    /// Bits of the clustered layers.
    pub bits: Bits,
}

/// A way of computing the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// dfdx's own ops on its `OwnedTape`, not clustered.
    Stock,
    /// The ops of this project, not clustered, over a marshaling store.
    Unclustered,
    /// The same, clustered.
    Clustered,
    /// The same, clustered, saving the input of the layer alone.
    Checkpointed,
}

impl Variant {
    /// All of them, in the order of the rows.
    pub const ALL: [Variant; 4] = [
        Variant::Stock,
        Variant::Unclustered,
        Variant::Clustered,
        Variant::Checkpointed,
    ];

    /// Its name in `rows`.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Stock => "stock",
            Variant::Unclustered => "unclustered",
            Variant::Clustered => "clustered",
            Variant::Checkpointed => "checkpointed",
        }
    }
}

/// Memory of one forward and backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerMemory {
    /// The most resident memory in the pass, beyond the program, the weights and the weights' gradients.
    pub peak_resident_bytes: Option<u64>,
    /// By how much the resident memory has grown between the beginning of forward and that of backward.
    pub kept_bytes: Option<u64>,
    /// What the store says that it keeps at that moment, with the clusterings' trajectories. 0 for stock ops, which have no store.
    pub store_bytes: u64,
}

/// The layer, its input, and the ways to compute it.
pub struct LayerBench {
    settings: LayerSettings,
    pub(super) unclustered: FusedDecoderLayer,
    pub(super) clustered: FusedDecoderLayer,
    pub(super) stock: StockDecoderLayer,
    pub(super) x_bsh: Tensor<(usize, usize, usize), f32, Cpu>,
}

impl LayerBench {
    /// A layer with random weights. `device` should be one whose cache is off.
    ///
    /// # Errors
    /// Sizes that do not make a layer.
    pub fn new(settings: LayerSettings, device: &Cpu) -> Result<Self, TrainError> {
        for (setting, value) in [("--seq", settings.sequence), ("--batch", settings.batch)] {
            if value == 0 {
                return Err(TrainError::Setting {
                    setting,
                    value: value.to_string(),
                    expected: "at least 1",
                });
            }
        }
        let config: LlamaConfig = LlamaConfig::from_json(
            std::path::Path::new("bench layer"),
            &serde_json::json!({
                "model_type": "llama",
                "vocab_size": 2,
                "hidden_size": settings.hidden,
                "intermediate_size": settings.intermediate,
                "num_hidden_layers": 1,
                "num_attention_heads": settings.heads,
                "num_key_value_heads": settings.kv_heads,
                "max_position_embeddings": settings.sequence,
                "rms_norm_eps": 1e-5,
            })
            .to_string(),
        )?;
        let mut model = DynamicLlama::from_weights(&config, device, &mut random_weights(0, 1, 0.02))?;
        let layer = |model: &DynamicLlama<Cpu>| model.layers[0].clone();
        let unclustered = layer(&model);
        model.set_clustering(&ClusterSettings::new(settings.bits, 1));
        let stock = StockDecoderLayer::like(&unclustered).map_err(device_error)?;
        let mut random = generator(1, 0);
        let shape = (settings.batch, settings.sequence, settings.hidden);
        let x = (0..shape.0 * shape.1 * shape.2).map(|_| random.next_u32() as i32 as f32 / 2f32.powi(31));
        Ok(Self {
            settings,
            clustered: layer(&model),
            unclustered,
            stock,
            x_bsh: device.try_tensor_from_vec(x.collect(), shape).map_err(device_error)?,
        })
    }

    /// Floating point operations of a forward and backward pass: of the matrix products, and of attention as far as it is causal.
    pub fn flop(&self) -> f64 {
        let LayerSettings {
            hidden,
            intermediate,
            heads,
            kv_heads,
            sequence,
            batch,
            ..
        } = self.settings;
        let features = hidden / heads.max(1);
        let weights = 2 * hidden * features * (heads + kv_heads) + 3 * hidden * intermediate;
        let tokens = (batch * sequence) as f64;
        let attention = 2.0 * tokens * (sequence + 1) as f64 * (heads * features) as f64;
        3.0 * (2.0 * tokens * weights as f64 + attention)
    }

    /// Medians of the seconds of `repeats` passes (at least one) of each variant, in turns, after a round that is not counted.
    ///
    /// # Errors
    /// An op that fails.
    pub fn seconds(&self, repeats: usize) -> Result<[f64; Variant::ALL.len()], TrainError> {
        let mut times: [Vec<f64>; Variant::ALL.len()] = Default::default();
        for repeat in 0..=repeats.max(1) {
            for (variant, times) in Variant::ALL.into_iter().zip(&mut times) {
                let _span = tracing::trace_span!("pass", variant = variant.name()).entered();
                let start = Instant::now();
                self.pass(variant, |_| {})?;
                if repeat > 0 {
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        Ok(times.map(median))
    }

    /// The memory of one pass of a variant after one that is not counted. `resident_before` is what the process had before the layer was made.
    ///
    /// For the figures to be those of the variant it must be the only one that the process runs, and freed memory must go back to the
    /// system at once (with glibc: `MALLOC_MMAP_THRESHOLD_=65536` and `MALLOC_TRIM_THRESHOLD_=0` in the environment).
    ///
    /// # Errors
    /// An op that fails.
    pub fn memory(&self, variant: Variant, resident_before: Option<u64>) -> Result<LayerMemory, TrainError> {
        self.pass(variant, |_| {})?;
        reset_peak_resident();
        let start = resident_bytes();
        let (mut kept_bytes, mut store_bytes) = (None, 0);
        self.pass(variant, |stored| {
            let grown = |start: u64| resident_bytes().map(|now| now.saturating_sub(start));
            kept_bytes = start.and_then(grown);
            store_bytes = stored;
        })?;
        let parameters = dfdx_edkm::count_parameters(&mut self.unclustered.clone()) as u64 * 4;
        let beyond = |peak: u64| Some(peak.saturating_sub(resident_before?).saturating_sub(2 * parameters));
        Ok(LayerMemory {
            peak_resident_bytes: peak_resident_bytes().and_then(beyond),
            kept_bytes,
            store_bytes,
        })
    }

    /// One forward and backward pass. Between the two it tells how many bytes the store and the clusterings keep.
    fn pass(&self, variant: Variant, between: impl FnOnce(u64)) -> Result<(), TrainError> {
        let x = self.x_bsh.clone();
        if variant == Variant::Stock {
            let loss = self
                .stock
                .try_forward(x.put_tape(OwnedTape::default()))
                .and_then(|out| out.try_mean());
            let loss: Tensor<Rank0, f32, Cpu, OwnedTape<f32, Cpu>> = loss.map_err(device_error)?;
            between(0);
            let gradients = loss.backward_in_place()?;
            drop(gradients);
            return Ok(());
        }
        let store = Store::marshaling();
        let tape = StoreTape::new(store.clone(), Gradients::leaky());
        let (layer, x) = match variant {
            Variant::Stock | Variant::Unclustered => (&self.unclustered, x.put_tape(tape)),
            Variant::Clustered | Variant::Checkpointed => (&self.clustered, x.put_tape(tape)),
        };
        let out = match variant {
            Variant::Checkpointed => try_checkpoint(layer, x),
            _ => layer.try_forward(x),
        };
        let loss = out.and_then(|out| out.try_mean::<Rank0, _>()).map_err(device_error)?;
        between(store.report().held_bytes + clustering_bytes(layer));
        backward(loss).map_err(device_error)?;
        Ok(())
    }
}

/// dfdx's backward pass with this module's error.
trait BackwardInPlace {
    fn backward_in_place(self) -> Result<Gradients<f32, Cpu>, TrainError>;
}

impl BackwardInPlace for Tensor<Rank0, f32, Cpu, OwnedTape<f32, Cpu>> {
    fn backward_in_place(self) -> Result<Gradients<f32, Cpu>, TrainError> {
        self.try_backward().map_err(device_error)
    }
}

pub(super) fn clustering_bytes(layer: &FusedDecoderLayer) -> u64 {
    struct Bytes(u64);
    impl ParameterVisitor<Cpu> for Bytes {
        type Error = std::convert::Infallible;
        fn visit<S: Shape>(
            &mut self,
            _: &str,
            kind: ParameterKind<'_>,
            _: &mut Tensor<S, f32, Cpu>,
        ) -> Result<(), Self::Error> {
            self.0 += kind
                .clustering()
                .map_or(0, |clustering| clustering.saved_bytes() as u64);
            Ok(())
        }
    }
    let mut bytes = Bytes(0);
    match layer.clone().visit_parameters("", &mut bytes) {
        Ok(()) => bytes.0,
        Err(never) => match never {},
    }
}

pub(super) fn device_error(error: impl std::fmt::Display) -> TrainError {
    TrainError::Device {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_runs_and_only_ours_keep_in_a_store() {
        let settings = LayerSettings {
            hidden: 32,
            intermediate: 48,
            heads: 4,
            kv_heads: 2,
            sequence: 8,
            batch: 2,
            bits: Bits::new(3).unwrap(),
        };
        let device = Cpu::default();
        let bench = LayerBench::new(settings, &device).unwrap();
        assert!(bench.seconds(1).unwrap().iter().all(|&seconds| seconds > 0.0));
        let kept = Variant::ALL.map(|variant| bench.memory(variant, Some(0)).unwrap().store_bytes);
        let [stock, unclustered, clustered, checkpointed] = kept;
        assert_eq!(stock, 0);
        // the layer's input and the trajectories, in place of all that its ops save
        assert!(checkpointed < clustered && unclustered < clustered, "{kept:?}");
        // 2 x 16 tokens (2 * 32 * (32 + 16) + 3 * 32 * 48) and 2 x 16 x 9 x 32 for attention, three times
        assert_eq!(bench.flop(), 3.0 * (2.0 * 16.0 * 7680.0 + 2.0 * 16.0 * 9.0 * 32.0));
        assert!(LayerBench::new(
            LayerSettings {
                kv_heads: 3,
                ..settings
            },
            &device
        )
        .is_err());
        assert!(LayerBench::new(
            LayerSettings {
                sequence: 0,
                ..settings
            },
            &device
        )
        .is_err());
    }
}
