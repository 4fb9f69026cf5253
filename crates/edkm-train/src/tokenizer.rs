//! Text to tokens and back, from the `tokenizer.json` of a model folder.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::read_capped;
use crate::TrainError;

/// The largest `tokenizer.json` that is read. Vocabularies of 256,000 tokens take about 35 MB.
const TOKENIZER_LIMIT: u64 = 128 << 20;
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

/// A tokenizer and the special tokens of its model.
///
/// Truncation and padding that `tokenizer.json` may ask for are switched off: they would silently cut documents.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    path: PathBuf,
    largest: u32,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and the special tokens from `config.json` (`bos_token_id`,
    /// `eos_token_id`) or, where that is silent, `tokenizer_config.json` (`bos_token`, `eos_token`).
    ///
    /// # Errors
    /// A file that is absent where it is needed, too large, not JSON, or not a tokenizer: named in the message.
    pub fn from_dir(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join("tokenizer.json");
        let bytes = read_capped(&path, TOKENIZER_LIMIT)?;
        let mut tokenizer = Self::from_bytes(&path, &bytes, SpecialTokens::default())?;
        tokenizer.special = tokenizer.read_special_tokens(dir)?;
        Ok(tokenizer)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`; `path` is what messages call it.
    ///
    /// # Errors
    /// If the bytes are not a tokenizer, or a special token is not one of its tokens.
    pub fn from_bytes(path: &Path, bytes: &[u8], special: SpecialTokens) -> Result<Self, TrainError> {
        let fail = |reason: String| TrainError::Tokenizer {
            path: path.to_path_buf(),
            reason,
        };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|why| fail(format!("not a tokenizer: {why}")))?;
        guarded(|| inner.with_truncation(None).map(|_| ())).map_err(fail)?;
        inner.with_padding(None);
        let Some(largest) = inner.get_vocab(true).into_values().max() else {
            return Err(TrainError::Tokenizer {
                path: path.to_path_buf(),
                reason: "it has no tokens".to_owned(),
            });
        };
        let tokenizer = Self {
            inner,
            special,
            path: path.to_path_buf(),
            largest,
        };
        for &token in tokenizer.special.begin.iter().chain(&tokenizer.special.end) {
            tokenizer.check_known(token)?;
        }
        Ok(tokenizer)
    }

    /// The tokens of a text, without begin or end tokens.
    ///
    /// Special tokens that the text spells out (`</s>`) become special tokens, as in other programs that use the file.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text (a vocabulary without an unknown token, for example).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        guarded(|| self.inner.encode_fast(text, false))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|why| self.error(format!("cannot encode {:?}: {why}", beginning(text))))
    }

    /// The tokens of a document: the begin token, then those of the text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let mut tokens = self.encode(text)?;
        if let Some(begin) = self.special.begin {
            tokens.insert(0, begin);
        }
        Ok(tokens)
    }

    /// The text of tokens; special tokens are left out.
    ///
    /// # Errors
    /// If a token is not one of the tokenizer's.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TrainError> {
        if let Some(&token) = tokens.iter().find(|&&token| token > self.largest) {
            return Err(self.error(format!("there is no token {token}; the largest is {}", self.largest)));
        }
        guarded(|| self.inner.decode(tokens, true)).map_err(|why| self.error(format!("cannot decode tokens: {why}")))
    }

    /// Decodes tokens one by one as they are generated.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            tokens: Vec::new(),
            emitted: 0,
        }
    }

    /// The token put in front of every document.
    pub fn begin_token(&self) -> Option<u32> {
        self.special.begin
    }

    /// The token that ends a response in training data.
    pub fn end_token(&self) -> Option<u32> {
        self.special.end.first().copied()
    }

    /// All tokens at which generation stops.
    pub fn end_tokens(&self) -> &[u32] {
        &self.special.end
    }

    /// One more than the largest token: the rows that an embedding needs.
    pub fn vocabulary_size(&self) -> usize {
        self.largest as usize + 1
    }

    /// Checks that a model with `rows` embedding rows has one for every token. More rows than tokens are fine: models pad.
    ///
    /// # Errors
    /// [`TrainError::Vocabulary`].
    pub fn check_vocabulary(&self, rows: usize) -> Result<(), TrainError> {
        if self.vocabulary_size() > rows {
            return Err(TrainError::Vocabulary {
                path: self.path.clone(),
                token: self.largest,
                model_rows: rows,
            });
        }
        Ok(())
    }

    /// The file the tokenizer was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read_special_tokens(&self, dir: &Path) -> Result<SpecialTokens, TrainError> {
        let model = read_json_object(&dir.join("config.json"))?;
        let config = read_json_object(&dir.join("tokenizer_config.json"))?;
        let ids = |key: &str| -> Result<Vec<u32>, TrainError> {
            let path = dir.join("config.json");
            let tokens = match model.get(key) {
                None | Some(Value::Null) => return Ok(Vec::new()),
                Some(Value::Array(list)) => list.iter().map(token_id).collect::<Option<Vec<_>>>(),
                Some(single) => token_id(single).map(|token| vec![token]),
            };
            tokens.ok_or_else(|| TrainError::Tokenizer {
                path,
                reason: format!("{key} is not a token number"),
            })
        };
        let named = |key: &str| -> Result<Vec<u32>, TrainError> {
            // Older files write the token as an object with its text under "content".
            let text = match config.get(key) {
                Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
                other => other.and_then(Value::as_str),
            };
            let Some(text) = text else { return Ok(Vec::new()) };
            let token = self.inner.token_to_id(text);
            token.map(|token| vec![token]).ok_or_else(|| TrainError::Tokenizer {
                path: dir.join("tokenizer_config.json"),
                reason: format!("{key} {text:?} is not in the vocabulary"),
            })
        };
        let find = |id_key, text_key| match ids(id_key)? {
            found if found.is_empty() => named(text_key),
            found => Ok(found),
        };
        let special = SpecialTokens {
            begin: find("bos_token_id", "bos_token")?.first().copied(),
            end: find("eos_token_id", "eos_token")?,
        };
        for &token in special.begin.iter().chain(&special.end) {
            self.check_known(token)?;
        }
        Ok(special)
    }

    fn check_known(&self, token: u32) -> Result<(), TrainError> {
        match self.inner.id_to_token(token) {
            Some(_) => Ok(()),
            None => Err(self.error(format!("the special token {token} is not in the vocabulary"))),
        }
    }

    fn error(&self, reason: String) -> TrainError {
        TrainError::Tokenizer {
            path: self.path.clone(),
            reason,
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

/// Text that comes piece by piece: a character whose bytes are spread over several tokens is held back until it is whole.
///
/// The pieces joined are what [`Tokenizer::decode`] gives for all tokens at once, as long as that is valid text.
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The last tokens that were emitted (`emitted` of them, the context that decides about spaces), then those held back.
    tokens: Vec<u32>,
    emitted: usize,
}

impl DecodeStream<'_> {
    /// Tokens held back at most: a character has at most four bytes, so more than this is not text.
    const HELD: usize = 8;

    /// Takes the next token; the text that is now certain, which is empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String, TrainError> {
        self.tokens.push(token);
        let held = self.tokens.len() - self.emitted;
        let text = self.pending()?;
        if text.is_empty() || (text.ends_with(char::REPLACEMENT_CHARACTER) && held < Self::HELD) {
            return Ok(String::new());
        }
        self.tokens.drain(..self.emitted);
        self.emitted = self.tokens.len();
        Ok(text)
    }

    /// The rest: bytes of a character that was never completed come as replacement characters.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, TrainError> {
        self.pending()
    }

    /// What the tokens held back add to the text of the context.
    fn pending(&self) -> Result<String, TrainError> {
        let context = self.tokenizer.decode(&self.tokens[..self.emitted])?;
        let whole = self.tokenizer.decode(&self.tokens)?;
        // A decoder that looks back may have changed the context's own end (bytes that turned out not to be text):
        // what was emitted stays emitted, and the rest begins at the same place.
        Ok(whole.get(context.len()..).unwrap_or_default().to_owned())
    }
}

/// Runs a call into the tokenizer library, which may panic on a hostile `tokenizer.json`, and gives errors as text.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|why| why.to_string()),
        Err(_) => Err("the tokenizer library failed on this file".to_owned()),
    }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A JSON object from a file that may be absent (then empty).
fn read_json_object(path: &Path) -> Result<serde_json::Map<String, Value>, TrainError> {
    let bytes = match read_capped(path, CONFIG_LIMIT) {
        Err(TrainError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Default::default())
        }
        other => other?,
    };
    serde_json::from_slice(&bytes).map_err(|why| TrainError::Tokenizer {
        path: path.to_path_buf(),
        reason: format!("not a JSON object: {why}"),
    })
}

/// The first characters of a text, for messages.
fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
