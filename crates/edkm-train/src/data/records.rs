//! Records of data files: texts, prompts with completions, Alpaca's and Dolly's, or conversations.
//!
//! They are read one at a time: neither a huge array nor a deep one can fill the memory.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::{Map, Value};

use self::fields::{Fields, FieldsSeed};
use self::place::{characters, Cursor};
use super::alpaca::AlpacaRecord;
use super::{shortened, Turn, DOCUMENT_LIMIT};
use crate::template::Message;
use crate::{files, TrainError};

mod fields;
mod message;
mod place;

pub use place::Place;

/// The names that an array of records may have in a `.json` file.
pub const LISTS: [&str; 2] = ["data", "train"];

/// One record of a data file. Other keys of a record are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// With `instruction`, `input` and `output`, or with Dolly's `instruction`, `context` and `response`.
    Alpaca(AlpacaRecord),
    /// With `messages` of `role` and `content`, or `conversations` of `from` and `value`; at least one is the assistant's.
    ///
    /// Or with `prompt` and `completion` as messages; what the prompt has of the assistant is not learned then.
    /// `tools`, `chat_template_kwargs` and a `system` text beside them are kept.
    Conversation(Conversation),
    /// With `prompt` and `completion` as texts, which stand one behind the other, in no template.
    Completion(Turn),
    /// With `text` alone, which counts as a whole.
    Text(String),
}

/// What several say, and what its template is given besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// What is said, in order.
    pub messages: Vec<Message>,
    /// What else a template may ask for, by name: `tools`, the functions that can be called, and what `chat_template_kwargs` has.
    pub given: Map<String, Value>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self {
            messages,
            given: Map::new(),
        }
    }
}

impl Record {
    /// The first role of a message that templates do not know.
    pub(super) fn unknown_role(&self) -> Option<&str> {
        let Self::Conversation(conversation) = self else {
            return None;
        };
        let mut roles = conversation.messages.iter().map(|message| message.role.as_str());
        roles.find(|role| !Message::ROLES.contains(role))
    }

    /// Whether it has something for its template besides messages.
    pub(super) fn is_given_something(&self) -> bool {
        matches!(self, Self::Conversation(conversation) if !conversation.given.is_empty())
    }

    /// Whether a template says how it is written.
    pub(super) fn needs_template(&self) -> bool {
        matches!(self, Self::Alpaca(_) | Self::Conversation(_))
    }

    /// Whether there is anything in it that counts.
    pub fn is_learned(&self) -> bool {
        let says_something = |text: &str| !text.trim().is_empty();
        match self {
            Self::Text(text) => says_something(text),
            Self::Alpaca(record) => says_something(&record.output),
            Self::Completion(turn) => says_something(&turn.response),
            Self::Conversation(conversation) => conversation.messages.iter().any(Message::is_learned),
        }
    }
}

/// Calls `each` with every record of a `.json` file, which holds one array of records, and where it begins. The array
/// may be in an object, under one of [`LISTS`].
///
/// # Errors
/// [`TrainError::Record`] with the record's place and the key at fault, [`TrainError::LargeDocument`] for a record over 16 MiB,
/// an unreadable file, or what `each` gives.
pub fn for_each_in_array(
    path: &Path,
    each: impl FnMut(Record, Place) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    read_array(path, BufReader::new(files::open(path)?), each)
}

/// Calls `each` with every record of a `.jsonl` file, which holds one record a line, and its place. Blank lines are passed over.
///
/// # Errors
/// As [`for_each_in_array`].
pub fn for_each_line(path: &Path, each: impl FnMut(Record, Place) -> Result<(), TrainError>) -> Result<(), TrainError> {
    read_lines(path, BufReader::new(files::open(path)?), each)
}

/// [`for_each_in_array`] of what a reader has.
pub(super) fn read_array(
    path: &Path,
    reader: impl BufRead,
    each: impl FnMut(Record, Place) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let reader = files::without_mark(path, reader)?;
    let progress = Progress::default();
    let mut walk = ArrayWalk {
        path,
        progress: &progress,
        each,
        stopped: None,
    };
    let mut json = serde_json::Deserializer::from_reader(Limited {
        inner: reader,
        progress: &progress,
    });
    let result = json.deserialize_any(&mut walk).and_then(|()| json.end());
    match walk.stopped {
        Some(error) => Err(error),
        // What fails inside a value reaches us as text only, so the reader itself is asked whether it stopped.
        None if progress.allowance.get().is_none() => Err(too_large(path, progress.what())),
        None => result.map_err(|why| parse_error(path, progress.place_of(&why), &why)),
    }
}

/// [`for_each_line`] of what a reader has.
pub(super) fn read_lines(
    path: &Path,
    reader: impl BufRead,
    mut each: impl FnMut(Record, Place) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut reader = files::without_mark(path, reader)?;
    let mut line = Vec::new();
    let mut place = Place {
        record: None,
        line: 0,
        column: None,
    };
    loop {
        line.clear();
        let length = (&mut reader).take(DOCUMENT_LIMIT + 1).read_until(b'\n', &mut line);
        if length.map_err(TrainError::io("read", path))? == 0 {
            return Ok(());
        }
        place.line += 1;
        if line.len() as u64 > DOCUMENT_LIMIT {
            return Err(too_large(path, place.to_string()));
        }
        let record = line.trim_ascii_end();
        if record.is_empty() {
            continue;
        }
        let mut json = serde_json::Deserializer::from_slice(record);
        let parsed = FieldsSeed
            .deserialize(&mut json)
            .and_then(|parsed| json.end().map(|()| parsed));
        let fields = parsed.map_err(|why| {
            let column = characters(&record[..why.column().min(record.len())]);
            let column = (column > 0).then_some(column);
            parse_error(path, Place { column, ..place }, &why)
        })?;
        each(whole(path, place, fields)?, place)?;
    }
}

/// The record that fields make.
fn whole(path: &Path, place: Place, fields: Fields) -> Result<Record, TrainError> {
    fields
        .record()
        .map_err(|reason| TrainError::record(path, place, &reason))
}

fn parse_error(path: &Path, place: Place, why: &serde_json::Error) -> TrainError {
    if let Some(kind) = why.io_error_kind() {
        return TrainError::io("read", path)(kind.into());
    }
    // its own place is one within the line, or of the character behind a value
    let own = format!(" at line {} column {}", why.line(), why.column());
    let reason = why.to_string();
    TrainError::record(path, place, reason.strip_suffix(&own).unwrap_or(&reason))
}

impl TrainError {
    /// What is wrong with a record; values in `reason` are cut.
    pub(super) fn record(path: &Path, place: Place, reason: &str) -> Self {
        Self::Record {
            path: path.to_path_buf(),
            place,
            reason: shortened::message(reason),
        }
    }
}

fn too_large(path: &Path, what: String) -> TrainError {
    TrainError::LargeDocument {
        path: path.to_path_buf(),
        what,
        limit: DOCUMENT_LIMIT,
        advice: "make several records of it",
    }
}

/// How far the reading of an array is.
struct Progress {
    /// Bytes that the present record may still take; `None` once it took more.
    allowance: Cell<Option<u64>>,
    cursor: Cell<Cursor>,
    /// Records that have begun.
    begun: Cell<u64>,
    /// The line on which the present record begins; `None` between records.
    begins: Cell<Option<u64>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            allowance: Cell::new(Some(DOCUMENT_LIMIT)),
            cursor: Cell::new(Cursor::START),
            begun: Cell::new(0),
            begins: Cell::new(None),
        }
    }
}

impl Progress {
    fn record(&self) -> Option<u64> {
        self.begins.get().map(|_| self.begun.get())
    }

    /// Where the present record begins; between records, where reading is.
    fn place(&self) -> Place {
        Place {
            record: self.record(),
            line: self.begins.get().unwrap_or(self.cursor.get().line()),
            column: None,
        }
    }

    /// Where the JSON is at fault.
    fn place_of(&self, why: &serde_json::Error) -> Place {
        let (line, column) = self.cursor.get().place(why.line() as u64, why.column() as u64);
        Place {
            record: self.record(),
            line,
            column,
        }
    }

    /// What is read.
    fn what(&self) -> String {
        match self.begins.get() {
            Some(_) => self.place().to_string(),
            None => format!("what stands before record {}", self.begun.get() + 1),
        }
    }
}

/// A reader that fails, and leaves no allowance, once more bytes have been read than were allowed.
struct Limited<'a, R> {
    inner: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Progress { allowance, cursor, .. } = self.progress;
        let read = self.inner.read(buffer)?;
        let mut passed = cursor.get();
        passed.pass(&buffer[..read]);
        cursor.set(passed);
        allowance.set(allowance.get().and_then(|left| left.checked_sub(read as u64)));
        allowance
            .get()
            .map(|_| read)
            .ok_or(std::io::ErrorKind::FileTooLarge.into())
    }
}

/// Walks the array and hands each record on, so that only one is in memory.
struct ArrayWalk<'a, F> {
    path: &'a Path,
    progress: &'a Progress,
    each: F,
    /// What ended the walk, if it was not the JSON.
    stopped: Option<TrainError>,
}

impl<'de, F: FnMut(Record, Place) -> Result<(), TrainError>> Visitor<'de> for &mut ArrayWalk<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [data, train] = LISTS;
        write!(
            f,
            "an array of records, or an object with one as \"{data}\" or \"{train}\" (one record a line belongs in a .jsonl file)"
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = None;
        loop {
            self.progress.allowance.set(Some(DOCUMENT_LIMIT));
            let Some(key) = map.next_key::<String>()? else {
                break;
            };
            match (LISTS.contains(&key.as_str()), &found) {
                (true, None) => {
                    map.next_value_seed(&mut *self)?;
                    found = Some(key);
                }
                (true, Some(other)) => {
                    return Err(A::Error::custom(format_args!(
                        "\"{key}\" and \"{other}\" stand there both"
                    )))
                }
                (false, _) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match found {
            Some(_) => Ok(()),
            None => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        loop {
            self.progress.allowance.set(Some(DOCUMENT_LIMIT));
            let Some(fields) = array.next_element_seed(Element(self.progress))? else {
                return Ok(());
            };
            let place = self.progress.place();
            let taken = whole(self.path, place, fields).and_then(|record| (self.each)(record, place));
            self.progress.begins.set(None);
            if let Err(error) = taken {
                self.stopped = Some(error);
                return Err(A::Error::custom("stopped"));
            }
        }
    }
}

impl<'de, F: FnMut(Record, Place) -> Result<(), TrainError>> DeserializeSeed<'de> for &mut ArrayWalk<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

/// A record of an array, whose first character has been read when it begins.
struct Element<'a>(&'a Progress);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        self.0.begun.set(self.0.begun.get() + 1);
        self.0.begins.set(Some(self.0.cursor.get().line()));
        FieldsSeed.deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests;
