//! Tokens to text while they are still being generated.

use super::Tokenizer;
use crate::TrainError;

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

impl<'t> DecodeStream<'t> {
    /// Tokens held back at most. An incomplete character is four tokens at most, but replacement characters that the text itself holds
    /// look like one, and stand before the next one's bytes: only a long run of them is let go before a valid character ends it.
    pub(super) const HELD: usize = 128;

    pub(super) fn behind(tokenizer: &'t Tokenizer, context: &[u32]) -> Self {
        Self {
            tokenizer,
            tokens: context.to_vec(),
            emitted: context.len(),
        }
    }

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
