//! Which tokens begin a document and end a response, as a model folder says it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config_file::ConfigFile;
use crate::TrainError;

/// The tokens that mark where a document begins and where a response ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put in front of every document and prompt; `None` for the few models that were trained without one.
    pub begin: Option<u32>,
    /// Generation stops at any of these; the first ends a response in training data.
    pub end: Vec<u32>,
}

/// Whether a text that is encoded begins with the begin token, as transformers has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddsBegin {
    Yes,
    No,
    /// Where what `tokenizer.json` does behind the encoding (`post_processor`) puts it there.
    AsItsFileDoes,
}

impl SpecialTokens {
    /// Reads them from a model folder; `token` gives the number of a token's text. Files that are absent say nothing.
    ///
    /// As in transformers, what the tokenizer's own configuration names comes first: numbers in a model's are often those of the model that it was made from.
    pub(super) fn read(dir: &Path, token: impl Fn(&str) -> Option<u32>) -> Result<(Self, AddsBegin), TrainError> {
        let model = ConfigFile::read(dir, "config.json")?;
        let tokenizer = ConfigFile::read(dir, "tokenizer_config.json")?;
        let find = |number_key: &str, text_key: &str| {
            let numbers = model.numbers(number_key)?;
            let mut found = match tokenizer.named(text_key, &token) {
                Err(_) if !numbers.is_empty() => Vec::new(),
                named => Vec::from_iter(named?),
            };
            found.extend(numbers);
            Ok::<_, TrainError>(found)
        };
        let mut end = find("eos_token_id", "eos_token")?;
        // models that are to answer name more there than one: what ends a text, and what ends a turn
        end.extend(ConfigFile::read(dir, "generation_config.json")?.numbers("eos_token_id")?);
        let mut special = Self {
            begin: find("bos_token_id", "bos_token")?.first().copied(),
            end: Vec::new(),
        };
        for token in end {
            if !special.end.contains(&token) {
                special.end.push(token);
            }
        }
        Ok((special, tokenizer.adds_begin(&model)?))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.begin.iter().chain(&self.end).copied()
    }
}

/// The texts of the special tokens by name, `bos_token` and others, as `tokenizer_config.json` of a model folder has them.
pub(crate) fn texts(dir: &Path) -> Result<Map<String, Value>, TrainError> {
    let tokenizer = ConfigFile::read(dir, "tokenizer_config.json")?;
    let tokens = tokenizer.values.iter().filter(|(name, _)| name.ends_with("_token"));
    Ok(tokens
        .filter_map(|(name, value)| Some((name.clone(), text_of(value)?.into())))
        .collect())
}

/// The text of a special token. Older files write the token as an object with its text under "content".
fn text_of(token: &Value) -> Option<&str> {
    match token {
        Value::Object(token) => token.get("content").and_then(Value::as_str),
        other => other.as_str(),
    }
}

impl ConfigFile<'_> {
    /// The number of the token whose text stands under `key`; none if the file does not say.
    fn named(&self, key: &str, token: impl Fn(&str) -> Option<u32>) -> Result<Option<u32>, TrainError> {
        let text = self.values.get(key).and_then(text_of);
        match text.map(|text| (text, token(text))) {
            None => Ok(None),
            Some((_, Some(number))) => Ok(Some(number)),
            Some((text, None)) => Err(self.error(format!("{key} {text:?} is not in the vocabulary"))),
        }
    }

    fn adds_begin(&self, model: &Self) -> Result<AddsBegin, TrainError> {
        match self.values.get("add_bos_token") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(true)) => return Ok(AddsBegin::Yes),
            Some(Value::Bool(false)) => return Ok(AddsBegin::No),
            Some(_) => return Err(self.error("add_bos_token is not true or false".to_owned())),
        }
        let class = self.values.get("tokenizer_class").and_then(Value::as_str);
        let class = class.unwrap_or_else(|| model.usual_tokenizer_class());
        Ok(match class.trim_end_matches("Fast") {
            "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer" => AddsBegin::Yes,
            "GPT2Tokenizer" | "Qwen2Tokenizer" => AddsBegin::No,
            _ => AddsBegin::AsItsFileDoes,
        })
    }

    /// The class of tokenizer that a `config.json` has where no other file names one.
    fn usual_tokenizer_class(&self) -> &'static str {
        match self.values.get("model_type").and_then(Value::as_str) {
            Some(qwen) if qwen.starts_with("qwen") => "Qwen2Tokenizer",
            _ => "LlamaTokenizer",
        }
    }
}
