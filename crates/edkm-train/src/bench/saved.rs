//! What one decoder layer keeps from forward to backward: stock dfdx ops on dfdx's tape, and ours over several stores, with parts that are run
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dfdx::prelude::*;
use dfdx_edkm::{backward, gradients_of, EdkmDevice, StoreTape};
use edkm_cluster::bench::median;
use edkm_kernels::LargePages;
use edkm_llama::model::Recompute;
use edkm_store::{Backend, Precision, Quote, Record, Report, Store, StoreError, StoreSpec, Ticket};
use serde::{Deserialize, Serialize};

use super::device_figures::{DeviceFigures, Watch};
use super::layer::{backward_owned, clustering_bytes, device_error, Hidden, LayerBench, Loss};
use crate::memory::resident_bytes;
use crate::TrainError;

/// The stores of the rows, as [`StoreSpec`] reads them: the default one, and that with compression.
const STORES: [&str; 2] = ["marshal", "marshal,compress"];

/// Rows that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedPart {
    /// dfdx's own ops on its own tape.
    Stock,
    /// The ops of this project, over every store, with every recomputation.
    Fused,
}

/// One way to keep what backward needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedRow {
    /// `stock`, `unclustered` or `clustered`.
    pub ops: String,
    /// The store's layers; `OwnedTape` for dfdx's own.
    pub store: String,
    /// What is run again in backward: `nothing`, `attention` or `layer`.
    pub recompute: String,
    /// By how much the process has grown in forward, the input of the layer counted; on a GPU, its memory in use and what the store holds on the
    /// host. `null` where the system does not tell.
    pub kept_bytes: Option<u64>,
    /// `kept_bytes` of the stock ops over that of this row.
    pub times_less: Option<f64>,
    /// What the store says that it keeps, with the clusterings' trajectories; `null` for stock ops, which have none.
    pub store_bytes: Option<u64>,
    /// Seconds of forward and backward on a GPU, a median; `null` on the CPU, where backward is not run.
    pub seconds: Option<f64>,
    /// The GPU's memory and copies, if there is one, in forward and backward.
    #[serde(flatten)]
    pub device: Option<DeviceFigures>,
    /// Why the row was not measured.
    pub not_measured: Option<String>,
    /// What ops have saved through the store.
    pub tensors: Vec<SavedTensors>,
}

impl SavedRow {
    /// The row of stock ops that could not be measured.
    pub fn stock_not_measured(reason: String) -> Self {
        Self {
            not_measured: Some(reason),
            ..Self::of(Ops::Stock, "OwnedTape", Recompute::Nothing, Kept::default())
        }
    }

    fn of(ops: Ops, store: &str, recompute: Recompute, kept: Kept) -> Self {
        Self {
            ops: ops.name().into(),
            store: store.into(),
            recompute: match recompute {
                Recompute::Nothing => "nothing",
                Recompute::Attention => "attention",
                Recompute::Layers => "layer",
            }
            .into(),
            kept_bytes: kept.bytes,
            times_less: None,
            store_bytes: kept.store,
            seconds: kept.seconds,
            device: kept.device,
            not_measured: None,
            tensors: kept.tensors,
        }
    }
}

/// Sets `times_less` of every row, the first of which is that of stock ops.
pub fn compare_with_stock(rows: &mut [SavedRow]) {
    let stock = rows.first().and_then(|row| row.kept_bytes);
    for row in rows {
        row.times_less = stock
            .zip(row.kept_bytes.filter(|&kept| kept > 0))
            .map(|(stock, kept)| stock as f64 / kept as f64);
    }
}

/// The tensors that ops have saved under one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedTensors {
    /// The op and what it calls the tensor.
    pub label: String,
    /// Saves under that name.
    pub saves: u64,
    /// Bytes of the tensors.
    pub saved_bytes: u64,
    /// Bytes that they added to what the store keeps: nothing for a content that was there already.
    pub kept_bytes: u64,
}

impl<D: EdkmDevice> LayerBench<D> {
    /// Forward passes of the layer each way, after one that is not counted; on a GPU with their backward passes, `repeats` more of which are timed. The figures of the process's memory
    /// need an allocator that gives freed memory back, at once or when it is told ([`LargePages::give_back`]), as those of [`LayerBench::memory`] do. What is saved goes to the stores of the rows,
    /// whatever the settings say.
    ///
    /// # Errors
    /// An op or a store that fails.
    pub fn saved(&self, part: SavedPart, repeats: usize) -> Result<Vec<SavedRow>, TrainError> {
        if part == SavedPart::Stock {
            let kept = self.stock_kept(repeats)?;
            return Ok(vec![SavedRow::of(Ops::Stock, "OwnedTape", Recompute::Nothing, kept)]);
        }
        let mut rows = Vec::new();
        for recompute in [Recompute::Nothing, Recompute::Attention, Recompute::Layers] {
            for store in STORES {
                for ops in [Ops::Unclustered, Ops::Clustered] {
                    let kept = self.fused_kept(ops, store, recompute, repeats)?;
                    rows.push(SavedRow::of(ops, store, recompute, kept));
                }
            }
        }
        Ok(rows)
    }

    /// A copy of the input that nobody else holds, as the layer before would hand it on.
    fn input(&self) -> Result<Hidden<D>, TrainError> {
        let x = &self.x_bsh;
        x.device()
            .tensor_from_host(x.as_vec(), *x.shape())
            .map_err(device_error)
    }

    fn stock_kept(&self, repeats: usize) -> Result<Kept, TrainError> {
        let forward = |x: Hidden<D>| {
            let out = self.stock.try_forward(x.put_tape(OwnedTape::default()));
            let loss = out.and_then(|out| self.loss(out)).map_err(device_error)?;
            Ok(Passed { loss, saved: None })
        };
        self.kept(repeats, forward, backward_owned)
    }

    fn fused_kept(&self, ops: Ops, store: &str, recompute: Recompute, repeats: usize) -> Result<Kept, TrainError> {
        let layer = match ops {
            Ops::Stock | Ops::Unclustered => &self.unclustered,
            Ops::Clustered => &self.clustered,
        };
        let spec = store.parse::<StoreSpec>()?;
        let forward = |x: Hidden<D>| {
            let listing = Listing::new(spec.build()?);
            let tape = StoreTape::new(listing.clone(), gradients_of(&mut layer.clone()));
            let out = layer.try_forward_saving(x.put_tape(tape), None, recompute);
            let loss = out.and_then(|out| self.loss(out)).map_err(device_error)?;
            let saved = Some((listing.report().held_bytes + clustering_bytes(layer), listing));
            Ok(Passed { loss, saved })
        };
        self.kept(repeats, forward, |loss| backward(loss).map(drop).map_err(device_error))
    }

    /// What is kept between a forward pass, after one that is not counted, and its backward pass, which is run on a GPU alone.
    fn kept<T>(
        &self,
        repeats: usize,
        forward: impl Fn(Hidden<D>) -> Result<Passed<D, T>, TrainError>,
        backward: impl Fn(Loss<D, T>) -> Result<(), TrainError>,
    ) -> Result<Kept, TrainError> {
        let device = self.x_bsh.device();
        drop(forward(self.input()?)?);
        let mut watch = Watch::begin(device)?;
        let start = held_bytes();
        let x = self.input()?;
        watch.forget_copies(device)?;
        let Passed { loss, saved } = forward(x)?;
        let grown = held_bytes().and_then(|now| Some(now.saturating_sub(start?)));
        watch.between(device)?;
        let (store, tensors) = match saved {
            Some((bytes, listing)) => (Some(bytes), listing.tensors()),
            None => (None, Vec::new()),
        };
        let mut kept = Kept {
            bytes: grown,
            store,
            tensors,
            ..Kept::default()
        };
        if !watch.sees_a_device() {
            return Ok(kept);
        }
        backward(loss)?;
        kept.device = watch.end(device, self.used_before + 2 * self.parameter_bytes())?;
        let on_device = kept.device.and_then(|device| device.device_kept_bytes);
        kept.bytes = on_device.map(|bytes| bytes + store.unwrap_or(0));

        let timed = || -> Result<f64, TrainError> {
            let x = self.input()?;
            device.try_synchronize().map_err(device_error)?;
            let start = Instant::now();
            backward(forward(x)?.loss)?;
            device.try_synchronize().map_err(device_error)?;
            Ok(start.elapsed().as_secs_f64())
        };
        let times = (0..repeats.max(1)).map(|_| timed());
        kept.seconds = Some(median(times.collect::<Result<_, _>>()?));
        Ok(kept)
    }
}

/// Resident memory without what the allocator keeps for the next that asks.
fn held_bytes() -> Option<u64> {
    LargePages::give_back();
    resident_bytes()
}

/// Between forward and backward.
struct Passed<D: EdkmDevice, T> {
    loss: Loss<D, T>,
    /// What the store keeps, and what was saved.
    saved: Option<(u64, Listing)>,
}

/// What a pass keeps.
#[derive(Default)]
struct Kept {
    bytes: Option<u64>,
    store: Option<u64>,
    seconds: Option<f64>,
    device: Option<DeviceFigures>,
    tensors: Vec<SavedTensors>,
}

#[derive(Clone, Copy)]
enum Ops {
    Stock,
    Unclustered,
    Clustered,
}

impl Ops {
    fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Unclustered => "unclustered",
            Self::Clustered => "clustered",
        }
    }
}

/// A store that notes what is saved in it.
#[derive(Clone)]
struct Listing {
    store: Store,
    saved: Arc<Mutex<BTreeMap<&'static str, SavedTensors>>>,
}

impl Listing {
    fn new(store: Store) -> Self {
        Self {
            store,
            saved: Arc::default(),
        }
    }

    fn tensors(&self) -> Vec<SavedTensors> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.values().cloned().collect()
    }
}

impl Backend for Listing {
    fn save(&self, record: Record) -> Result<Ticket, StoreError> {
        let label = record.label;
        let ticket = self.store.save(record)?;
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let tensors = saved.entry(label).or_insert_with(|| SavedTensors {
            label: label.to_owned(),
            saves: 0,
            saved_bytes: 0,
            kept_bytes: 0,
        });
        tensors.saves += 1;
        tensors.saved_bytes += ticket.logical_bytes() as u64;
        tensors.kept_bytes += ticket.kept_bytes() as u64;
        Ok(ticket)
    }

    fn quote(&self, record: &Record) -> Quote {
        self.store.quote(record)
    }

    fn report(&self) -> Report {
        self.store.report()
    }

    fn unsaid_precision(&self) -> Precision {
        self.store.unsaid_precision()
    }
}

#[cfg(test)]
mod tests {
    use edkm_cluster::Bits;

    use super::*;
    use crate::bench::layer::LayerSettings;

    #[test]
    fn what_follows_from_other_saved_tensors_is_not_kept() {
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
        let bench = LayerBench::new(settings, &Cpu::default()).unwrap();
        let mut rows = bench.saved(SavedPart::Stock, 1).unwrap();
        rows.extend(bench.saved(SavedPart::Fused, 1).unwrap());
        compare_with_stock(&mut rows);
        assert_eq!(rows.len(), 1 + 3 * STORES.len() * 2);
        assert!(rows
            .iter()
            .all(|row| row.device.is_none() && row.not_measured.is_none()));
        let store_bytes = |recompute: &str| {
            let row =
                |row: &&SavedRow| row.ops == "unclustered" && row.store == "marshal" && row.recompute == recompute;
            rows.iter().find(row).and_then(|row| row.store_bytes).unwrap()
        };
        let tokens = 16 * size_of::<f32>() as u64;
        let (hidden, kv, intermediate, heads) = (32 * tokens, 16 * tokens, 48 * tokens, 4 * tokens);
        // x, q, k, v, the sum behind attention, gate, up, and the log-sum-exp of a query and head: no normalised x, no output of so short
        // an attention, no product of the gate
        assert_eq!(store_bytes("nothing"), 3 * hidden + 2 * kv + 2 * intermediate + heads);
        // x, the sum, gate and up
        assert_eq!(store_bytes("attention"), 2 * hidden + 2 * intermediate);
        assert_eq!(store_bytes("layer"), hidden);

        let first = &rows[1];
        let kept: u64 = first.tensors.iter().map(|tensors| tensors.kept_bytes).sum();
        assert_eq!(Some(kept), first.store_bytes);
        let norms = first
            .tensors
            .iter()
            .find(|tensors| tensors.label == "rms_norm.x")
            .unwrap();
        assert_eq!((norms.saves, norms.saved_bytes), (2, 2 * hidden));
    }
}
