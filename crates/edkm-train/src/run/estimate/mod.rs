//! What a run will take, said before it begins: memory at its peak, and disk.
//!
//! The figures are formulas over the model's sizes and the settings; no weight is read. With P parameters a run holds 4 P bytes of weights,
//! 2 P to 4 P for a teacher, 8 P (or 2 P) of the optimizer's moments, up to 4 P of gradients, what the ops save for backward, and the buffers of the op
//! that runs. Each part of the run has a sum of its own, and the largest is the peak.

mod disk;
mod limits;
mod memory;
mod sizes;

use std::path::{Path, PathBuf};

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::{Checkpoint, Dtype};
use edkm_llama::config::LlamaConfig;
use serde::Serialize;

use self::memory::Place;
use self::sizes::ModelSizes;
use super::check::{check, check_clustering_of};
use super::checkpoint::Start;
use super::other_teacher::check_teacher;
use super::{check_sequence, DataSource, FinetuneSettings};
use crate::data::{data_files, Sample};
use crate::{Tokenizer, TrainError};

pub use limits::Limits;

/// A share of what is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// What takes it.
    pub what: &'static str,
    /// How much.
    pub bytes: u64,
}

/// The memory of a part of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// The part.
    pub stage: &'static str,
    /// Whether it comes to it in every such run, or only in one that is interrupted.
    pub when: When,
    /// Its sum.
    pub bytes: u64,
    /// What it holds.
    pub shares: Vec<Share>,
}

/// When something is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// In every run.
    Always,
    /// When it is interrupted, for the checkpoint that it leaves.
    Interrupted,
}

/// What a run will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// The most memory that it takes where its tensors lie, in bytes: of the process, or of the device.
    pub memory_bytes: u64,
    /// The parts of the run, in their order.
    pub memory: Vec<StageMemory>,
    /// What the process takes of the host's memory, if that is another.
    pub host_memory: Option<Vec<Share>>,
    /// The most bytes of files that the run will have at once.
    pub disk_bytes: u64,
    /// What they are.
    pub disk: Vec<Share>,
    /// Bytes of the checkpoint that a run without `--checkpoint-every` leaves when it is interrupted.
    pub disk_bytes_if_interrupted: u64,
    /// The largest data file, and its bytes.
    pub largest_data: Option<(PathBuf, u64)>,
    /// What there is.
    pub limits: Limits,
    /// Where the run begins: what can be lowered depends on it.
    #[serde(skip)]
    pub start: Start,
}

impl Estimate {
    /// The part of the run that takes the most memory.
    pub fn peak(&self) -> Option<&StageMemory> {
        let always = self.memory.iter().filter(|stage| stage.when == When::Always);
        always.max_by_key(|stage| stage.bytes)
    }

    /// Bytes of the host's memory, if tensors lie in a device's.
    pub fn host_bytes(&self) -> Option<u64> {
        self.host_memory.as_deref().map(sum)
    }
}

impl StageMemory {
    fn new(stage: &'static str, when: When, mut shares: Vec<Share>) -> Self {
        shares.retain(|share| share.bytes > 0);
        Self {
            stage,
            when,
            bytes: sum(&shares),
            shares,
        }
    }
}

fn share(what: &'static str, bytes: u64) -> Share {
    Share { what, bytes }
}

fn sum(shares: &[Share]) -> u64 {
    shares.iter().fold(0, |sum, share| share.bytes.saturating_add(sum))
}

/// What the run of `settings` will take on a device. Reads the model's headers, its tokenizer, and the beginning of each data file.
///
/// # Errors
/// Settings outside of their ranges, input that cannot be used.
pub fn estimate<D: EdkmDevice>(settings: &FinetuneSettings, device: &D) -> Result<Estimate, TrainError> {
    check(settings)?;
    let device_bytes = device.free_bytes().map_err(|error| TrainError::Device {
        reason: error.to_string(),
    })?;
    let limits = Limits::now(&settings.out, device_bytes);
    let config = LlamaConfig::read(&settings.model_dir)?;
    check_sequence(settings.sequence, settings.evaluation_tokens, &config)?;
    check_teacher(settings, &config)?;
    if let Some(clustering) = &settings.clustering {
        check_clustering_of(&config, clustering)?;
    }
    let checkpoint = Checkpoint::open(&settings.model_dir)?;
    let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
    let text = TextSizes::of(settings, &tokenizer)?;
    let mut sizes = model_sizes(settings, &config, &checkpoint);
    if let Some(dir) = &settings.teacher_dir {
        let teacher = model_sizes(settings, &LlamaConfig::read(dir)?, &Checkpoint::open(dir)?);
        sizes = sizes.learning_from(teacher);
    }
    let held = limits.held_bytes;
    let place = device_bytes.map_or(Place::Host { held }, |free| Place::Device { free });
    let memory = memory::stages(settings, &sizes, &text, place);
    let disk = disk::shares(settings, &config, &checkpoint)?;
    let always = memory.iter().filter(|stage| stage.when == When::Always);
    Ok(Estimate {
        memory_bytes: always.map(|stage| stage.bytes).max().unwrap_or(0),
        memory,
        host_memory: device_bytes.map(|free| memory::beside_device(settings, &sizes, &text, held, free)),
        disk_bytes: sum(&disk),
        disk,
        disk_bytes_if_interrupted: match (settings.checkpoints.every, settings.checkpoints.start) {
            (Some(_), _) | (_, Start::Finish) => 0,
            (None, _) => disk::checkpoint(&sizes),
        },
        largest_data: text.largest,
        limits,
        start: settings.checkpoints.start,
    })
}

fn model_sizes(settings: &FinetuneSettings, config: &LlamaConfig, checkpoint: &Checkpoint) -> ModelSizes {
    let is_half = |name: &str| {
        let dtype = checkpoint.info(name).map(|info| info.dtype);
        matches!(dtype, Some(Dtype::F16 | Dtype::BF16))
    };
    let clustering = settings.clustering.as_ref();
    ModelSizes::new(config, clustering, settings.moments, settings.update, is_half)
}

/// The sizes of a run's text, as the beginnings of its files let expect them.
#[derive(Debug, Default)]
struct TextSizes {
    /// Bytes of all data files.
    bytes: u64,
    /// Tokens that they make.
    tokens: u64,
    /// Records and whole texts, which change places from epoch to epoch.
    parts: u64,
    /// Bytes of memory that the tokens and what is known of them take.
    stream: u64,
    /// Bytes of the tokenizer's file.
    tokenizer_bytes: u64,
    /// The largest data file.
    largest: Option<(PathBuf, u64)>,
}

impl TextSizes {
    fn of(settings: &FinetuneSettings, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let mut sizes = Self {
            tokenizer_bytes: length(tokenizer.path())?,
            ..Self::default()
        };
        for source in [&settings.data, &settings.validation] {
            match source {
                DataSource::Files(paths) => {
                    for path in data_files(paths)?.iter() {
                        let bytes = length(path)?;
                        sizes.add(bytes, &Sample::of_file(path, tokenizer)?);
                        if sizes.largest.as_ref().is_none_or(|&(_, most)| bytes > most) {
                            sizes.largest = Some((path.clone(), bytes));
                        }
                    }
                }
                DataSource::Text(text) => sizes.add(text.len() as u64, &Sample::of_text(text, tokenizer)?),
                DataSource::HeldOut => {}
            }
        }
        Ok(sizes)
    }

    fn add(&mut self, bytes: u64, sample: &Sample) {
        let share = bytes as f64 / sample.bytes.max(1) as f64;
        let whole = |of_sample: u64| (share * of_sample as f64) as u64;
        let Sample { stream, .. } = sample;
        for (sum, of_sample) in [
            (&mut self.tokens, stream.len() as u64),
            (&mut self.parts, stream.parts().count() as u64),
            (&mut self.stream, stream.bytes()),
        ] {
            *sum = sum.saturating_add(whole(of_sample));
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

fn length(path: &Path) -> Result<u64, TrainError> {
    Ok(std::fs::metadata(path).map_err(TrainError::io("read", path))?.len())
}
