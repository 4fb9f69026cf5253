//! A whole fine-tuning run: a model in, a folder with the clustered model out.

mod bits_budget;
pub mod checkpoint;
mod clustering;
mod compress_folder;
mod finetune;
mod layers;
mod observer;
mod outcome;
mod plan;
mod report;
mod sensitivity;

pub use bits_budget::{choose_bits, widths_in_words, BitsChoice};
pub use clustering::ClusterSettings;
pub use compress_folder::{compress_folder, plan_compress, CalibrationSettings, CompressOutcome, CompressSettings};
pub use finetune::{finetune, free_folder, plan_finetune, DataSource, FinetuneSettings, Measure, Objective};
pub use layers::{LayerRule, LayerRules};
pub use observer::{Observer, Silent, Stage, StepReport};
pub use outcome::{Baseline, FinetuneOutcome, Sizes};
pub use plan::{plan, planned_sizes, PlannedLayer, PlannedPalette};
