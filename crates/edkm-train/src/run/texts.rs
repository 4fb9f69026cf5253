//! The texts of a run as tokens.

use std::path::{Path, PathBuf};

use super::DataSource;
use crate::data::windows::check_length;
use crate::data::TokenStream;
use crate::run::FinetuneSettings;
use crate::{Tokenizer, TrainError};

/// Tokens of the validation text that the sample begins with.
const PROMPT_TOKENS: usize = 12;

/// The share of the text that is held out if there is no other to measure on.
const HELD_OUT: f64 = 0.1;

/// Training and validation tokens.
pub(super) fn texts(
    settings: &FinetuneSettings,
    tokenizer: &Tokenizer,
) -> Result<(TokenStream, TokenStream), TrainError> {
    let load = |source: &DataSource| match source {
        DataSource::Files(paths) => TokenStream::from_files(paths, tokenizer),
        DataSource::Text(text) => TokenStream::from_text(text, tokenizer),
        DataSource::HeldOut => Err(TrainError::EmptyData { paths: Vec::new() }),
    };
    if let Some(both) = in_both(settings) {
        tracing::warn!(
            "{} is trained on and measured on: the perplexity says nothing of other text",
            both.display()
        );
    }
    let mut training = load(&settings.data)?;
    let mut validation = match &settings.validation {
        DataSource::HeldOut => training.split_off_share(HELD_OUT),
        other => load(other)?,
    };
    validation.truncate(settings.evaluation_tokens);
    check_length(&training, settings.sequence, "the training text")?;
    check_length(&validation, settings.sequence, "the validation text")?;
    Ok((training, validation))
}

/// A file that is trained on and measured on.
fn in_both(settings: &FinetuneSettings) -> Option<&Path> {
    let (DataSource::Files(data), DataSource::Files(validation)) = (&settings.data, &settings.validation) else {
        return None;
    };
    let whole = |path: &PathBuf| path.canonicalize().ok();
    let data: Vec<PathBuf> = data.iter().filter_map(whole).collect();
    let both = validation
        .iter()
        .find(|path| whole(path).is_some_and(|path| data.contains(&path)));
    both.map(PathBuf::as_path)
}

/// The first tokens of the first whole document.
pub(super) fn document_beginning<'a>(stream: &'a TokenStream, tokenizer: &Tokenizer) -> &'a [u32] {
    let tokens = stream.tokens();
    let begins = tokens
        .iter()
        .position(|&token| Some(token) == tokenizer.begin_token())
        .unwrap_or(0);
    &tokens[begins..tokens.len().min(begins + PROMPT_TOKENS)]
}
