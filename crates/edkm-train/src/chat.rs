//! A conversation in the model's template.

use std::ops::ControlFlow;

use edkm_llama::inference::{GenerateOptions, Session, StopReason};

use crate::data::alpaca;
use crate::template::{Goes, Message, Template};
use crate::text_generation::{write_text, WrittenText};
use crate::{Tokenizer, TrainError};

/// Where a response in Alpaca's template ends that the model itself does not end: it goes on with an instruction of its own.
const NEXT_INSTRUCTION: &str = "\n### Instruction:";

/// Earlier turns are forgotten where they leave less room for a response than it may take, or than this part of the context.
const LEAST_ROOM: usize = 4;

/// Instructions and responses so far. What the session has read is not read again.
pub struct Chat {
    session: Session,
    tokenizer: Tokenizer,
    options: GenerateOptions,
    stop: Vec<String>,
    /// What is said before all else.
    system: Option<Message>,
    /// All turns that are known: what was asked, and the response.
    messages: Vec<Message>,
    /// The same, as the model has read and written them.
    tokens: Vec<u32>,
    turns: u64,
}

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Its text, tokens and times.
    pub written: WrittenText,
    /// Whether what was said before had no room beside this turn.
    pub forgot: Forgot,
}

/// Whether earlier turns are still known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgot {
    /// They are.
    Nothing,
    /// The first ones are forgotten, as many as had no room.
    EarlierTurns,
}

impl Chat {
    /// A conversation in an empty session. `system` is said to the model before all else; `stop` holds further texts that end a response.
    ///
    /// # Errors
    /// A chat template that cannot be used.
    pub fn new(
        session: Session,
        tokenizer: &Tokenizer,
        mut options: GenerateOptions,
        system: Option<&str>,
        stop: &[String],
    ) -> Result<Self, TrainError> {
        let mut stop = stop.to_vec();
        let system = system.map(Message::system);
        match tokenizer.template() {
            Template::Alpaca => stop.push(NEXT_INSTRUCTION.to_owned()),
            Template::Chat(template) => {
                // what ends a turn may be another token than what ends a text, or a text
                let behind = template.behind_response(system.as_ref())?;
                let tokens = tokenizer.encode(&behind)?;
                match tokens.iter().find(|&&token| tokenizer.is_special(token)) {
                    Some(token) => options.stop_tokens.push(*token),
                    None if behind.is_empty() => {}
                    None => stop.push(behind),
                }
            }
        }
        Ok(Self {
            session,
            tokenizer: tokenizer.clone(),
            options,
            stop,
            system,
            messages: Vec::new(),
            tokens: Vec::new(),
            turns: 0,
        })
    }

    /// Begins anew: the next turn is the first, with its random numbers.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.tokens.clear();
        self.turns = 0;
    }

    /// The session, for its memory.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Responds to an instruction; `on_text` is given the response in pieces as it comes, and ends it with `ControlFlow::Break`: it is as long then as what was handed
    /// over. Each turn has random numbers of its own.
    ///
    /// # Errors
    /// As [`write_text`]; an instruction that is longer than the context.
    pub fn respond(
        &mut self,
        instruction: &str,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Response, TrainError> {
        let asked = Message::user(instruction);
        let room = self.options.max_tokens.min(self.session.context() / LEAST_ROOM);
        let (mut first, mut tokens) = (0, self.asked(0, &asked)?);
        while first < self.messages.len() && tokens.len() + room > self.session.context() {
            first += 2;
            tokens = self.asked(first, &asked)?;
        }
        let known = self.session.keep_common_prefix(&tokens);
        let mut options = self.options.clone();
        options.sampling.seed = options.sampling.seed.wrapping_add(self.turns);
        let session = &mut self.session;
        // a response is a text of its own
        let stream = self.tokenizer.decode_stream();
        let written = write_text(session, stream, &tokens[known..], &options, &self.stop, on_text)?;
        match written.generation.stop {
            // The last tokens are those of a stop string, or were not handed over.
            StopReason::Caller => tokens.extend(self.tokenizer.encode(&written.text)?),
            _ => tokens.extend(&written.generation.tokens),
        }
        self.messages.drain(..first);
        self.messages.extend([asked, Message::response(&written.text)]);
        self.tokens = tokens;
        self.turns += 1;
        let forgot = match first {
            0 => Forgot::Nothing,
            _ => Forgot::EarlierTurns,
        };
        Ok(Response { written, forgot })
    }

    /// The tokens of a further instruction behind the turns from the message `first` on.
    fn asked(&self, first: usize, instruction: &Message) -> Result<Vec<u32>, TrainError> {
        let earlier = &self.messages[first..];
        match self.tokenizer.template() {
            Template::Chat(template) => {
                let all = self.system.iter().chain(earlier).chain([instruction]);
                let all: Vec<Message> = all.cloned().collect();
                self.tokenizer.encode(&template.write(&all, Goes::On)?)
            }
            Template::Alpaca if first == 0 && !earlier.is_empty() => {
                let mut tokens = self.tokens.clone();
                self.add_in_alpaca(&mut tokens, instruction, None)?;
                Ok(tokens)
            }
            Template::Alpaca => {
                let mut tokens = Vec::new();
                for turn in earlier.chunks_exact(2) {
                    self.add_in_alpaca(&mut tokens, &turn[0], Some(&turn[1]))?;
                }
                self.add_in_alpaca(&mut tokens, instruction, None)?;
                Ok(tokens)
            }
        }
    }

    /// Adds a turn, or its beginning, as it is trained: each response is followed by the end token.
    fn add_in_alpaca(
        &self,
        tokens: &mut Vec<u32>,
        instruction: &Message,
        response: Option<&Message>,
    ) -> Result<(), TrainError> {
        let response = response.map_or("", |response| &response.content);
        if tokens.is_empty() {
            let said = self.system.iter().chain([instruction]);
            let said: Vec<&str> = said.map(|message| message.content.as_str()).collect();
            let prompt = alpaca::prompt(&alpaca::instruction(&said), "");
            *tokens = self.tokenizer.encode_question(&(prompt + response))?;
        } else {
            tokens.extend(self.tokenizer.end_token());
            let prompt = alpaca::next_prompt(&instruction.content);
            tokens.extend(self.tokenizer.encode(&(prompt + response))?);
        }
        Ok(())
    }
}
