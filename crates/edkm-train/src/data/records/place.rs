//! Where in its file a record, or what is wrong with it, stands.

use std::fmt;

/// A place in a data file. All count from 1; a column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The record of an array; `None` beside all of them, and in a file of one record a line.
    pub record: Option<u64>,
    /// The line of the file.
    pub line: u64,
    /// The character of the line at which reading stopped, where that is known.
    pub column: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.column.map_or(String::new(), |column| format!(", column {column}"));
        match self.record {
            Some(record) => write!(f, "record {record} (line {}{column})", self.line),
            None => write!(f, "line {}{column}", self.line),
        }
    }
}

/// Characters of UTF-8 text.
pub(super) fn characters(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| begins_character(byte)).count() as u64
}

fn begins_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// How far reading is: the line, and what it takes to make characters of a place that is told in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    line: u64,
    /// This line so far, and those before it: of a record that is at fault the brackets are still read, on lines of their own as a rule.
    recent: [Line; 4],
}

#[derive(Clone, Copy, Debug)]
struct Line {
    bytes: u64,
    characters: u64,
}

impl Line {
    const EMPTY: Self = Self {
        bytes: 0,
        characters: 0,
    };
}

impl Cursor {
    /// In front of all text.
    pub(super) const START: Self = Self {
        line: 1,
        recent: [Line::EMPTY; 4],
    };

    /// Behind these bytes.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.line += 1;
                self.recent.rotate_right(1);
                self.recent[0] = Line::EMPTY;
            } else {
                self.recent[0].bytes += 1;
                self.recent[0].characters += u64::from(begins_character(byte));
            }
        }
    }

    /// The line.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Line and column of a character, from its line and the bytes up to its end. Behind it nothing has been read but white space and brackets.
    pub(super) fn place(&self, line: u64, bytes: u64) -> (u64, Option<u64>) {
        // the end of a line belongs to it
        let (line, bytes) = match bytes {
            0 if line > 1 => (line - 1, None),
            bytes => (line.max(1), Some(bytes)),
        };
        let back = usize::try_from(self.line.saturating_sub(line)).ok();
        let read = back.and_then(|back| self.recent.get(back));
        let column = read.map(|read| {
            let behind = bytes.map_or(0, |bytes| read.bytes.saturating_sub(bytes));
            read.characters.saturating_sub(behind)
        });
        (line, column.filter(|&column| column > 0))
    }
}
