//! Text to tokens and back, from the `tokenizer.json` of a model folder.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config_file::ConfigFile;
use crate::files::read_capped;
use crate::template::{ChatTemplate, Template};
use crate::TrainError;

mod bounds;
mod expression;
pub(crate) mod special;
mod stream;

use special::AddsBegin;
pub use special::SpecialTokens;
pub use stream::DecodeStream;

/// The largest `tokenizer.json` that is read. Vocabularies of 256,000 tokens take about 35 MB.
const TOKENIZER_LIMIT: u64 = 128 << 20;

/// A tokenizer and the special tokens of its model.
///
/// Truncation and padding that `tokenizer.json` may ask for are switched off: they would silently cut documents.
///
/// A clone has the same vocabulary, in the same memory.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    special: SpecialTokens,
    adds_begin: bool,
    template: Template,
    path: PathBuf,
    largest: u32,
    /// Tokens that the model beside it has, where that is known: no text becomes one that it has not.
    rows: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and the special tokens from `tokenizer_config.json` (`bos_token`, `eos_token`) or, where that is silent,
    /// `config.json` (`bos_token_id`, `eos_token_id`); more that end a text from both and `generation_config.json`. What tokenizer_config.json says of
    /// `add_bos_token` counts for [`encode_question`](Self::encode_question), and where it says nothing what transformers does then. A chat template is taken from `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file that is absent where it is needed, too large, not JSON, or not a tokenizer: named in the message.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TrainError> {
        Self::of_folder(dir.as_ref())
    }

    fn of_folder(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join("tokenizer.json");
        let bytes = read_capped(&path, TOKENIZER_LIMIT).map_err(|why| match why {
            TrainError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => TrainError::Tokenizer {
                path: path.clone(),
                reason:
                    "there is no such file; transformers makes one of other tokenizers (AutoTokenizer, save_pretrained)"
                        .to_owned(),
            },
            other => other,
        })?;
        let mut tokenizer = Self::from_bytes(&path, &bytes, SpecialTokens::default())?;
        let (special, adds_begin) = SpecialTokens::read(dir, |text| tokenizer.inner.token_to_id(text))?;
        tokenizer.special = special;
        tokenizer.rows = rows(dir);
        tokenizer.check_special()?;
        tokenizer.adds_begin = match adds_begin {
            AddsBegin::Yes => true,
            AddsBegin::No => false,
            AddsBegin::AsItsFileDoes => tokenizer.puts_begin_in_front()?,
        };
        if let Some(template) = ChatTemplate::of_folder(dir)? {
            tokenizer.template = Template::Chat(Arc::new(template));
        }
        Ok(tokenizer)
    }

    /// Whether what `tokenizer.json` does behind the encoding puts the begin token in front.
    fn puts_begin_in_front(&self) -> Result<bool, TrainError> {
        let text = "a";
        let encoding = guarded(|| self.inner.encode_fast(text, true)).map_err(|why| self.cannot_encode(text, &why))?;
        Ok(encoding.get_ids().first().copied() == self.special.begin)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`; `path` is what messages call it.
    ///
    /// # Errors
    /// If the bytes are not a tokenizer, or one that may take long or much memory on some text; or a special token is not one of its tokens.
    pub fn from_bytes(path: &Path, bytes: &[u8], special: SpecialTokens) -> Result<Self, TrainError> {
        let fail = |reason: String| TrainError::Tokenizer {
            path: path.to_path_buf(),
            reason,
        };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|why| fail(format!("not a tokenizer: {why}")))?;
        guarded(|| inner.with_truncation(None).map(|_| ())).map_err(fail)?;
        inner.with_padding(None);
        bounds::check(&inner).map_err(fail)?;
        let Some(largest) = inner.get_vocab(true).into_values().max() else {
            return Err(TrainError::Tokenizer {
                path: path.to_path_buf(),
                reason: "it has no tokens".to_owned(),
            });
        };
        let tokenizer = Self {
            inner: Arc::new(inner),
            special,
            adds_begin: true,
            template: Template::Alpaca,
            path: path.to_path_buf(),
            largest,
            rows: None,
        };
        tokenizer.check_special()?;
        Ok(tokenizer)
    }

    /// The tokens of a text, without begin or end tokens.
    ///
    /// Special tokens that the text spells out (`</s>`) become special tokens, as in other programs that use the file.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text (a vocabulary without an unknown token, for example).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let encoding = guarded(|| self.inner.encode_fast(text, false)).map_err(|why| self.cannot_encode(text, &why))?;
        self.check_tokens(text, encoding.get_ids())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Refuses tokens that the model has not.
    fn check_tokens(&self, text: &str, tokens: &[u32]) -> Result<(), TrainError> {
        let Some(rows) = self.rows else { return Ok(()) };
        match tokens.iter().find(|&&token| token >= rows) {
            None => Ok(()),
            Some(&token) => Err(self.cannot_encode(
                text,
                &format!(
                    "{:?} in it is token {token}, and the model beside this file has {rows} tokens",
                    self.inner.id_to_token(token).unwrap_or_default()
                ),
            )),
        }
    }

    /// The tokens of a text, as [`encode`](Self::encode) gives them, each with the bytes of the text that it stands for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_places(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, TrainError> {
        let encoding = guarded(|| self.inner.encode(text, false)).map_err(|why| self.cannot_encode(text, &why))?;
        self.check_tokens(text, encoding.get_ids())?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
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

    /// The tokens of a question of an evaluation, or of a prompt: those of a document, but for the begin token where the model's own tokenizer adds none
    /// (`add_bos_token` of tokenizer_config.json, the classes of GPT-2 and Qwen, a tokenizer.json whose `post_processor` adds none).
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_question(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        match self.adds_begin {
            true => self.encode_document(text),
            false => self.encode(text),
        }
    }

    /// The text of tokens. Special tokens are left out, and so are those that the tokenizer has not, as in transformers: a model that is padded to a round
    /// number of tokens may choose them.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TrainError> {
        guarded(|| self.inner.decode(tokens, true)).map_err(|why| self.error(format!("cannot decode tokens: {why}")))
    }

    /// Decodes tokens one by one as they are generated, as the beginning of a text: a tokenizer that puts a space in front of every text leaves out the
    /// first one.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        self.decode_stream_behind(&[])
    }

    /// Decodes tokens one by one as they are generated behind the text of `context`, which is not given again.
    pub fn decode_stream_behind(&self, context: &[u32]) -> DecodeStream<'_> {
        DecodeStream::behind(self, context)
    }

    /// The same, whose chat template is given these values too by their names ([`ChatTemplate::with_arguments`]).
    ///
    /// # Errors
    /// A model without a chat template.
    pub fn with_template_arguments(mut self, arguments: Map<String, Value>) -> Result<Self, TrainError> {
        match &self.template {
            Template::Chat(template) => self.template = Template::Chat(Arc::new(template.with_arguments(arguments))),
            Template::Alpaca => {
                return Err(self.error("there is no chat template beside it that could be given anything".to_owned()))
            }
        }
        Ok(self)
    }

    /// How instructions and conversations are written for the model.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Whether a token is a special one, which stands for no text.
    pub fn is_special(&self, token: u32) -> bool {
        let added = self.inner.get_added_tokens_decoder();
        added.get(&token).is_some_and(|token| token.special)
    }

    /// The token put in front of every document.
    pub fn begin_token(&self) -> Option<u32> {
        self.special.begin
    }

    /// The token that ends a response in training data.
    pub fn end_token(&self) -> Option<u32> {
        self.special.end.first().copied()
    }

    /// All tokens that end a response or a text.
    pub fn end_tokens(&self) -> &[u32] {
        &self.special.end
    }

    /// All tokens at which generation stops: those that end a text, and the one that begins another, which is what a model writes that has learned plain texts.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let begin = self.special.begin.filter(|begin| !self.special.end.contains(begin));
        self.special.end.iter().copied().chain(begin).collect()
    }

    /// One more than the largest token: the rows that an embedding needs.
    pub fn vocabulary_size(&self) -> usize {
        self.largest as usize + 1
    }

    /// Checks that a model with `rows` embedding rows has one for every token. More rows than tokens are fine: models pad. So are tokens beyond the rows that were
    /// added to a vocabulary which has rows, where the model is that of the tokenizer's folder (Code Llama's, some Llama 2's): a text with one cannot be encoded.
    ///
    /// # Errors
    /// [`TrainError::Vocabulary`].
    pub fn check_vocabulary(&self, rows: usize) -> Result<(), TrainError> {
        let needed = match self.rows.is_some_and(|own| own as usize == rows) {
            false => self.largest,
            true => {
                let of_vocabulary = self.inner.get_vocab(false).into_values();
                of_vocabulary.chain(self.special.all()).max().unwrap_or(0)
            }
        };
        if needed as usize >= rows {
            return Err(TrainError::Vocabulary {
                path: self.path.clone(),
                token: needed,
                model_rows: rows,
            });
        }
        Ok(())
    }

    /// The first token that two tokenizers both have and do not have alike: its number, and what it is in each.
    pub(crate) fn first_other_token(&self, other: &Self) -> Option<(u32, String, String)> {
        let both = |token| Some((self.inner.id_to_token(token)?, other.inner.id_to_token(token)?));
        (0..=self.largest.min(other.largest))
            .filter_map(|token| both(token).map(|(ours, theirs)| (token, ours, theirs)))
            .find(|(_, ours, theirs)| ours != theirs)
    }

    /// The file the tokenizer was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_special(&self) -> Result<(), TrainError> {
        match self
            .special
            .all()
            .find(|&token| self.inner.id_to_token(token).is_none())
        {
            Some(token) => Err(self.error(format!("the special token {token} is not in the vocabulary"))),
            None => Ok(()),
        }
    }

    fn cannot_encode(&self, text: &str, why: &str) -> TrainError {
        self.error(format!("cannot encode {:?}: {why}", beginning(text)))
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

/// The tokens of a folder's model; `None` where its configuration is no one's: who needs it says what is wrong.
fn rows(dir: &Path) -> Option<u32> {
    let config = ConfigFile::read(dir, "config.json").ok()?;
    config.numbers("vocab_size").ok()?.first().copied()
}

/// Runs a call into the tokenizer library, which panics on some hostile files (a `Strip` decoder that strips more than there
/// is), and gives errors as text.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|why| why.to_string()),
        Err(_) => Err("the tokenizer library failed on this file".to_owned()),
    }
}

/// The first characters of a text, for messages.
fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
