//! Plain text: documents split at blank lines, read line by line so that a file larger than memory is no problem.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::DOCUMENT_LIMIT;
use crate::{files, TrainError};

/// Calls `each` with every document of a text file, in order.
///
/// A line is blank when it is empty or only white space. Line ends of Windows become `\n`, a byte order mark at the start
/// is dropped, and white space at the end of a document goes; nothing else is changed.
///
/// # Errors
/// [`TrainError::NotUtf8`] with the offset of the byte, [`TrainError::LargeDocument`] for a document over 16 MiB, an unreadable
/// file, or what `each` gives.
pub fn for_each(path: &Path, each: impl FnMut(String) -> Result<(), TrainError>) -> Result<(), TrainError> {
    read(path, BufReader::new(files::open(path)?), each)
}

/// The documents of a text in memory, by the rule of [`for_each`].
pub fn split(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut document = String::new();
        for line in lines.by_ref() {
            if !line.trim().is_empty() {
                document.push_str(line);
                document.push('\n');
            } else if !document.is_empty() {
                break;
            }
        }
        finish(&mut document)
    })
}

/// [`for_each`] of what a reader has.
pub(super) fn read(
    path: &Path,
    mut reader: impl BufRead,
    mut each: impl FnMut(String) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (mut line, mut document) = (Vec::new(), String::new());
    let (mut offset, mut begins_at) = (0u64, 0u64);
    loop {
        line.clear();
        // One byte over the limit tells a line that is too long from one that just fits.
        let length = (&mut reader).take(DOCUMENT_LIMIT + 1).read_until(b'\n', &mut line);
        let length = length.map_err(TrainError::io("read", path))? as u64;
        if document.is_empty() {
            begins_at = offset;
        }
        if document.len() as u64 + length > DOCUMENT_LIMIT {
            return Err(TrainError::LargeDocument {
                path: path.to_path_buf(),
                what: format!("the document at byte {begins_at}"),
                limit: DOCUMENT_LIMIT,
                advice: "documents end at blank lines: put some where the text may be cut",
            });
        }
        // A line feed is never part of another character, so each line can be checked on its own.
        let text = std::str::from_utf8(&line).map_err(|why| TrainError::NotUtf8 {
            path: path.to_path_buf(),
            offset: offset + why.valid_up_to() as u64,
        })?;
        let text = if offset == 0 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if !text.trim().is_empty() {
            document.push_str(text);
            document.push('\n');
        } else if let Some(whole) = finish(&mut document) {
            each(whole)?;
        }
        offset += length;
        if length == 0 {
            return Ok(());
        }
    }
}

/// The document collected so far, if any; the next one begins empty.
fn finish(document: &mut String) -> Option<String> {
    let whole = std::mem::take(document).trim_end().to_owned();
    (!whole.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn documents(bytes: &[u8]) -> Result<Vec<String>, TrainError> {
        let mut found = Vec::new();
        read(Path::new("story.txt"), bytes, |document| {
            found.push(document);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn splits_at_blank_lines() {
        let text = "\u{feff}\n\nOne.\nStill one.  \n \t\nTwo.\r\nStill two.\r\n\r\n\n\n  Three";
        let expected = ["One.\nStill one.", "Two.\nStill two.", "  Three"];
        assert_eq!(documents(text.as_bytes()).unwrap(), expected);
        assert!(documents(b"").unwrap().is_empty());
        assert!(documents(b" \n\n\t\n").unwrap().is_empty());
    }

    #[test]
    fn bytes_that_are_not_text_are_named_by_offset() {
        for (bytes, at) in [
            (&b"good\n\nbad \xff here"[..], 10),
            (b"\xc3", 0),
            (b"a\nb\n\xe2\x82", 4),
            (b"\xed\xa0\x80", 0),
        ] {
            let error = documents(bytes).unwrap_err();
            assert!(
                matches!(error, TrainError::NotUtf8 { offset, .. } if offset == at),
                "{error}"
            );
            assert!(error.to_string().contains("story.txt") && error.to_string().contains(&format!("byte {at}")));
        }
    }

    #[test]
    fn a_document_without_end_is_refused_before_it_fills_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'a'));
        let error = read(Path::new("story.txt"), endless, |_| Ok(())).unwrap_err();
        assert!(matches!(error, TrainError::LargeDocument { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("16 MiB") && said.contains("blank lines"), "{said}");
    }

    #[test]
    fn an_error_of_the_receiver_stops_the_reading() {
        let stop = || Err(TrainError::NothingToLearn { tokens: 0 });
        assert!(read(Path::new("x"), &b"a\n\nb"[..], |_| stop()).is_err());
    }

    proptest! {
        #[test]
        fn a_file_and_a_string_are_split_alike(text in "[ab \n\r\té]{0,60}") {
            // `str::lines` keeps a carriage return only where no line feed follows: so does the reader.
            let from_string: Vec<String> = split(&text).collect();
            let ends_in_return = text.ends_with('\r');
            prop_assume!(!ends_in_return);
            prop_assert_eq!(documents(text.as_bytes()).unwrap(), from_string);
        }
    }
}
