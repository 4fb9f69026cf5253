//! The keys of a record, and which of the known shapes they make.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;

use super::message::RawMessage;
use super::Record;
use crate::data::alpaca::AlpacaRecord;
use crate::data::shortened;
use crate::template::Message;

/// The shapes, for messages.
const SHAPES: &str =
    "\"text\"; \"instruction\", \"input\" and \"output\"; \"messages\" of \"role\" and \"content\"; or \"conversations\" of \"from\" and \"value\"";

/// What a record has of the keys that are known.
#[derive(Default)]
pub(super) struct Fields {
    keys: Keys,
    instruction: Option<Option<String>>,
    input: Option<Option<String>>,
    output: Option<Option<String>>,
    text: Option<Loose>,
    messages: Option<(String, Vec<RawMessage>)>,
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
                // beside other keys it may be anything
                "text" => {
                    fields.text = Some(map.next_value()?);
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
            let messages: Result<Vec<Message>, _> = raw.into_iter().map(RawMessage::message).collect();
            let messages = messages.map_err(|why| format!("\"{key}\": {why}"))?;
            return match messages.iter().any(Message::is_response) {
                true => Ok(Record::Conversation(messages)),
                false => Err(format!(
                    "\"{key}\" has no message of the assistant, so there is nothing to learn"
                )),
            };
        }
        match (self.instruction, self.output, self.text) {
            (Some(Some(instruction)), Some(Some(output)), _) => Ok(Record::Alpaca(AlpacaRecord {
                instruction,
                input: self.input.flatten().unwrap_or_default(),
                output,
            })),
            (None, None, Some(Loose::Text(text))) => match text.trim().is_empty() {
                true => Err("\"text\" is empty".to_owned()),
                false => Ok(Record::Text(text)),
            },
            (None, None, Some(Loose::Other(kind))) => Err(format!("\"text\" is {kind}, not a text")),
            (None, None, None) => Err(format!("{}; expected {SHAPES}", self.keys)),
            (Some(None), ..) => Err("\"instruction\" is null, not a text".to_owned()),
            (_, Some(None), _) => Err("\"output\" is null, not a text".to_owned()),
            (None, ..) => Err(format!("\"instruction\" is missing; {}", self.keys)),
            (_, None, _) => Err(format!("\"output\" is missing; {}", self.keys)),
        }
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
    /// Something else: what.
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
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
        Ok(Loose::Other("null"))
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
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other("an object"))
    }
}
