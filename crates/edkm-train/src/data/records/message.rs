//! The messages of conversations, as files have them.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::template::{Learned, Message};

/// A message as files have it.
#[derive(Deserialize)]
#[serde(expecting = "a message, which has \"role\" and \"content\", or \"from\" and \"value\"")]
pub(super) struct RawMessage {
    #[serde(alias = "from")]
    role: String,
    #[serde(alias = "value")]
    content: Option<Content>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a message's content is a text, or a list of parts with \"text\""
)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: String,
}

impl RawMessage {
    /// The message; what is wrong with it if it says nothing.
    pub(super) fn message(mut self) -> Result<Message, &'static str> {
        // an empty list of calls is none
        let says_nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        self.more.retain(|_, value| !says_nothing(value));
        let role = match self.role.to_lowercase().as_str() {
            "human" => "user".to_owned(),
            "gpt" | "chatgpt" | "model" | "bot" => Message::ASSISTANT.to_owned(),
            role => role.to_owned(),
        };
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().map(|part| part.text).collect(),
            None if self.more.contains_key("tool_calls") => {
                // a template may ask whether there is one
                self.more.insert(Message::CONTENT.to_owned(), Value::Null);
                String::new()
            }
            None => return Err("a message has no content"),
        };
        // as OpenAI's fine-tuning has it: 0 for what is not learned, else 1
        let learned = match self.more.remove("weight").and_then(|weight| weight.as_f64()) {
            Some(0.0) => Learned::Nothing,
            _ => Learned::Response,
        };
        Ok(Message {
            role,
            content,
            learned,
            more: self.more,
        })
    }
}
