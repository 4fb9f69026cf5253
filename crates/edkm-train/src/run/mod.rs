//! A whole fine-tuning run: a model in, a folder with the clustered model out.

pub mod checkpoint;
mod clustering;
mod compress_folder;
mod finetune;
mod observer;
mod outcome;
mod report;

pub use clustering::ClusterSettings;
pub use compress_folder::{compress_folder, CalibrationSettings, CompressOutcome, CompressSettings};
pub use finetune::{finetune, free_folder, DataSource, FinetuneSettings, Measure, Objective};
pub use observer::{Observer, Silent, Stage, StepReport};
pub use outcome::{Baseline, FinetuneOutcome, Sizes};
