//! Alpaca records: an instruction, possibly an input, and the response to learn.
//!
//! The prompt is that of Stanford Alpaca (`train.py`), to the letter; so is the rule that only the response and the end token
//! after it count in the loss.

use super::Turn;
use crate::template::Message;
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

/// What begins the instruction of a further turn.
pub(crate) const NEXT_INSTRUCTION: &str = "\n\n### Instruction:\n";

/// The prompt of an instruction behind a response; the template is for single turns, and this is how it goes on.
pub(crate) fn next_prompt(instruction: &str) -> String {
    format!("{NEXT_INSTRUCTION}{instruction}\n\n### Response:")
}

/// A conversation in this template. What comes before a response, of whatever role, is its instruction.
///
/// # Errors
/// A response to nothing.
pub(crate) fn turns(messages: &[Message]) -> Result<Vec<Turn>, TrainError> {
    let (mut turns, mut asked) = (Vec::new(), Vec::new());
    for message in messages {
        if !message.is_response() {
            asked.push(message.content.as_str());
            continue;
        }
        if asked.is_empty() {
            return Err(TrainError::Conversation {
                reason: "a response of the assistant has no message before it".to_owned(),
            });
        }
        let instruction = std::mem::take(&mut asked).join("\n\n");
        turns.push(Turn {
            prompt: match turns.is_empty() {
                true => prompt(&instruction, ""),
                false => next_prompt(&instruction),
            },
            response: message.content.clone(),
        });
    }
    Ok(turns)
}
