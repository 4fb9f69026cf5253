//! Records of published data sets: JSON lines, CSV and label files. Every error names file, line and field.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{files, TrainError};

/// The longest line that is read: the longest of the published files has some ten thousand bytes, and values take more memory than their text.
const LINE_LIMIT: u64 = 1 << 20;

/// The largest CSV file that is read: the largest of MMLU has 2 MB, and a byte may be a column.
const CSV_LIMIT: u64 = 4 << 20;

/// One record, and where it stands.
pub(super) struct Record<'p> {
    pub(super) place: Place<'p>,
    values: Map<String, Value>,
}

/// A line of a file, from 1.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) path: &'p Path,
    pub(super) line: u64,
}

impl Place<'_> {
    pub(super) fn error(self, field: &str, reason: impl Into<String>) -> TrainError {
        TrainError::TaskField {
            path: self.path.to_path_buf(),
            line: self.line,
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// The text of `value`, which stands under `field`.
    pub(super) fn text<'v>(self, field: &str, value: Option<&'v Value>) -> Result<&'v str, TrainError> {
        match value {
            Some(Value::String(text)) => Ok(text),
            None | Some(Value::Null) => Err(self.error(field, "is missing")),
            Some(_) => Err(self.error(field, "is not a text")),
        }
    }

    /// The list in `value`, which stands under `field`.
    pub(super) fn list<'v>(self, field: &str, value: Option<&'v Value>) -> Result<&'v [Value], TrainError> {
        match value {
            Some(Value::Array(list)) if !list.is_empty() => Ok(list),
            None | Some(Value::Null) => Err(self.error(field, "is missing")),
            Some(Value::Array(_)) => Err(self.error(field, "is empty")),
            Some(_) => Err(self.error(field, "is not a list")),
        }
    }

    /// `number` as the number of an answer of `count`, the first being `first`: from 0.
    pub(super) fn answer(self, field: &str, number: u64, first: u64, count: usize) -> Result<usize, TrainError> {
        let index = number.checked_sub(first).map(|index| index as usize);
        index.filter(|&index| index < count).ok_or_else(|| {
            let last = first + count as u64 - 1;
            self.error(field, format!("is {number}; the answers are {first} to {last}"))
        })
    }
}

impl Record<'_> {
    /// What stands under `field`.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.values.get(field)
    }

    /// The text under `field`.
    pub(super) fn text(&self, field: &str) -> Result<&str, TrainError> {
        self.place.text(field, self.get(field))
    }

    /// The list of texts under `field`.
    pub(super) fn texts(&self, field: &str) -> Result<Vec<&str>, TrainError> {
        let list = self.place.list(field, self.get(field))?;
        list.iter().map(|value| self.place.text(field, Some(value))).collect()
    }

    /// The number under `field`, which may be written as a text.
    pub(super) fn number(&self, field: &str) -> Result<u64, TrainError> {
        let number = match self.get(field) {
            None | Some(Value::Null) => return Err(self.place.error(field, "is missing")),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(value) => value.as_u64(),
        };
        number.ok_or_else(|| self.place.error(field, "is not the number of an answer"))
    }

    /// The number of the right answer of `count`, the first being `first`: from `labels` if there are some, else from `field`.
    pub(super) fn gold(
        &self,
        field: &str,
        label: Option<&Label<'_>>,
        first: u64,
        count: usize,
    ) -> Result<usize, TrainError> {
        match label {
            Some(label) => label.place.answer("label", label.number, first, count),
            None if self.get(field).is_none() => Err(self.place.error(
                field,
                "is missing; give the file with the answers (one a line) as labels",
            )),
            None => self.place.answer(field, self.number(field)?, first, count),
        }
    }
}

/// An answer from a label file.
pub(super) struct Label<'p> {
    place: Place<'p>,
    number: u64,
}

/// The records of a file of JSON lines, each made into something with its label. Blank lines are passed over.
pub(super) fn read_lines<T>(
    path: &Path,
    labels: Option<&Path>,
    mut each: impl FnMut(&Record<'_>, Option<&Label<'_>>) -> Result<T, TrainError>,
) -> Result<Vec<T>, TrainError> {
    let labels = match labels {
        Some(labels) => Some((labels, read_labels(labels)?)),
        None => None,
    };
    let mut made = Vec::new();
    for_each_line(path, |line, text| {
        let place = Place { path, line };
        let values = serde_json::from_str(text).map_err(|why| TrainError::TaskLine {
            path: path.to_path_buf(),
            line,
            reason: format!("not a JSON object: {why}"),
        })?;
        let label = match &labels {
            None => None,
            Some((file, labels)) => Some(labels.get(made.len()).ok_or_else(|| TrainError::TaskFile {
                path: file.to_path_buf(),
                reason: format!(
                    "{} labels, but {} has more records; the two files do not belong together",
                    labels.len(),
                    path.display()
                ),
            })?),
        };
        made.push(each(&Record { place, values }, label)?);
        Ok(())
    })?;
    match labels {
        Some((file, labels)) if labels.len() != made.len() => Err(TrainError::TaskFile {
            path: file.to_path_buf(),
            reason: format!(
                "{} labels, but {} has {} records; the two files do not belong together",
                labels.len(),
                path.display(),
                made.len()
            ),
        }),
        _ => Ok(made),
    }
}

/// One number a line.
fn read_labels(path: &Path) -> Result<Vec<Label<'_>>, TrainError> {
    let mut labels = Vec::new();
    for_each_line(path, |line, text| {
        let place = Place { path, line };
        let number = text
            .trim()
            .parse()
            .map_err(|_| place.error("label", "is not the number of an answer"))?;
        labels.push(Label { place, number });
        Ok(())
    })?;
    Ok(labels)
}

fn for_each_line(path: &Path, mut each: impl FnMut(u64, &str) -> Result<(), TrainError>) -> Result<(), TrainError> {
    let mut reader = files::without_mark(path, BufReader::new(files::open(path)?))?;
    let (mut bytes, mut number) = (Vec::new(), 0);
    loop {
        bytes.clear();
        let read = (&mut reader).take(LINE_LIMIT + 1).read_until(b'\n', &mut bytes);
        if read.map_err(TrainError::io("read", path))? == 0 {
            return Ok(());
        }
        number += 1;
        if bytes.len() as u64 > LINE_LIMIT {
            return Err(TrainError::TooLarge {
                path: path.to_path_buf(),
                what: format!("line {number}"),
                limit: LINE_LIMIT,
            });
        }
        let text = std::str::from_utf8(&bytes).map_err(|why| TrainError::TaskLine {
            path: path.to_path_buf(),
            line: number,
            reason: format!("not UTF-8 at byte {} of the line", why.valid_up_to()),
        })?;
        if !text.trim().is_empty() {
            each(number, text)?;
        }
    }
}

/// The rows of a CSV file without a header: `each` is given the row's fields.
pub(super) fn read_csv<T>(
    path: &Path,
    mut each: impl FnMut(Place<'_>, &csv::StringRecord) -> Result<T, TrainError>,
) -> Result<Vec<T>, TrainError> {
    let bytes = files::read_capped(path, CSV_LIMIT)?;
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes.as_slice());
    let mut made = Vec::new();
    let mut row = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut row) {
            Ok(false) => return Ok(made),
            Ok(true) => {
                let line = row.position().map_or(line, csv::Position::line);
                made.push(each(Place { path, line }, &row)?);
            }
            Err(why) => {
                return Err(TrainError::TaskLine {
                    path: path.to_path_buf(),
                    line,
                    reason: format!("not CSV: {why}"),
                })
            }
        }
    }
}

/// The files of `path` that end in `.csv`, by name, if it is a folder; else itself.
pub(super) fn csv_files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(TrainError::io("read", path))? {
        let file = entry.map_err(TrainError::io("read", path))?.path();
        if file.extension().is_some_and(|ending| ending == "csv") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
