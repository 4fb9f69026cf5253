//! Training, compression and evaluation of LLaMA models: what the program `edkm` does, for programs of your own.
//!
//! Begin with [`run::finetune`]: a model's folder in, a folder with the clustered model out. [`run::FinetuneSettings`] has an example.
//! [`run::compress_folder`] does it without training, and [`trainer::Trainer`] is the loop alone. What goes on is told to a [`run::Observer`].
//!
//! | module | what |
//! |---|---|
//! | [`run`] | whole runs from folder to folder: settings, checkpoints, estimates of memory and disk |
//! | [`trainer`] | forward pass, backward pass, optimizer step |
//! | [`mod@compress`] | palettes without training: rounding, k-means, GPTQ |
//! | [`mod@evaluate`] | perplexity |
//! | [`tasks`] | PIQA, HellaSwag, Winogrande, ARC and MMLU, by the rules of the lm-evaluation-harness |
//! | [`compare`] | ways to compress a model, side by side |
//! | [`tokenizer`] | text to tokens and back |
//! | [`template`] | instructions and conversations as text |
//! | [`lesson`] | what is learned from another model's predictions and hidden states |
//! | [`data`] | texts, records and conversations as windows of tokens, in an order that can be resumed |
//! | [`schedule`] | learning rate and temperature by step |
//! | [`init`] | the weights that a model begins with |
//! | [`text_generation`] | text that goes on, as it is written |
//! | [`chat`] | a conversation with a model |
//! | [`suggested_sampling`] | how a model's text is best sampled, as its folder says |
//! | [`report`] | `report.html`, a run on one page |
//! | [`metrics`] | `metrics.jsonl`, one object a step |
//! | [`memory`] | what the operating system says about this process |
//! | [`device_share`] | how much of what is saved for backward stays in the memory of the device |
//! | [`mod@bench`] | what `edkm bench` measures of whole layers |
//! | [`synthetic`] | the generated text of the embedded default model |

pub mod bench;
pub mod chat;
pub mod compare;
pub mod compress;
mod config_file;
pub mod data;
pub mod device_share;
mod error;
pub mod evaluate;
mod files;
mod hash;
pub mod init;
pub mod lesson;
pub mod memory;
pub mod metrics;
mod optimizer_bytes;
mod random;
pub mod report;
pub mod run;
pub mod schedule;
pub mod suggested_sampling;
pub mod synthetic;
pub mod tasks;
pub mod template;
pub mod text_generation;
pub mod tokenizer;
pub mod trainer;

pub use error::TrainError;
pub use tokenizer::Tokenizer;
