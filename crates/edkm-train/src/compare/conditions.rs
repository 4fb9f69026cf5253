//! What all runs of a comparison have in common.

use std::io::ErrorKind;
use std::path::Path;

use dfdx_edkm::ChannelScale;
use edkm_cluster::KeepZero;
use edkm_llama::checkpoint::Overwrite;
use edkm_llama::LlamaError;
use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::{runs, CompareSettings};
use crate::data::Apart;
use crate::files::{read_capped, write_whole};
use crate::TrainError;

const FILE: &str = "conditions.json";

/// Larger than any that was written: a file of rules has 1 MiB at most.
const LIMIT: u64 = 1 << 23;

/// Runs are comparable if these are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    program: String,
    /// Fingerprints of the model and of both texts.
    model: String,
    data: String,
    validation: String,
    /// Tokens of the validation text that are used.
    evaluation_tokens: usize,
    /// What of both texts does not see what is before it.
    apart: String,
    /// Steps of training.
    pub steps: u64,
    learning_rate: Option<f64>,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Windows that methods look at which do not train.
    pub windows: usize,
    group: Option<usize>,
    palette_dtype: Option<String>,
    per_channel_scale: bool,
    embedding_bits: Option<u8>,
    vector: usize,
    keep_zero: bool,
    layers: Option<String>,
}

impl Conditions {
    pub(super) fn new(settings: &CompareSettings, [model, data, validation]: [u64; 3]) -> Self {
        let (print, clustering) = (|print: u64| format!("{print:016x}"), &settings.clustering);
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            model: print(model),
            data: print(data),
            validation: print(validation),
            evaluation_tokens: settings.evaluation_tokens,
            apart: Apart::default().name().to_owned(),
            steps: settings.steps,
            learning_rate: settings.learning_rate,
            sequence: settings.sequence,
            batch: settings.batch,
            windows: settings.windows,
            group: clustering.group.map(Into::into),
            palette_dtype: settings.palette_dtype.map(|dtype| dtype.to_string()),
            per_channel_scale: clustering.channel_scale != ChannelScale::None,
            embedding_bits: clustering.embedding_bits.map(|bits| bits.get()),
            vector: clustering.vector.get(),
            keep_zero: clustering.keep_zero == KeepZero::Exact,
            layers: (!clustering.rules.0.is_empty()).then(|| clustering.rules.to_toml()),
        }
    }

    /// Makes `out` ready for runs under these conditions: begins it, goes on with it, or, if that is allowed, begins it anew.
    ///
    /// # Errors
    /// Runs under other conditions, a folder that holds something else or that another process works on, a system that refuses.
    pub(super) fn settle(&self, out: &Path, overwrite: Overwrite) -> Result<Lock, TrainError> {
        let path = out.join(FILE);
        let other = |difference: String| TrainError::OtherComparison {
            out: out.to_path_buf(),
            difference,
        };
        let lock;
        if path.exists() {
            lock = Lock::of(out)?;
            let bytes = read_capped(&path, LIMIT)?;
            let found: Result<Self, _> = serde_json::from_slice(&bytes);
            match (found, overwrite) {
                (Ok(found), _) if found == *self => return Ok(lock),
                (_, Overwrite::Replace) => runs::clear(out)?,
                (Ok(found), Overwrite::Refuse) => return Err(other(self.difference(&found))),
                (Err(why), Overwrite::Refuse) => return Err(other(why.to_string())),
            }
        } else {
            let mut entries = match out.read_dir() {
                Err(why) if why.kind() == ErrorKind::NotFound => None,
                // not by the kind of the error, of which Windows has several
                Err(_) if out.is_file() => {
                    return Err(LlamaError::OutputNoFolder {
                        path: out.to_path_buf(),
                        found: "a file",
                    }
                    .into())
                }
                Err(why) => return Err(TrainError::io("read", out)(why)),
                Ok(entries) => Some(entries),
            };
            if entries.as_mut().is_some_and(|entries| entries.next().is_some()) {
                return Err(other(format!("there is no {FILE}")));
            }
            std::fs::create_dir_all(out).map_err(TrainError::io("make", out))?;
            lock = Lock::of(out)?;
        }
        let text = serde_json::to_vec_pretty(self).map_err(|why| TrainError::io("write", &path)(why.into()))?;
        write_whole(&path, &text)?;
        Ok(lock)
    }

    /// The first thing that is not the same.
    fn difference(&self, found: &Self) -> String {
        let values = [self, found].map(|conditions| serde_json::to_value(conditions).unwrap_or_default());
        let [Some(ours), Some(theirs)] = [&values[0], &values[1]].map(|value| value.as_object()) else {
            return String::new();
        };
        let changed = ours.iter().find(|(key, value)| theirs.get(*key) != Some(value));
        changed.map_or(String::new(), |(key, value)| {
            let theirs = theirs.get(key).unwrap_or(&serde_json::Value::Null);
            match key.as_str() {
                "model" => "the model is another one, or was changed".to_owned(),
                "data" => "the training text (--data) is another one, or was changed".to_owned(),
                "validation" => "the validation text (--valid) is another one, or was changed".to_owned(),
                _ => format!("{key} is {theirs} there and {value} now"),
            }
        })
    }
}
