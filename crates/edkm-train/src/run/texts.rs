//! The texts of a run as tokens.

use std::collections::HashSet;
use std::path::PathBuf;

use super::{count, DataSource, OnProgress};
use crate::data::windows::check_length;
use crate::data::{data_files, Apart, TokenStream};
use crate::run::FinetuneSettings;
use crate::{files, Tokenizer, TrainError};

/// Tokens of the validation text that the sample begins with, where all of it counts.
const PROMPT_TOKENS: usize = 12;

/// Tokens of a prompt that the sample begins with at most.
const LONGEST_PROMPT: usize = 256;

/// A perplexity of fewer tokens depends on which they are.
const FEW: usize = 1000;

/// One record of so many that is longer than a sequence is worth a word.
const LONG_RECORDS: usize = 10;

/// The share of the text that is held out if there is no other to measure on.
const HELD_OUT: f64 = 0.1;

/// The tokens of a text that stands for itself; `progress` may end the reading.
///
/// # Errors
/// Text that cannot be read; [`DataSource::HeldOut`], which is a part of another text.
pub(crate) fn stream(
    source: &DataSource,
    tokenizer: &Tokenizer,
    progress: &mut OnProgress<'_>,
) -> Result<TokenStream, TrainError> {
    match source {
        DataSource::Files(paths) => TokenStream::read(paths, tokenizer, progress),
        DataSource::Text(text) => TokenStream::from_text(text, tokenizer),
        DataSource::HeldOut => Err(TrainError::Setting {
            setting: "text",
            value: "HeldOut".to_owned(),
            expected: "Files or Text: of a text that is trained on a part may be held out, to measure on",
        }),
    }
}

/// Refuses texts that come through pipes.
///
/// # Errors
/// [`TrainError::ReadOnce`] with the first one that does, and `what` reads it.
pub(crate) fn check_files(sources: [&DataSource; 2], what: &'static str) -> Result<(), TrainError> {
    let paths = sources.into_iter().flat_map(|source| match source {
        DataSource::Files(paths) => paths.as_slice(),
        DataSource::Text(_) | DataSource::HeldOut => &[],
    });
    match paths.into_iter().find(|path| files::is_a_pipe(path)) {
        None => Ok(()),
        Some(path) => Err(TrainError::ReadOnce {
            path: path.clone(),
            what,
        }),
    }
}

/// What messages call a text: its first file, if it is of files.
pub(crate) fn named(what: &str, source: &DataSource) -> String {
    match source {
        DataSource::Files(paths) => match &paths[..] {
            [] => what.to_owned(),
            [only] => format!("{what}, {},", only.display()),
            [first, others @ ..] => {
                format!(
                    "{what}, {} and {},",
                    first.display(),
                    count(others.len() as u64, "other file")
                )
            }
        },
        DataSource::Text(_) | DataSource::HeldOut => what.to_owned(),
    }
}

/// Training and validation tokens.
pub(super) fn texts(
    settings: &FinetuneSettings,
    tokenizer: &Tokenizer,
    progress: &mut OnProgress<'_>,
) -> Result<(TokenStream, TokenStream), TrainError> {
    if let Some(both) = in_both(settings)? {
        tracing::warn!(
            "{} is trained on and measured on: the perplexity says nothing of other text",
            both.display()
        );
    }
    if let Some(twice) = twice(settings)? {
        tracing::warn!("{} is named twice: its text counts twice", twice.display());
    }
    let mut training = stream(&settings.data, tokenizer, progress)?.with_apart(settings.apart);
    let mut validation = match &settings.validation {
        DataSource::HeldOut => training.split_off_share(HELD_OUT),
        other => stream(other, tokenizer, progress)?.with_apart(settings.apart),
    };
    validation = validation.to_measure();
    validation.truncate_each(settings.evaluation_tokens);
    check_length(
        &training,
        settings.sequence,
        &named("the training text", &settings.data),
    )?;
    let measured_on = match settings.validation {
        DataSource::HeldOut => {
            "the tenth of the text that is held out to measure on, for want of a validation text (--valid),"
        }
        _ => &named("the validation text", &settings.validation),
    };
    check_length(&validation, settings.sequence, measured_on)?;
    let (longer, records) = training.records_longer_than(settings.sequence);
    if longer * LONG_RECORDS > records && settings.apart != Apart::Nothing {
        tracing::warn!(
            "{} of {} are longer than --seq {}, and are cut: what is behind a cut is learned without what is before it. A larger --seq keeps them whole",
            longer,
            count(records as u64, "record"),
            settings.sequence
        );
    }
    // who asks for few knows it
    if validation.len() < FEW && settings.evaluation_tokens >= FEW {
        tracing::warn!(
            "{measured_on} has {}: a perplexity of so few says little",
            count(validation.len() as u64, "token")
        );
    }
    Ok((training, validation))
}

/// What is measured on, for people.
pub(super) fn measured_on(settings: &FinetuneSettings, validation: &TokenStream) -> String {
    let tokens = count(validation.len() as u64, "token");
    let windows = validation.windows_in_words(settings.sequence);
    match settings.validation {
        DataSource::HeldOut => {
            format!(
                "measured on: {tokens} of a tenth of the text, which is held out (--valid names another), {windows}"
            )
        }
        _ => format!("measured on: {tokens} {windows}"),
    }
}

/// A file that is named twice among those that are trained on.
fn twice(settings: &FinetuneSettings) -> Result<Option<PathBuf>, TrainError> {
    let DataSource::Files(data) = &settings.data else {
        return Ok(None);
    };
    let mut seen = HashSet::new();
    let mut is_again = |path: &PathBuf| path.canonicalize().is_ok_and(|whole| !seen.insert(whole));
    let files = data_files(data)?;
    Ok(files.iter().find(|path| is_again(path)).cloned())
}

/// A file that is trained on and measured on.
fn in_both(settings: &FinetuneSettings) -> Result<Option<PathBuf>, TrainError> {
    let (DataSource::Files(data), DataSource::Files(validation)) = (&settings.data, &settings.validation) else {
        return Ok(None);
    };
    let whole = |path: &PathBuf| path.canonicalize().ok();
    let data: Vec<PathBuf> = data_files(data)?.iter().filter_map(whole).collect();
    let validation = data_files(validation)?;
    let mut validation = validation.iter();
    Ok(validation
        .find(|path| whole(path).is_some_and(|path| data.contains(&path)))
        .cloned())
}

/// The first tokens of the first whole document: those that do not count, its prompt, if it begins with such.
pub(super) fn document_beginning<'a>(stream: &'a TokenStream, tokenizer: &Tokenizer) -> &'a [u32] {
    let tokens = stream.tokens();
    let is_begin = |&token: &u32| Some(token) == tokenizer.begin_token();
    // templates of some models begin with none: then with what follows a response
    let behind_response = || (1..tokens.len()).find(|&at| stream.is_marked(at - 1) && !stream.is_marked(at));
    let begins = match tokens.iter().position(is_begin) {
        Some(begins) => begins,
        None if tokens.is_empty() || !stream.is_marked(0) => 0,
        None => behind_response().unwrap_or(0),
    };
    // nothing predicts the begin token
    let prompt = (begins + 1..tokens.len()).take_while(|&position| !stream.is_marked(position));
    let length = match prompt.take(LONGEST_PROMPT).count() {
        0 => PROMPT_TOKENS,
        prompt => 1 + prompt,
    };
    &tokens[begins..tokens.len().min(begins + length)]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Document;
    use crate::synthetic;
    use crate::tokenizer::SpecialTokens;

    #[test]
    fn a_sample_begins_with_a_whole_prompt_or_some_tokens_of_a_text() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            std::fs::write(dir.path().join(name), content).unwrap();
            dir.path().join(name)
        };
        let story = "the fox found a red kite and the dog saw a ball in the park by the old tree";
        write("tokenizer.json", &synthetic::train_tokenizer(story, 280).unwrap());
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let beginning = |path: PathBuf| {
            let stream = TokenStream::from_files(&[path], &tokenizer).unwrap();
            tokenizer.decode(document_beginning(&stream, &tokenizer)).unwrap()
        };
        let text = beginning(write("a.txt", story.as_bytes()));
        assert!(story.starts_with(&text) && text.len() < story.len(), "{text}");
        let record = r#"{"instruction": "Find a kite.", "input": "", "output": "the fox found one"}"#;
        let prompt = beginning(write("a.jsonl", record.as_bytes()));
        assert!(
            prompt.ends_with("### Response:") && prompt.contains("Find a kite."),
            "{prompt}"
        );
    }

    /// As in the templates of models without a begin token.
    #[test]
    fn a_sample_of_conversations_begins_with_a_prompt() {
        let json = synthetic::train_tokenizer("ask: the fox say: the kite", 280).unwrap();
        let tokenizer = Tokenizer::from_bytes(Path::new("t.json"), &json, SpecialTokens::default()).unwrap();
        let text = "ask: the fox say: the kite ".repeat(3);
        let counted = |document: usize| document * 27 + 17..document * 27 + 27;
        let document = Document::Marked {
            text: text[9..].to_owned(),
            counted: (0..3)
                .map(|at| counted(at).start.saturating_sub(9)..counted(at).end - 9)
                .collect(),
        };
        let mut stream = TokenStream::default();
        stream.append(&[document], &tokenizer).unwrap();
        let beginning = |stream: &TokenStream| tokenizer.decode(document_beginning(stream, &tokenizer)).unwrap();
        assert_eq!(beginning(&stream), "fox say:");
        // what is held out may begin within a response
        let rest = stream.split_off_share(0.8);
        assert!(rest.counts(0));
        assert_eq!(beginning(&rest), "ask: the fox say:");
    }
}
