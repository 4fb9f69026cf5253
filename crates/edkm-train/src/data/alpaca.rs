//! Alpaca records: an instruction, possibly an input, and the response to learn.
//!
//! The prompt is that of Stanford Alpaca (`train.py`), to the letter; so is the rule that only the response and the end token
//! after it count in the loss. Records are read one at a time: neither a huge array nor a deep one can fill the memory.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Document, DOCUMENT_LIMIT};
use crate::{files, TrainError};

/// One record of an Alpaca file. Other keys of a record are passed over.
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
    pub fn document(self) -> Document {
        Document::Response {
            prompt: prompt(&self.instruction, &self.input),
            response: self.output,
        }
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

/// Calls `each` with every record of a `.json` file, which holds one array of records.
///
/// # Errors
/// [`TrainError::Record`] with the record's number and the key at fault, [`TrainError::TooLarge`] for a record over 16 MiB,
/// an unreadable file, or what `each` gives.
pub fn for_each_in_array(
    path: &Path,
    each: impl FnMut(AlpacaRecord) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    read_array(path, BufReader::new(files::open(path)?), each)
}

/// Calls `each` with every record of a `.jsonl` file, which holds one record a line. Blank lines are passed over.
///
/// # Errors
/// As [`for_each_in_array`].
pub fn for_each_line(path: &Path, each: impl FnMut(AlpacaRecord) -> Result<(), TrainError>) -> Result<(), TrainError> {
    read_lines(path, BufReader::new(files::open(path)?), each)
}

fn read_array(
    path: &Path,
    reader: impl BufRead,
    each: impl FnMut(AlpacaRecord) -> Result<(), TrainError>,
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
    mut each: impl FnMut(AlpacaRecord) -> Result<(), TrainError>,
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

impl<'de, F: FnMut(AlpacaRecord) -> Result<(), TrainError>> Visitor<'de> for &mut ArrayWalk<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of Alpaca records (one record a line belongs in a .jsonl file)")
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
    type Value = AlpacaRecord;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<AlpacaRecord, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed {
    type Value = AlpacaRecord;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with \"instruction\", \"input\" and \"output\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AlpacaRecord, A::Error> {
        let (mut instruction, mut input, mut output) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let slot = match key.as_str() {
                "instruction" => &mut instruction,
                "input" => &mut input,
                "output" => &mut output,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            // `null` stands for nothing to work on; for the other two it is an error below, as a missing key.
            let value = map.next_value::<Option<String>>();
            let value = value.map_err(|why| A::Error::custom(format_args!("\"{key}\": {why}")))?;
            if slot.replace(value).is_some() {
                return Err(A::Error::custom(format_args!("\"{key}\" stands there twice")));
            }
        }
        let required = |key: &str, value: Option<Option<String>>| {
            value
                .flatten()
                .ok_or_else(|| A::Error::custom(format_args!("\"{key}\" is missing")))
        };
        Ok(AlpacaRecord {
            instruction: required("instruction", instruction)?,
            input: input.flatten().unwrap_or_default(),
            output: required("output", output)?,
        })
    }
}

#[cfg(test)]
mod tests;
