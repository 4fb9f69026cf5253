//! Records of data files: Alpaca's, or conversations.
//!
//! They are read one at a time: neither a huge array nor a deep one can fill the memory.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::alpaca::AlpacaRecord;
use super::DOCUMENT_LIMIT;
use crate::template::Message;
use crate::{files, TrainError};

/// One record of a data file. Other keys of a record are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// With `instruction`, `input` and `output`.
    Alpaca(AlpacaRecord),
    /// With `messages` of `role` and `content`, or `conversations` of `from` and `value`; at least one is the assistant's.
    Conversation(Vec<Message>),
    /// With `text` alone, which counts as a whole.
    Text(String),
}

/// Calls `each` with every record of a `.json` file, which holds one array of records.
///
/// # Errors
/// [`TrainError::Record`] with the record's number and the key at fault, [`TrainError::TooLarge`] for a record over 16 MiB,
/// an unreadable file, or what `each` gives.
pub fn for_each_in_array(path: &Path, each: impl FnMut(Record) -> Result<(), TrainError>) -> Result<(), TrainError> {
    read_array(path, without_mark(path, BufReader::new(files::open(path)?))?, each)
}

/// Calls `each` with every record of a `.jsonl` file, which holds one record a line. Blank lines are passed over.
///
/// # Errors
/// As [`for_each_in_array`].
pub fn for_each_line(path: &Path, each: impl FnMut(Record) -> Result<(), TrainError>) -> Result<(), TrainError> {
    read_lines(path, without_mark(path, BufReader::new(files::open(path)?))?, each)
}

/// Behind the mark that some programs put in front of UTF-8.
fn without_mark<R: BufRead>(path: &Path, mut reader: R) -> Result<R, TrainError> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let begins = reader.fill_buf().map_err(TrainError::io("read", path))?;
    if begins.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(reader)
}

fn read_array(
    path: &Path,
    reader: impl BufRead,
    each: impl FnMut(Record) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let allowance = Cell::new(Some(DOCUMENT_LIMIT));
    let mut walk = ArrayWalk {
        allowance: &allowance,
        each,
        record: 0,
        stopped: None,
    };
    let mut json = serde_json::Deserializer::from_reader(Limited {
        inner: reader,
        allowance: &allowance,
    });
    let result = json.deserialize_seq(&mut walk).and_then(|()| json.end());
    match walk.stopped {
        Some(error) => Err(error),
        // What fails inside a value reaches us as text only, so the reader itself is asked whether it stopped.
        None if allowance.get().is_none() => Err(record_too_large(path, walk.record)),
        None => result.map_err(|why| record_error(path, walk.record, &why)),
    }
}

fn read_lines(
    path: &Path,
    mut reader: impl BufRead,
    mut each: impl FnMut(Record) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (mut line, mut record) = (Vec::new(), 0);
    loop {
        line.clear();
        let length = (&mut reader).take(DOCUMENT_LIMIT + 1).read_until(b'\n', &mut line);
        if length.map_err(TrainError::io("read", path))? == 0 {
            return Ok(());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        record += 1;
        if line.len() as u64 > DOCUMENT_LIMIT {
            return Err(record_too_large(path, record));
        }
        let mut json = serde_json::Deserializer::from_slice(&line);
        let parsed = RecordSeed
            .deserialize(&mut json)
            .and_then(|parsed| json.end().map(|()| parsed));
        each(parsed.map_err(|why| record_error(path, record, &why))?)?;
    }
}

fn record_error(path: &Path, record: u64, why: &serde_json::Error) -> TrainError {
    let path = path.to_path_buf();
    match why.io_error_kind() {
        Some(kind) => TrainError::Io {
            action: "read",
            path,
            source: kind.into(),
        },
        None => TrainError::Record {
            path,
            record,
            reason: why.to_string(),
        },
    }
}

fn record_too_large(path: &Path, record: u64) -> TrainError {
    TrainError::TooLarge {
        path: path.to_path_buf(),
        what: format!("record {record}"),
        limit: DOCUMENT_LIMIT,
    }
}

/// A reader that fails, and leaves no allowance, once more bytes have been read than were allowed.
struct Limited<'a, R> {
    inner: R,
    allowance: &'a Cell<Option<u64>>,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.allowance
            .set(self.allowance.get().and_then(|left| left.checked_sub(read as u64)));
        self.allowance
            .get()
            .map(|_| read)
            .ok_or(std::io::ErrorKind::FileTooLarge.into())
    }
}

/// Walks the array and hands each record on, so that only one is in memory.
struct ArrayWalk<'a, F> {
    allowance: &'a Cell<Option<u64>>,
    each: F,
    /// The record being read, from 1; 0 before the first.
    record: u64,
    /// The receiver's own error, if that is what ended the walk.
    stopped: Option<TrainError>,
}

impl<'de, F: FnMut(Record) -> Result<(), TrainError>> Visitor<'de> for &mut ArrayWalk<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of records (one record a line belongs in a .jsonl file)")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        loop {
            self.allowance.set(Some(DOCUMENT_LIMIT));
            self.record += 1;
            let Some(record) = array.next_element_seed(RecordSeed)? else {
                return Ok(());
            };
            if let Err(error) = (self.each)(record) {
                self.stopped = Some(error);
                return Err(A::Error::custom("stopped by the receiver"));
            }
        }
    }
}

/// Reads one record key by key, so that a message can name the key.
struct RecordSeed;

impl<'de> DeserializeSeed<'de> for RecordSeed {
    type Value = Record;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed {
    type Value = Record;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with \"instruction\", \"input\" and \"output\", with \"messages\", or with \"text\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let (mut instruction, mut input, mut output) = (None, None, None);
        let mut text = None;
        let mut messages: Option<(String, Vec<RawMessage>)> = None;
        while let Some(key) = map.next_key::<String>()? {
            let slot = match key.as_str() {
                "instruction" => &mut instruction,
                "input" => &mut input,
                "output" => &mut output,
                // beside other keys it may be anything
                "text" => {
                    text = Some(map.next_value::<Value>()?);
                    continue;
                }
                "messages" | "conversations" => {
                    let said = map.next_value().map_err(|why| in_key(&key, &why))?;
                    if let Some((other, _)) = messages.replace((key.clone(), said)) {
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
            // `null` stands for nothing to work on; for the other two it is an error below, as a missing key.
            let value = map.next_value::<Option<String>>().map_err(|why| in_key(&key, &why))?;
            if slot.replace(value).is_some() {
                return Err(A::Error::custom(format_args!("\"{key}\" stands there twice")));
            }
        }
        match messages {
            None => {}
            Some((key, _)) if instruction.iter().flatten().any(|text| !text.is_empty()) => {
                return Err(A::Error::custom(format_args!(
                    "\"{key}\" and \"instruction\" stand there both"
                )))
            }
            Some((key, raw)) => {
                let messages: Result<Vec<Message>, _> = raw.into_iter().map(RawMessage::message).collect();
                let messages = messages.map_err(|why| A::Error::custom(format_args!("\"{key}\": {why}")))?;
                return match messages.iter().any(Message::is_response) {
                    true => Ok(Record::Conversation(messages)),
                    false => Err(A::Error::custom(format_args!(
                        "\"{key}\" has no message of the assistant, so there is nothing to learn"
                    ))),
                };
            }
        }
        if let (Some(Value::String(text)), None, None) = (text, &instruction, &output) {
            return match text.trim().is_empty() {
                true => Err(A::Error::custom("\"text\" is empty")),
                false => Ok(Record::Text(text)),
            };
        }
        let required = |key: &str, value: Option<Option<String>>| {
            value
                .flatten()
                .ok_or_else(|| A::Error::custom(format_args!("\"{key}\" is missing")))
        };
        Ok(Record::Alpaca(AlpacaRecord {
            instruction: required("instruction", instruction)?,
            input: input.flatten().unwrap_or_default(),
            output: required("output", output)?,
        }))
    }
}

fn in_key<E: serde::de::Error>(key: &str, why: &E) -> E {
    E::custom(format_args!("\"{key}\": {why}"))
}

/// A message as files have it.
#[derive(Deserialize)]
struct RawMessage {
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
    fn message(mut self) -> Result<Message, &'static str> {
        self.more.retain(|_, value| !value.is_null());
        let role = match self.role.to_lowercase().as_str() {
            "human" => "user".to_owned(),
            "gpt" | "chatgpt" | "model" | "bot" => Message::ASSISTANT.to_owned(),
            role => role.to_owned(),
        };
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().map(|part| part.text).collect(),
            None if self.more.contains_key("tool_calls") => String::new(),
            None => return Err("a message has no content"),
        };
        Ok(Message {
            role,
            content,
            more: self.more,
        })
    }
}

#[cfg(test)]
mod tests;
