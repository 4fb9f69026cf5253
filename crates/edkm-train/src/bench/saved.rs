//! What one decoder layer keeps from forward to backward: stock dfdx ops on dfdx's tape, and ours over several stores, with parts that are run
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dfdx::prelude::*;
use dfdx_edkm::StoreTape;
use edkm_llama::model::Recompute;
use edkm_store::{Backend, Quote, Record, Report, Store, StoreError, StoreSpec, Ticket};
use serde::{Deserialize, Serialize};

use super::layer::{clustering_bytes, device_error, LayerBench};
use crate::memory::resident_bytes;
use crate::TrainError;

/// The stores of the rows, as [`StoreSpec`] reads them: the default one, and that with compression.
const STORES: [&str; 2] = ["marshal", "marshal,compress"];

/// One way to keep what backward needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedRow {
    /// `stock`, `unclustered` or `clustered`.
    pub ops: String,
    /// The store's layers; `OwnedTape` for dfdx's own.
    pub store: String,
    /// What is run again in backward: `nothing`, `attention` or `layer`.
    pub recompute: String,
    /// By how much the process has grown in forward, the input of the layer counted; `null` where the system does not tell.
    pub kept_bytes: Option<u64>,
    /// `kept_bytes` of the stock ops over that of this row.
    pub times_less: Option<f64>,
    /// What the store says that it keeps, with the clusterings' trajectories; `null` for stock ops, which have none.
    pub store_bytes: Option<u64>,
    /// What ops have saved through the store.
    pub tensors: Vec<SavedTensors>,
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

impl LayerBench {
    /// Forward passes of the layer each way, after one that is not counted. The figures of the process's memory need an allocator that gives
    /// freed memory back at once, as those of [`LayerBench::memory`] do.
    ///
    /// # Errors
    /// An op or a store that fails.
    pub fn saved(&self) -> Result<Vec<SavedRow>, TrainError> {
        self.stock_kept()?;
        let stock = self.stock_kept()?;
        let times_less = |kept: Option<u64>| Some(stock? as f64 / kept?.max(1) as f64);
        let mut rows = vec![SavedRow {
            ops: "stock".into(),
            store: "OwnedTape".into(),
            recompute: "nothing".into(),
            kept_bytes: stock,
            times_less: times_less(stock),
            store_bytes: None,
            tensors: Vec::new(),
        }];
        for (recompute, again) in [
            (Recompute::Nothing, "nothing"),
            (Recompute::Attention, "attention"),
            (Recompute::Layers, "layer"),
        ] {
            for store in STORES {
                for ops in [Ops::Unclustered, Ops::Clustered] {
                    self.kept(ops, store, recompute)?;
                    let kept = self.kept(ops, store, recompute)?;
                    rows.push(SavedRow {
                        ops: ops.name().into(),
                        store: store.into(),
                        recompute: again.into(),
                        kept_bytes: kept.resident,
                        times_less: times_less(kept.resident),
                        store_bytes: Some(kept.store),
                        tensors: kept.tensors,
                    });
                }
            }
        }
        Ok(rows)
    }

    /// A copy of the input that nobody else holds, as the layer before would hand it on.
    fn input(&self) -> Result<Input, TrainError> {
        let x = &self.x_bsh;
        x.device()
            .try_tensor_from_vec(x.as_vec(), *x.shape())
            .map_err(device_error)
    }

    fn stock_kept(&self) -> Result<Option<u64>, TrainError> {
        let start = resident_bytes();
        let x = self.input()?.put_tape(OwnedTape::default());
        let loss = self.stock.try_forward(x).and_then(|out| out.try_mean::<Rank0, _>());
        let loss = loss.map_err(device_error)?;
        let kept = grown(start);
        drop(loss);
        Ok(kept)
    }

    fn kept(&self, ops: Ops, store: &str, recompute: Recompute) -> Result<Kept, TrainError> {
        let start = resident_bytes();
        let layer = match ops {
            Ops::Unclustered => &self.unclustered,
            Ops::Clustered => &self.clustered,
        };
        let store = store.parse::<StoreSpec>()?.build()?;
        let listing = Listing::new(store.clone());
        let tape = StoreTape::new(listing.clone(), Gradients::leaky());
        let out = layer.try_forward_saving(self.input()?.put_tape(tape), recompute);
        let loss = out.and_then(|out| out.try_mean::<Rank0, _>()).map_err(device_error)?;
        let kept = grown(start);
        let store_bytes = store.report().held_bytes + clustering_bytes(layer);
        drop(loss);
        Ok(Kept {
            resident: kept,
            store: store_bytes,
            tensors: listing.tensors(),
        })
    }
}

/// `[batch, sequence, hidden]`
type Input = Tensor<(usize, usize, usize), f32, Cpu>;

/// Between forward and backward.
struct Kept {
    resident: Option<u64>,
    store: u64,
    tensors: Vec<SavedTensors>,
}

#[derive(Clone, Copy)]
enum Ops {
    Unclustered,
    Clustered,
}

impl Ops {
    fn name(self) -> &'static str {
        match self {
            Self::Unclustered => "unclustered",
            Self::Clustered => "clustered",
        }
    }
}

fn grown(start: Option<u64>) -> Option<u64> {
    resident_bytes().and_then(|now| Some(now.saturating_sub(start?)))
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
        };
        let rows = LayerBench::new(settings, &Cpu::default()).unwrap().saved().unwrap();
        assert_eq!(rows.len(), 1 + 3 * STORES.len() * 2);
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
