//! A whole fine-tuning run: a model in, a folder with the clustered model out.

mod bits_budget;
pub mod checkpoint;
mod clustering;
mod compress_folder;
pub mod estimate;
mod finetune;
mod first_palettes;
mod layers;
mod non_finite;
mod observer;
mod outcome;
mod plan;
mod rate_factors;
mod report;
mod sensitivity;
mod steps;

pub use bits_budget::{choose_bits, widths_in_words, BitsChoice};
pub use clustering::ClusterSettings;
pub(crate) use compress_folder::stream;
pub use compress_folder::{compress_folder, plan_compress, CalibrationSettings, CompressOutcome, CompressSettings};
pub(crate) use finetune::check_sequence;
pub use finetune::{finetune, free_folder, plan_finetune, DataSource, FinetuneSettings, Measure, Objective, OnLimits};
pub use first_palettes::FirstPalettes;
pub use layers::{LayerRule, LayerRules};
pub(crate) use non_finite::first_not_finite;
pub use non_finite::{NonFiniteCounts, OnNonFinite, MOST_IN_A_ROW, MOST_ROLLBACKS};
pub use observer::{Observer, Silent, Stage, StepReport};
pub use outcome::{Baseline, FinetuneOutcome, Sizes};
pub use plan::{plan, planned_sizes, PlannedLayer, PlannedPalette};
pub use rate_factors::{RateUnit, TYPICAL};
