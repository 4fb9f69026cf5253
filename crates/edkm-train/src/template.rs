//! How instructions and conversations become text: the chat template of the model, or Alpaca's where it has none.

mod chat_template;
mod python_json;

use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

pub use chat_template::{ChatTemplate, Goes};

use crate::data::alpaca;
use crate::data::records::Record;
use crate::data::Document;
use crate::TrainError;

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`, as chat templates know them.
    pub role: String,
    /// The text.
    pub content: String,
    /// What is learned of it.
    pub learned: Learned,
    /// What else a record has of it, for templates that know it: `reasoning_content`, `tool_calls` and others.
    pub more: Map<String, Value>,
}

/// As templates are given it: what `more` has as its content is that, if it has one.
impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", &self.role)?;
        match self.more.get(Self::CONTENT) {
            None => map.serialize_entry(Self::CONTENT, &self.content)?,
            Some(other) => map.serialize_entry(Self::CONTENT, other)?,
        }
        for (key, value) in self.more.iter().filter(|(key, _)| *key != Self::CONTENT) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// What is learned of a message, or of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learned {
    /// What the model says in it.
    #[default]
    Response,
    /// Nothing: all of it is given.
    Nothing,
}

impl Message {
    /// Where a record has the text.
    pub(crate) const CONTENT: &'static str = "content";

    /// The role whose messages are learned.
    pub const ASSISTANT: &'static str = "assistant";

    /// The roles that templates know. What any other says is of the prompt.
    pub const ROLES: [&str; 9] = [
        Self::ASSISTANT,
        "developer",
        "environment",
        "function",
        "ipython",
        "observation",
        "system",
        "tool",
        "user",
    ];

    fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
            learned: Learned::Response,
            more: Map::new(),
        }
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model is to be.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the model says.
    pub fn response(content: impl Into<String>) -> Self {
        Self::new(Self::ASSISTANT, content)
    }

    /// Whether the model says it.
    pub fn is_response(&self) -> bool {
        self.role == Self::ASSISTANT
    }

    /// Whether it counts in the loss: what the model is to say, unless it is nothing.
    pub fn is_learned(&self) -> bool {
        self.is_response() && self.learned == Learned::Response && self.says_something()
    }

    /// Whether there is anything in it: a text, a thought or a call.
    pub(crate) fn says_something(&self) -> bool {
        let beside = ["tool_calls", "reasoning_content", "thinking"];
        !self.content.trim().is_empty() || beside.iter().any(|key| self.more.contains_key(*key))
    }
}

/// How instructions and conversations become text.
#[derive(Clone, Debug, Default)]
pub enum Template {
    /// That of Stanford Alpaca.
    #[default]
    Alpaca,
    /// The model's own.
    Chat(Arc<ChatTemplate>),
}

impl Template {
    /// Which it is, for people.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Alpaca => "as Stanford Alpaca's prompts: the model has no chat template".to_owned(),
            Self::Chat(template) => format!("in the template of {}", template.path().display()),
        }
    }

    /// A record as what is learned from: one document, or more where the template writes a conversation otherwise once it goes on.
    ///
    /// # Errors
    /// A conversation that the template does not take.
    pub fn documents(&self, record: Record) -> Result<Vec<Document>, TrainError> {
        match (self, record) {
            (_, Record::Text(text)) => Ok(vec![Document::Whole(text)]),
            (_, Record::Completion(turn)) => Ok(vec![Document::Turns(vec![turn])]),
            (Self::Alpaca, Record::Alpaca(record)) => Ok(vec![Document::Turns(vec![record.turn()])]),
            (Self::Alpaca, Record::Conversation(conversation)) => {
                Ok(vec![Document::Turns(alpaca::turns(&conversation.messages)?)])
            }
            (Self::Chat(template), Record::Alpaca(record)) => template.documents(&record.messages().into()),
            (Self::Chat(template), Record::Conversation(conversation)) => template.documents(&conversation),
        }
    }
}
