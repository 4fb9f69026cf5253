//! The text and the tokenizer of the embedded default model, made from nothing but a seed.

mod bpe;

pub use bpe::{special_tokens, train_tokenizer};
