//! What of a run may be changed when it goes on: what changes nothing of the steps that are done.

use std::num::NonZeroU64;

use edkm_store::Bytes;
use serde::{Deserialize, Serialize};

use super::finetune::NonFinitePolicy;
use super::FinetuneArgs;

/// Arguments beside `--resume`, which hold from then on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    on_non_finite: Option<NonFinitePolicy>,
    checkpoint_every: Option<NonZeroU64>,
    keep: Option<usize>,
    checkpoint_layers: bool,
    checkpoint_attention: bool,
    store: Option<String>,
    /// In bytes.
    device_memory: Option<u64>,
}

impl Changes {
    /// Those that these arguments ask for.
    pub fn of(args: &FinetuneArgs) -> Self {
        Self {
            on_non_finite: args.on_non_finite,
            checkpoint_every: args.checkpoint_every,
            keep: args.keep,
            checkpoint_layers: args.checkpoint_layers,
            checkpoint_attention: args.checkpoint_attention,
            store: args.store.clone(),
            device_memory: args.device_memory.map(|budget| budget.0),
        }
    }

    /// With `earlier` ones where these say nothing.
    pub fn or(self, earlier: Self) -> Self {
        let recomputed = match self.checkpoint_layers || self.checkpoint_attention {
            true => &self,
            false => &earlier,
        };
        Self {
            on_non_finite: self.on_non_finite.or(earlier.on_non_finite),
            checkpoint_every: self.checkpoint_every.or(earlier.checkpoint_every),
            keep: self.keep.or(earlier.keep),
            checkpoint_layers: recomputed.checkpoint_layers,
            checkpoint_attention: recomputed.checkpoint_attention,
            store: self.store.clone().or(earlier.store.clone()),
            device_memory: self.device_memory.or(earlier.device_memory),
        }
    }

    /// Makes them in the arguments of the run.
    pub fn make(&self, args: &mut FinetuneArgs) {
        let all = self.clone().or(Self::of(args));
        args.on_non_finite = all.on_non_finite;
        args.checkpoint_every = all.checkpoint_every;
        args.keep = all.keep;
        args.checkpoint_layers = all.checkpoint_layers;
        args.checkpoint_attention = all.checkpoint_attention;
        args.store = all.store;
        args.device_memory = all.device_memory.map(Bytes);
    }
}
