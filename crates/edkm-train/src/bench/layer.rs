//! Time and memory of one decoder layer, forward and backward: of dfdx's own ops, of ours, clustered, and clustered with checkpointing.

use std::convert::Infallible;
use std::time::Instant;

use dfdx::prelude::*;
use dfdx_edkm::{backward, gradients_of, try_checkpoint, visit_clustered, DeviceBudget, EdkmDevice, StoreTape};
use edkm_cluster::bench::median;
use edkm_cluster::Bits;
use edkm_kernels::LargePages;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_store::{Backend, Bytes, StoreSpec};
use rand_chacha::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use super::device_figures::{DeviceFigures, Watch};
use super::stock_layer::{FusedDecoderLayer, StockDecoderLayer};
use crate::init::random_weights;
use crate::memory::{peak_resident_bytes, reset_peak_resident, resident_bytes};
use crate::random::generator;
use crate::run::ClusterSettings;
use crate::TrainError;

/// The layer and what goes through it.
#[derive(Debug, Clone)]
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
    /// Where the ops of this project save what backward needs.
    pub store: StoreSpec,
    /// How much of it stays in the memory of the device; none if it is not said.
    pub device_memory: Option<Bytes>,
}

/// A way of computing the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// dfdx's own ops on its `OwnedTape`, not clustered.
    Stock,
    /// The ops of this project, not clustered, over a store.
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
    /// The most resident memory in the pass, beyond the program, the weights and the weights' gradients. `null` on a GPU.
    pub peak_resident_bytes: Option<u64>,
    /// By how much the resident memory has grown between the beginning of forward and that of backward. `null` on a GPU.
    pub kept_bytes: Option<u64>,
    /// What the store says that it keeps at that moment, with the clusterings' trajectories: bytes of the host. 0 for stock ops, which have no store.
    pub store_bytes: u64,
    /// The GPU's part, if there is one.
    #[serde(flatten)]
    pub device: Option<DeviceFigures>,
}

/// The layer, its input, and the ways to compute it.
pub struct LayerBench<D: EdkmDevice> {
    settings: LayerSettings,
    pub(super) unclustered: FusedDecoderLayer<D>,
    pub(super) clustered: FusedDecoderLayer<D>,
    pub(super) stock: StockDecoderLayer<D>,
    pub(super) x_bsh: Hidden<D>,
    /// Memory of the device that was in use before the layer was there.
    pub(super) used_before: u64,
}

/// `[batch, sequence, hidden]`
pub(super) type Hidden<D, T = NoneTape> = Tensor<(usize, usize, usize), f32, D, T>;
/// What a pass ends with.
pub(super) type Loss<D, T> = Tensor<Rank0, f32, D, T>;

impl<D: EdkmDevice> LayerBench<D> {
    /// A layer with random weights. `device` should be one whose cache is off.
    ///
    /// # Errors
    /// Sizes that do not make a layer; too little memory.
    pub fn new(settings: LayerSettings, device: &D) -> Result<Self, TrainError> {
        for (setting, value) in [("--seq", settings.sequence), ("--batch", settings.batch)] {
            if value == 0 {
                return Err(TrainError::Setting {
                    setting,
                    value: value.to_string(),
                    expected: "at least 1",
                });
            }
        }
        let usage = device.usage().map_err(device_error)?;
        let used_before = usage
            .and_then(|usage| usage.memory)
            .map_or(0, |memory| memory.used_bytes);
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
        let layer = |model: &DynamicLlama<D>| model.layers[0].clone();
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
            x_bsh: device.tensor_from_host(x.collect(), shape).map_err(device_error)?,
            used_before,
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
                let seconds = self.timed_pass(variant)?;
                if repeat > 0 {
                    times.push(seconds);
                }
            }
        }
        Ok(times.map(median))
    }

    /// The same of one variant alone.
    ///
    /// # Errors
    /// An op that fails.
    pub fn seconds_of(&self, variant: Variant, repeats: usize) -> Result<f64, TrainError> {
        self.timed_pass(variant)?;
        let times = (0..repeats.max(1)).map(|_| self.timed_pass(variant));
        Ok(median(times.collect::<Result<_, _>>()?))
    }

    /// The seconds of a pass, until the device has done it.
    fn timed_pass(&self, variant: Variant) -> Result<f64, TrainError> {
        let _span = tracing::trace_span!("pass", variant = variant.name()).entered();
        let device = self.x_bsh.device();
        device.try_synchronize().map_err(device_error)?;
        let start = Instant::now();
        self.pass(variant, |_| Ok(()))?;
        device.try_synchronize().map_err(device_error)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// The memory of one pass of a variant after one that is not counted. `resident_before` is what the process had before the layer was made.
    ///
    /// For the process's figures to be those of the variant it must be the only one that the process runs, and freed memory must go back to the
    /// system at once (with glibc: `MALLOC_MMAP_THRESHOLD_=65536` and `MALLOC_TRIM_THRESHOLD_=0` in the environment).
    ///
    /// # Errors
    /// An op that fails.
    pub fn memory(&self, variant: Variant, resident_before: Option<u64>) -> Result<LayerMemory, TrainError> {
        self.pass(variant, |_| Ok(()))?;
        let device = self.x_bsh.device();
        let mut watch = Watch::begin(device)?;
        reset_peak_resident();
        let start = resident_bytes();
        let (mut kept_bytes, mut store_bytes) = (None, 0);
        self.pass(variant, |stored| {
            LargePages::give_back();
            let grown = |start: u64| resident_bytes().map(|now| now.saturating_sub(start));
            kept_bytes = start.and_then(grown);
            store_bytes = stored;
            watch.between(device)
        })?;
        let gradients = self.parameter_bytes();
        let beyond = |peak: u64| Some(peak.saturating_sub(resident_before?).saturating_sub(2 * gradients));
        let peak_resident_bytes = peak_resident_bytes().and_then(beyond);
        let device = watch.end(device, self.used_before + 2 * gradients)?;
        // the memory that counts is the GPU's, where there is one: the process's is page-locked, or that of the driver
        let of_the_host = |bytes: Option<u64>| bytes.filter(|_| device.is_none());
        Ok(LayerMemory {
            peak_resident_bytes: of_the_host(peak_resident_bytes),
            kept_bytes: of_the_host(kept_bytes),
            store_bytes,
            device,
        })
    }

    /// Bytes of the weights, which are those of their gradients too.
    pub(super) fn parameter_bytes(&self) -> u64 {
        dfdx_edkm::count_parameters(&mut self.unclustered.clone()) as u64 * size_of::<f32>() as u64
    }

    /// One forward and backward pass. Between the two it tells how many bytes the store and the clusterings keep.
    fn pass(&self, variant: Variant, between: impl FnOnce(u64) -> Result<(), TrainError>) -> Result<(), TrainError> {
        let x = self.x_bsh.clone();
        if variant == Variant::Stock {
            let out = self.stock.try_forward(x.put_tape(OwnedTape::default()));
            let loss = self.loss(out.map_err(device_error)?).map_err(device_error)?;
            between(0)?;
            return backward_owned(loss);
        }
        let store = self.settings.store.build()?;
        let layer = match variant {
            Variant::Stock | Variant::Unclustered => &self.unclustered,
            Variant::Clustered | Variant::Checkpointed => &self.clustered,
        };
        let x = x.put_tape(self.tape(layer, store.clone()));
        let out = match variant {
            Variant::Checkpointed => try_checkpoint(layer, x),
            _ => layer.try_forward(x),
        };
        let loss = self.loss(out.map_err(device_error)?).map_err(device_error)?;
        between(store.report().held_bytes + clustering_bytes(layer))?;
        backward(loss).map_err(device_error)?;
        Ok(())
    }

    /// A tape for one pass of a layer.
    pub(super) fn tape(&self, layer: &FusedDecoderLayer<D>, store: impl Backend) -> StoreTape<f32, D> {
        let tape = StoreTape::new(store, gradients_of(&mut layer.clone()));
        match self.settings.device_memory {
            Some(bytes) => tape.with_device_budget(&DeviceBudget::new(bytes)),
            None => tape,
        }
    }

    /// The mean of the output times the input, number by number: a loss whose gradient differs from number to number, and which takes no memory and
    /// no kernel of dfdx's. Its value is not computed, 0 stands for it.
    pub(super) fn loss<T: Tape<f32, D>>(&self, out: Hidden<D, T>) -> Result<Loss<D, T>, D::Err> {
        let (out, mut tape) = out.split_tape();
        let (x, device) = (self.x_bsh.clone(), out.device().clone());
        let loss = device.try_zeros_like(&())?;
        let (out_ghost, loss_ghost) = (out.ghost(), loss.ghost());
        let factor = 1.0 / out.shape().num_elements() as f32;
        tape.add_backward_op(move |grads| {
            let grad_loss = grads.get_or_alloc_mut(&loss_ghost)?.clone();
            device.add_times(D::view(&x), factor, &grad_loss, grads.get_or_alloc_mut(&out_ghost)?)
        });
        Ok(loss.put_tape(tape))
    }
}

/// dfdx's backward pass.
pub(super) fn backward_owned<D: EdkmDevice>(loss: Loss<D, OwnedTape<f32, D>>) -> Result<(), TrainError> {
    loss.try_backward().map(drop).map_err(device_error)
}

pub(super) fn clustering_bytes<D: EdkmDevice>(layer: &FusedDecoderLayer<D>) -> u64 {
    let mut bytes = 0;
    let Ok(()) = visit_clustered(&mut layer.clone(), |weight| {
        bytes += weight.clustering.saved_bytes() as u64;
        Ok::<(), Infallible>(())
    });
    bytes
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
            store: StoreSpec::default(),
            device_memory: None,
        };
        let device = Cpu::default();
        let bench = LayerBench::new(settings.clone(), &device).unwrap();
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
                ..settings.clone()
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
