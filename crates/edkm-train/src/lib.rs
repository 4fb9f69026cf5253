//! Training and evaluation: data, schedules, the training loop, run checkpoints and the report.
//!
//! | module | what |
//! |---|---|
//! | [`tokenizer`] | text to tokens and back |
//! | [`data`] | text and Alpaca files as windows of tokens, in an order that can be resumed |
//! | [`chat`] | a conversation in the Alpaca template |
//! | [`schedule`] | learning rate and temperature by step |
//! | [`metrics`] | `metrics.jsonl`, one object a step |
//! | [`memory`] | what the operating system says about this process |
//! | [`report`] | `report.html`, a run on one page |
//! | [`compare`] | ways to compress a model, side by side |
//! | [`mod@bench`] | what `edkm bench` measures of whole layers |
//! | [`tasks`] | PIQA, HellaSwag, Winogrande, ARC and MMLU, by the rules of the lm-evaluation-harness |
//! | [`synthetic`] | the generated text of the embedded default model |

pub mod bench;
pub mod chat;
pub mod compare;
pub mod compress;
pub mod data;
pub mod device_share;
mod error;
pub mod evaluate;
mod files;
pub mod init;
pub mod memory;
pub mod metrics;
mod optimizer_bytes;
mod random;
pub mod report;
pub mod run;
pub mod schedule;
pub mod synthetic;
pub mod tasks;
pub mod text_generation;
pub mod tokenizer;
pub mod trainer;

pub use error::TrainError;
pub use tokenizer::Tokenizer;
