//! Which tokens begin a document and end a response, as a model folder says it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::files::read_capped;
use crate::TrainError;

/// The largest `config.json` or `tokenizer_config.json` that is read.
const CONFIG_LIMIT: u64 = 8 << 20;

/// The tokens that mark where a document begins and where a response ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put in front of every document and prompt; `None` for the few models that were trained without one.
    pub begin: Option<u32>,
    /// Generation stops at any of these; the first ends a response in training data.
    pub end: Vec<u32>,
}

impl SpecialTokens {
    /// Reads them from a model folder; `token` gives the number of a token's text. Files that are absent say nothing. With them comes whether the tokenizer
    /// itself puts `begin` in front of a text.
    pub(super) fn read(dir: &Path, token: impl Fn(&str) -> Option<u32>) -> Result<(Self, bool), TrainError> {
        let model = ConfigFile::read(dir, "config.json")?;
        let tokenizer = ConfigFile::read(dir, "tokenizer_config.json")?;
        let find = |number_key: &str, text_key: &str| {
            let numbers = model.numbers(number_key)?;
            match numbers.is_empty() {
                true => tokenizer.named(text_key, &token),
                false => Ok(numbers),
            }
        };
        let mut special = Self {
            begin: find("bos_token_id", "bos_token")?.first().copied(),
            end: find("eos_token_id", "eos_token")?,
        };
        // models that are to answer name more there than one: what ends a text, and what ends a turn
        for token in ConfigFile::read(dir, "generation_config.json")?.numbers("eos_token_id")? {
            if !special.end.contains(&token) {
                special.end.push(token);
            }
        }
        Ok((special, tokenizer.adds_begin()?))
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

/// One of a folder's configuration files, and where it lies for messages.
struct ConfigFile<'d> {
    dir: &'d Path,
    name: &'static str,
    values: Map<String, Value>,
}

impl<'d> ConfigFile<'d> {
    fn read(dir: &'d Path, name: &'static str) -> Result<Self, TrainError> {
        let mut file = Self {
            dir,
            name,
            values: Map::new(),
        };
        match read_capped(&dir.join(name), CONFIG_LIMIT) {
            Ok(bytes) => {
                file.values =
                    serde_json::from_slice(&bytes).map_err(|why| file.error(format!("not a JSON object: {why}")))?;
            }
            Err(TrainError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(other) => return Err(other),
        }
        Ok(file)
    }

    /// A token's number, or several, under `key`; none if the file does not say.
    fn numbers(&self, key: &str) -> Result<Vec<u32>, TrainError> {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let numbers = match self.values.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(number).collect(),
            Some(single) => number(single).map(|number| vec![number]),
        };
        numbers.ok_or_else(|| self.error(format!("{key} is not a token number")))
    }

    /// The number of the token whose text stands under `key`; none if the file does not say.
    fn named(&self, key: &str, token: impl Fn(&str) -> Option<u32>) -> Result<Vec<u32>, TrainError> {
        let text = self.values.get(key).and_then(text_of);
        match text.map(|text| (text, token(text))) {
            None => Ok(Vec::new()),
            Some((_, Some(number))) => Ok(vec![number]),
            Some((text, None)) => Err(self.error(format!("{key} {text:?} is not in the vocabulary"))),
        }
    }

    /// Whether a text that is encoded begins with the begin token, as transformers has it.
    fn adds_begin(&self) -> Result<bool, TrainError> {
        match self.values.get("add_bos_token") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(adds)) => return Ok(*adds),
            Some(_) => return Err(self.error("add_bos_token is not true or false".to_owned())),
        }
        let class = self.values.get("tokenizer_class").and_then(Value::as_str);
        let class = class.unwrap_or_default().trim_end_matches("Fast");
        Ok(!["GPT2Tokenizer", "Qwen2Tokenizer"].contains(&class))
    }

    fn error(&self, reason: String) -> TrainError {
        TrainError::Tokenizer {
            path: self.dir.join(self.name),
            reason,
        }
    }
}
