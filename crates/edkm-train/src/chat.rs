//! A conversation in the Alpaca template.

use edkm_llama::inference::{GenerateOptions, Session, StopReason};

use crate::data::alpaca;
use crate::text_generation::{write_text, WrittenText};
use crate::{Tokenizer, TrainError};

/// Where a response ends that the model itself does not end: it goes on with an instruction of its own.
const NEXT_INSTRUCTION: &str = "\n### Instruction:";

/// Instructions and responses so far. What the session has read is not read again.
pub struct Chat<'m, 't> {
    session: Session<'m>,
    tokenizer: &'t Tokenizer,
    options: GenerateOptions,
    stop: Vec<String>,
    /// All turns.
    tokens: Vec<u32>,
    turns: u64,
}

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Its text, tokens and times.
    pub written: WrittenText,
    /// What was said before had no room beside this turn and is forgotten.
    pub forgot: Forgot,
}

/// Whether earlier turns are still known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgot {
    /// They are.
    Nothing,
    /// They were left out.
    EarlierTurns,
}

impl<'m, 't> Chat<'m, 't> {
    /// A conversation in an empty session. `stop` holds further texts that end a response.
    pub fn new(session: Session<'m>, tokenizer: &'t Tokenizer, options: GenerateOptions, stop: &[String]) -> Self {
        let stop = stop.iter().cloned().chain([NEXT_INSTRUCTION.to_owned()]).collect();
        Self {
            session,
            tokenizer,
            options,
            stop,
            tokens: Vec::new(),
            turns: 0,
        }
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.tokens.clear();
    }

    /// The session, for its memory.
    pub fn session(&self) -> &Session<'m> {
        &self.session
    }

    /// Responds to an instruction; `on_text` is given the response in pieces as it comes. Each turn has random numbers of its own.
    ///
    /// # Errors
    /// As [`write_text`]; an instruction that is longer than the context.
    pub fn respond(&mut self, instruction: &str, on_text: impl FnMut(&str)) -> Result<Response, TrainError> {
        let room = self.session.context();
        let mut forgot = Forgot::Nothing;
        let mut tokens = self.tokens.clone();
        if !tokens.is_empty() {
            let next = format!("\n\n### Instruction:\n{instruction}\n\n### Response:");
            tokens.extend(self.tokenizer.encode(&next)?);
            if tokens.len() + self.options.max_tokens > room {
                tokens.clear();
                forgot = Forgot::EarlierTurns;
            }
        }
        if tokens.is_empty() {
            tokens = self.tokenizer.encode_document(&alpaca::prompt(instruction, ""))?;
        }
        let known = self.session.keep_common_prefix(&tokens);
        let mut options = self.options.clone();
        options.sampling.seed = options.sampling.seed.wrapping_add(self.turns);
        let session = &mut self.session;
        // a response is a text of its own
        let stream = self.tokenizer.decode_stream();
        let written = write_text(session, stream, &tokens[known..], &options, &self.stop, on_text)?;
        match written.generation.stop {
            // The last tokens are those of a stop string.
            StopReason::Caller => tokens.extend(self.tokenizer.encode(&written.text)?),
            _ => tokens.extend(&written.generation.tokens),
        }
        self.tokens = tokens;
        self.turns += 1;
        Ok(Response { written, forgot })
    }
}
