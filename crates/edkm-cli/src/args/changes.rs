//! What of a run may be changed when it goes on: what changes nothing of the steps that are done, and where lies what it reads, which is compared.

use std::num::NonZeroU64;
use std::path::PathBuf;

use edkm_store::Bytes;
use serde::{Deserialize, Serialize};

use super::finetune::NonFinitePolicy;
use super::FinetuneArgs;
use crate::commands::Failure;
use crate::hub;
use crate::started::unicode;

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
    /// A path that cannot be made absolute, or that is not Unicode and so cannot be kept with the run.
    pub fn of(args: &FinetuneArgs) -> Result<Self, Failure> {
        let place = |path: &PathBuf| -> Result<PathBuf, Failure> {
            let path = match hub::is_name(path) {
                true => path.clone(),
                false => std::path::absolute(path)?,
            };
            Ok(unicode(path.into_os_string())?.into())
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

    /// Refuses to say where something lies that the run with these arguments does not read.
    ///
    /// # Errors
    /// The option, and what the run does in its place.
    pub fn check(&self, args: &FinetuneArgs) -> Result<(), Failure> {
        let told_of_nothing = [
            (
                self.model_dir.is_some() && args.model_dir.is_none(),
                "MODEL_DIR",
                "it trains the embedded model",
            ),
            (
                !self.data.is_empty() && args.data.is_empty(),
                "--data",
                "it learns from the embedded text",
            ),
            (
                !self.valid.is_empty() && args.valid.is_empty(),
                "--valid",
                "it measures on a part of its own text",
            ),
            (
                self.teacher.is_some() && args.teacher.is_none(),
                "--teacher",
                "it learns from no other model",
            ),
        ];
        match told_of_nothing.into_iter().find(|(told, ..)| *told) {
            None => Ok(()),
            Some((_, option, instead)) => Err(format!(
                "{option} beside --resume says where the same lies by now, and this run was started without: {instead}, and goes on as it began"
            )
            .into()),
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

/// Refuses a run that reads something which does not lie where its arguments say.
///
/// # Errors
/// The path, and the option that says where it lies by now.
pub fn check_there(args: &FinetuneArgs) -> Result<(), Failure> {
    let paths = [
        ("MODEL_DIR", args.model_dir.as_slice()),
        ("--data", &args.data),
        ("--valid", &args.valid),
        ("--teacher", args.teacher.as_slice()),
    ];
    for (option, paths) in paths {
        let gone = |path: &&PathBuf| !hub::is_name(path) && path.try_exists().is_ok_and(|there| !there);
        if let Some(path) = paths.iter().find(gone) {
            let path = std::path::absolute(path)?;
            return Err(format!(
                "{}, which the run reads, is not there: put it back, or say with {option} where it lies by now",
                path.display()
            )
            .into());
        }
    }
    Ok(())
}

fn some_or(paths: Vec<PathBuf>, otherwise: Vec<PathBuf>) -> Vec<PathBuf> {
    if paths.is_empty() {
        otherwise
    } else {
        paths
    }
}
