//! What of a run may be changed when it goes on: what changes nothing of the steps that are done, and where lies what it reads, which is compared.

use std::num::NonZeroU64;
use std::path::PathBuf;

use edkm_store::Bytes;
use serde::{Deserialize, Serialize};

use super::finetune::NonFinitePolicy;
use super::FinetuneArgs;
use crate::hub;

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
    /// Where what the run reads lies by now: absolute, or names of the Hub.
    model_dir: Option<PathBuf>,
    teacher: Option<PathBuf>,
    data: Vec<PathBuf>,
    valid: Vec<PathBuf>,
}

impl Changes {
    /// Those that these arguments ask for, with paths from this folder on.
    ///
    /// # Errors
    /// A path that cannot be made absolute.
    pub fn of(args: &FinetuneArgs) -> std::io::Result<Self> {
        let place = |path: &PathBuf| match hub::is_name(path) {
            true => Ok(path.clone()),
            false => std::path::absolute(path),
        };
        Ok(Self {
            model_dir: args.model_dir.as_ref().map(place).transpose()?,
            teacher: args.teacher.as_ref().map(place).transpose()?,
            data: args.data.iter().map(place).collect::<Result<_, _>>()?,
            valid: args.valid.iter().map(place).collect::<Result<_, _>>()?,
            on_non_finite: args.on_non_finite,
            checkpoint_every: args.checkpoint_every,
            keep: args.keep,
            checkpoint_layers: args.checkpoint_layers,
            checkpoint_attention: args.checkpoint_attention,
            store: args.store.clone(),
            device_memory: args.device_memory.map(|budget| budget.0),
        })
    }

    /// With `earlier` ones where these say nothing.
    pub fn or(self, earlier: Self) -> Self {
        let recomputed = match self.checkpoint_layers || self.checkpoint_attention {
            true => (self.checkpoint_layers, self.checkpoint_attention),
            false => (earlier.checkpoint_layers, earlier.checkpoint_attention),
        };
        Self {
            on_non_finite: self.on_non_finite.or(earlier.on_non_finite),
            checkpoint_every: self.checkpoint_every.or(earlier.checkpoint_every),
            keep: self.keep.or(earlier.keep),
            checkpoint_layers: recomputed.0,
            checkpoint_attention: recomputed.1,
            store: self.store.or(earlier.store),
            device_memory: self.device_memory.or(earlier.device_memory),
            model_dir: self.model_dir.or(earlier.model_dir),
            teacher: self.teacher.or(earlier.teacher),
            data: some_or(self.data, earlier.data),
            valid: some_or(self.valid, earlier.valid),
        }
    }

    /// Makes them in the arguments of the run.
    pub fn make(&self, args: &mut FinetuneArgs) {
        let Self {
            on_non_finite,
            checkpoint_every,
            keep,
            checkpoint_layers,
            checkpoint_attention,
            store,
            device_memory,
            model_dir,
            teacher,
            data,
            valid,
        } = self.clone();
        args.on_non_finite = on_non_finite.or(args.on_non_finite);
        args.checkpoint_every = checkpoint_every.or(args.checkpoint_every);
        args.keep = keep.or(args.keep);
        if checkpoint_layers || checkpoint_attention {
            (args.checkpoint_layers, args.checkpoint_attention) = (checkpoint_layers, checkpoint_attention);
        }
        args.store = store.or(args.store.take());
        args.device_memory = device_memory.map(Bytes).or(args.device_memory);
        args.model_dir = model_dir.or(args.model_dir.take());
        args.teacher = teacher.or(args.teacher.take());
        args.data = some_or(data, std::mem::take(&mut args.data));
        args.valid = some_or(valid, std::mem::take(&mut args.valid));
    }
}

fn some_or(paths: Vec<PathBuf>, otherwise: Vec<PathBuf>) -> Vec<PathBuf> {
    if paths.is_empty() {
        otherwise
    } else {
        paths
    }
}
