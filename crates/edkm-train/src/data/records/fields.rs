//! The keys of a record, and which of the known shapes they make.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::message::RawMessage;
use super::{Conversation, Record};
use crate::data::alpaca::AlpacaRecord;
use crate::data::{shortened, Turn};
use crate::template::{Learned, Message};

/// The shapes, for messages.
const SHAPES: &str = "\"text\"; \"instruction\", \"input\" and \"output\"; \"instruction\", \"context\" and \"response\"; \"prompt\" and \"completion\"; \
                      \"messages\" of \"role\" and \"content\"; or \"conversations\" of \"from\" and \"value\"";

/// What a record has of the keys that are known.
#[derive(Default)]
pub(super) struct Fields {
    keys: Keys,
    instruction: Option<Option<String>>,
    input: Option<Option<String>>,
    output: Option<Option<String>>,
    context: Option<Loose>,
    response: Option<Loose>,
    prompt: Option<Loose>,
    completion: Option<Loose>,
    text: Option<Loose>,
    messages: Option<(String, Vec<RawMessage>)>,
    beside: Beside,
}

/// What a conversation may have beside its messages. Of other records it may be anything.
#[derive(Default)]
struct Beside {
    system: Option<Value>,
    tools: Option<Value>,
    arguments: Option<Value>,
}

/// Reads a record key by key, so that a message can name the key.
pub(super) struct FieldsSeed;

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {SHAPES}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            fields.keys.add(&key);
            let slot = match key.as_str() {
                "instruction" => &mut fields.instruction,
                "input" => &mut fields.input,
                "output" => &mut fields.output,
                // beside the keys of another shape they may be anything
                "text" | "context" | "response" | "prompt" | "completion" => {
                    let (slot, lists) = match key.as_str() {
                        "text" => (&mut fields.text, Lists::PassedOver),
                        "context" => (&mut fields.context, Lists::PassedOver),
                        "response" => (&mut fields.response, Lists::PassedOver),
                        "prompt" => (&mut fields.prompt, Lists::Kept),
                        _ => (&mut fields.completion, Lists::Kept),
                    };
                    *slot = Some(map.next_value_seed(LooseSeed(lists))?);
                    continue;
                }
                "messages" | "conversations" => {
                    let said = map.next_value().map_err(|why| in_key(&key, &why))?;
                    if let Some((other, _)) = fields.messages.replace((key.clone(), said)) {
                        return Err(A::Error::custom(format_args!(
                            "\"{key}\" and \"{other}\" stand there both"
                        )));
                    }
                    continue;
                }
                "system" | "tools" | "chat_template_kwargs" => {
                    let slot = match key.as_str() {
                        "system" => &mut fields.beside.system,
                        "tools" => &mut fields.beside.tools,
                        _ => &mut fields.beside.arguments,
                    };
                    *slot = Some(map.next_value()?);
                    continue;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            // `null` stands for nothing to work on; for the other two it is an error, as a missing key
            let value = map.next_value::<Option<String>>().map_err(|why| in_key(&key, &why))?;
            if slot.replace(value).is_some() {
                return Err(A::Error::custom(format_args!("\"{key}\" stands there twice")));
            }
        }
        Ok(fields)
    }
}

fn in_key<E: serde::de::Error>(key: &str, why: &E) -> E {
    E::custom(format_args!("\"{key}\": {why}"))
}

impl Fields {
    /// The record that they make.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn record(self) -> Result<Record, String> {
        if let Some((key, raw)) = self.messages {
            if self.instruction.iter().flatten().any(|text| !text.is_empty()) {
                return Err(format!("\"{key}\" and \"instruction\" stand there both"));
            }
            return self.beside.conversation(messages(&key, raw)?);
        }
        match (self.instruction, self.output) {
            (Some(Some(instruction)), Some(Some(output))) => Ok(Record::Alpaca(AlpacaRecord {
                instruction,
                input: self.input.flatten().unwrap_or_default(),
                output,
            })),
            (Some(Some(instruction)), None) if self.response.is_some() => Ok(Record::Alpaca(AlpacaRecord {
                instruction,
                input: match self.context {
                    None | Some(Loose::Null) => self.input.flatten().unwrap_or_default(),
                    Some(context) => context.text("context")?,
                },
                output: self.response.map_or(Ok(String::new()), |said| said.text("response"))?,
            })),
            (None, None) => match (self.prompt, self.completion, self.text) {
                (Some(prompt), Some(completion), _) => completed(prompt, completion, self.beside),
                (.., Some(text)) => Ok(Record::Text(text.text("text")?)),
                (Some(_), None, None) => Err(format!("\"completion\" is missing; {}", self.keys)),
                (None, Some(_), None) => Err(format!("\"prompt\" is missing; {}", self.keys)),
                (None, None, None) => Err(format!("{}; expected {SHAPES}", self.keys)),
            },
            (Some(None), _) => Err("\"instruction\" is null, not a text".to_owned()),
            (_, Some(None)) => Err("\"output\" is null, not a text".to_owned()),
            (None, _) => Err(format!("\"instruction\" is missing; {}", self.keys)),
            (_, None) => Err(format!("\"output\" is missing; {}", self.keys)),
        }
    }
}

impl Beside {
    /// A conversation of these messages, with what stands beside them: a text `system` in front where they begin with none, `tools` as a list or as the text of one,
    /// as TRL takes them, and `chat_template_kwargs`.
    fn conversation(self, mut messages: Vec<Message>) -> Result<Record, String> {
        let begins_with_system = messages.first().is_some_and(|message| message.role == "system");
        match self.system {
            Some(Value::String(system)) if !begins_with_system && !system.is_empty() => {
                messages.insert(0, Message::system(system));
            }
            // beside a message of that role, or no text: some other key of that name
            _ => {}
        }
        let mut given = match self.arguments {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(other) => return Err(format!("\"chat_template_kwargs\" is {other}, not an object")),
        };
        let tools = match self.tools {
            Some(Value::String(text)) => serde_json::from_str(&text).ok(),
            other => other,
        };
        // a list of none is none, and what is no list some other key of that name
        if let Some(Value::Array(tools)) = tools.filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()))
        {
            given.insert("tools".to_owned(), Value::Array(tools));
        }
        Ok(Record::Conversation(Conversation { messages, given }))
    }
}

fn messages(key: &str, raw: Vec<RawMessage>) -> Result<Vec<Message>, String> {
    let messages: Result<_, _> = raw.into_iter().map(RawMessage::message).collect();
    messages.map_err(|why| format!("\"{key}\": {why}"))
}

/// A prompt and its completion: both texts, or both messages.
fn completed(prompt: Loose, completion: Loose, beside: Beside) -> Result<Record, String> {
    let read = |key: &str, list: Vec<Value>| {
        let raw: Result<_, _> = list.into_iter().map(RawMessage::deserialize).collect();
        messages(key, raw.map_err(|why| format!("\"{key}\": {why}"))?)
    };
    match (prompt, completion) {
        (Loose::Text(prompt), Loose::Text(response)) => Ok(Record::Completion(Turn {
            prompt,
            response,
            learned: Learned::Response,
        })),
        (Loose::Messages(prompt), Loose::Messages(completion)) => {
            let (mut all, said) = (read("prompt", prompt)?, read("completion", completion)?);
            all.iter_mut().for_each(|message| message.learned = Learned::Nothing);
            all.extend(said);
            beside.conversation(all)
        }
        (prompt, completion) => Err(format!(
            "\"prompt\" is {} and \"completion\" is {}; expected two texts, or two lists of messages",
            prompt.kind(),
            completion.kind()
        )),
    }
}

/// The first keys of a record, shortened, and how many there are besides.
#[derive(Default)]
struct Keys {
    first: Vec<String>,
    more: usize,
}

impl Keys {
    const NAMED: usize = 6;

    fn add(&mut self, key: &str) {
        match self.first.len() < Self::NAMED {
            true => self.first.push(shortened::quoted(key)),
            false => self.more += 1,
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first.join(", "), self.more) {
            (none, _) if none.is_empty() => f.write_str("the record has no keys"),
            (keys, 0) => write!(f, "the record has the keys {keys}"),
            (keys, more) => write!(f, "the record has the keys {keys} and {more} more"),
        }
    }
}

/// A value that need not be a text, as long as the record is of another shape.
enum Loose {
    Text(String),
    /// A list of objects.
    Messages(Vec<Value>),
    Null,
    /// Something else: what.
    Other(&'static str),
}

impl Loose {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Messages(_) => "a list of objects",
            Self::Null => "null",
            Self::Other(kind) => kind,
        }
    }

    fn text(self, key: &str) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(format!("\"{key}\" is {}, not a text", other.kind())),
        }
    }
}

/// What becomes of lists.
#[derive(Clone, Copy)]
enum Lists {
    /// They are kept if they are of objects.
    Kept,
    /// They are passed over, and take no memory.
    PassedOver,
}

struct LooseSeed(Lists);

impl<'de> DeserializeSeed<'de> for LooseSeed {
    type Value = Loose;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Loose, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LooseSeed {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Loose, E> {
        Ok(Loose::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::Other("a truth value"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose, E> {
        Ok(Loose::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Loose, E> {
        Ok(Loose::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose, A::Error> {
        let mut objects = Vec::new();
        let mut lists = self.0;
        while let Lists::Kept = lists {
            match list.next_element::<Value>()? {
                Some(object) if object.is_object() => objects.push(object),
                Some(_) => lists = Lists::PassedOver,
                None if objects.is_empty() => return Ok(Loose::Other("an empty list")),
                None => return Ok(Loose::Messages(objects)),
            }
        }
        drop(objects);
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other("an object"))
    }
}
