//! Alpaca records: an instruction, possibly an input, and the response to learn.
//!
//! The prompt is that of Stanford Alpaca (`train.py`), to the letter; so is the rule that only the response and the end token
//! after it count in the loss.

use super::Turn;
use crate::template::{Learned, Message};
use crate::TrainError;

/// One Alpaca record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlpacaRecord {
    /// What to do.
    pub instruction: String,
    /// What to do it with; empty if the instruction says all.
    pub input: String,
    /// The response to learn.
    pub output: String,
}

impl AlpacaRecord {
    /// The record as prompt and response.
    pub fn turn(self) -> Turn {
        Turn {
            prompt: prompt(&self.instruction, &self.input),
            response: self.output,
            learned: Learned::Response,
        }
    }

    /// The record as a conversation: what is to be done with what, and the response.
    pub fn messages(self) -> Vec<Message> {
        let asked = match self.input.is_empty() {
            true => self.instruction,
            false => format!("{}\n\n{}", self.instruction, self.input),
        };
        vec![Message::user(asked), Message::response(self.output)]
    }
}

/// The Stanford Alpaca prompt for an instruction; `input` may be empty.
pub fn prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{instruction}\n\n### Response:"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n\
             ### Response:"
        )
    }
}

/// What comes before a response, of whatever role, as its instruction.
pub(crate) fn instruction(said: &[&str]) -> String {
    said.join("\n\n")
}

/// The prompt of an instruction behind a response; the template is for single turns, and this is how it goes on.
pub(crate) fn next_prompt(instruction: &str) -> String {
    format!("\n\n### Instruction:\n{instruction}\n\n### Response:")
}

/// A conversation in this template. What comes before a response, of whatever role, is its instruction; responses to one instruction are one.
///
/// # Errors
/// A conversation that begins with a response; calls of tools, for which there is no place.
pub(crate) fn turns(messages: &[Message]) -> Result<Vec<Turn>, TrainError> {
    let refused = |what: &str| TrainError::Conversation {
        reason: format!("{what} has no place in Alpaca's template; put a chat_template.jinja beside the model"),
    };
    let mut turns: Vec<Turn> = Vec::new();
    let mut asked = Vec::new();
    for message in messages {
        if message.more.contains_key("tool_calls") {
            return Err(refused("a call of tools"));
        }
        let learned = match message.is_learned() {
            true => Learned::Response,
            false => Learned::Nothing,
        };
        match (message.is_response(), turns.last_mut()) {
            (false, _) => asked.push(message.content.as_str()),
            (true, None) if asked.is_empty() => return Err(refused("a conversation that begins with a response")),
            (true, Some(_)) if asked.is_empty() && !message.says_something() => {}
            (true, Some(turn)) if asked.is_empty() && turn.learned == learned => {
                turn.response += &format!("\n\n{}", message.content)
            }
            (true, last) => {
                let goes_on = asked.is_empty();
                let instruction = instruction(&std::mem::take(&mut asked));
                let prompt = match last {
                    None => prompt(&instruction, ""),
                    // it goes on with what was given
                    Some(_) if goes_on => "\n\n".to_owned(),
                    Some(_) => next_prompt(&instruction),
                };
                turns.push(Turn {
                    prompt,
                    response: message.content.clone(),
                    learned,
                });
            }
        }
    }
    // behind the last response that counts there is nothing to learn
    turns.truncate(
        turns
            .iter()
            .rposition(|turn| turn.learned == Learned::Response)
            .map_or(0, |last| last + 1),
    );
    Ok(turns)
}
