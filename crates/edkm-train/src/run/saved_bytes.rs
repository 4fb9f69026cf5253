//! What a run keeps from forward to backward at the most, and what plain DKM would.

use std::convert::Infallible;

use dfdx_edkm::{visit_clustered, EdkmDevice};
use edkm_llama::model::DynamicLlama;
use serde::{Deserialize, Serialize};

use crate::trainer::Trainer;

/// Bytes kept from forward to backward in one step, at the most over all steps; those of the clusterings over the last steps before each checkpoint and the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBytes {
    /// By the clusterings. No other step has more, unless a tolerance ends repetitions early.
    pub clustering: u64,
    /// By the clusterings in DKM as published: an attention map of weights x clusters in each repetition, 4 bytes an entry.
    pub plain_dkm: u64,
    /// Of the tensors that ops saved, by the store.
    pub kept: u64,
    /// The same before any layer of the store acted.
    pub logical: u64,
    /// The same in the memory of the device, beside the store's.
    pub device: u64,
    /// The same on disk.
    pub disk: u64,
}

impl SavedBytes {
    /// Those of this process so far.
    pub(super) fn of<D: EdkmDevice>(trainer: &mut Trainer<D>) -> Self {
        let store = trainer.store().report();
        let device = trainer.device_budget().map_or(0, |budget| budget.peak_bytes());
        let clusterings = Clusterings::of(trainer.model_and_optimizer().0);
        Self {
            clustering: clusterings.here,
            plain_dkm: clusterings.plain_dkm,
            kept: store.peak_bytes,
            logical: store.logical_peak_bytes,
            device,
            disk: store.disk_peak_bytes,
        }
    }

    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            clustering: self.clustering.max(other.clustering),
            plain_dkm: self.plain_dkm.max(other.plain_dkm),
            kept: self.kept.max(other.kept),
            logical: self.logical.max(other.logical),
            device: self.device.max(other.device),
            disk: self.disk.max(other.disk),
        }
    }
}

#[derive(Default)]
struct Clusterings {
    here: u64,
    plain_dkm: u64,
}

impl Clusterings {
    fn of<D: EdkmDevice>(model: &mut DynamicLlama<D>) -> Self {
        let mut bytes = Self::default();
        let Ok(()) = visit_clustered(model, |weight| {
            let spec = weight.clustering.spec();
            let map = weight.shape.len() as u64 / spec.dim() as u64 * spec.clusters() as u64;
            bytes.plain_dkm += 4 * map * spec.iterations as u64;
            bytes.here += weight.clustering.saved_bytes() as u64;
            Ok::<(), Infallible>(())
        });
        bytes
    }
}
