//! What the beginning of a data file says about the whole.

use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::Path;

use super::{Batcher, DataFormat, Document, TokenStream};
use crate::{files, Tokenizer, TrainError};

/// Bytes that are encoded to learn what a byte of the text makes.
const SAMPLE: usize = 64 << 10;

/// The beginning of a text, encoded as a run encodes it.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Its tokens.
    pub(crate) stream: TokenStream,
    /// Bytes of the text that they stand for.
    pub(crate) bytes: u64,
}

impl Sample {
    /// The beginning of a file. What is wrong with its text is left to the reading of the data to complain about. A pipe has but one reader, and
    /// that is not here.
    ///
    /// # Errors
    /// A file that cannot be read, whose format is not known, or whose text cannot be encoded.
    pub(crate) fn of_file(path: &Path, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let failed = |why| TrainError::io("read", path)(why);
        let mut beginning = Vec::new();
        if std::fs::metadata(path).map_err(failed)?.is_file() {
            let file = files::open(path)?;
            file.take(SAMPLE as u64).read_to_end(&mut beginning).map_err(failed)?;
        }
        Self::of_beginning(path, &beginning, tokenizer)
    }

    /// The beginning of a text in memory.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub(crate) fn of_text(text: &str, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let beginning = &text[..text.floor_char_boundary(SAMPLE)];
        Ok(Self {
            stream: TokenStream::from_text(beginning, tokenizer)?,
            bytes: beginning.len() as u64,
        })
    }

    /// The first bytes of a file, which may end anywhere.
    fn of_beginning(path: &Path, beginning: &[u8], tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let format = DataFormat::of(path)?;
        let (read, whole) = (Cell::new(0), Cell::new(0));
        let reader = Counted {
            bytes: beginning,
            read: &read,
        };
        let (mut stream, mut progress) = (TokenStream::default(), |_| Ok(()));
        let mut documents = Batcher::new(&mut stream, format, tokenizer, &mut progress);
        // the one that is cut is none
        let to_the_end = documents.read(path, format, reader, &|| whole.set(read.get()));
        documents.encode()?;
        let bytes = if to_the_end.is_ok() {
            beginning.len()
        } else {
            whole.get()
        };
        if bytes > 0 || beginning.is_empty() {
            return Ok(Self {
                stream,
                bytes: bytes as u64,
            });
        }
        // not one whole record
        let text = String::from_utf8_lossy(beginning).into_owned();
        stream.append(&[Document::Plain(text)], tokenizer)?;
        Ok(Self {
            stream,
            bytes: beginning.len() as u64,
        })
    }
}

/// Reads bytes, and says how many it has read.
struct Counted<'a> {
    bytes: &'a [u8],
    read: &'a Cell<usize>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Counted<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        Ok(&self.bytes[self.read.get()..])
    }

    fn consume(&mut self, bytes: usize) {
        self.read.set(self.read.get() + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::tokenizer;

    /// A file of so many records or documents, its beginning and the whole, and what of the first records is known to it.
    fn beside_the_whole(name: &str, text: &str) -> (Sample, TokenStream) {
        let (dir, tokenizer) = (tempfile::tempdir().unwrap(), tokenizer());
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let sample = Sample::of_file(&path, &tokenizer).unwrap();
        (sample, TokenStream::from_files(&[path], &tokenizer).unwrap())
    }

    #[test]
    fn the_beginning_of_a_file_is_what_a_run_reads_of_it() {
        let record = |index: usize| {
            format!(
                "{{\"instruction\": \"Say number {index}.\", \"output\": \"{}\", \"source\": \"a list that nobody learns\"}}",
                "It is said. ".repeat(1 + index % 5)
            )
        };
        let records: Vec<String> = (0..2000).map(record).collect();
        let document = |index: usize| format!("Number {index} stands here.\n\n");
        for (name, text) in [
            ("a.json", format!("[\n{}\n]", records.join(",\n"))),
            ("a.jsonl", records.join("\n")),
            ("a.txt", (0..6000).map(document).collect()),
        ] {
            let (sample, whole) = beside_the_whole(name, &text);
            assert!(text.len() > 2 * SAMPLE, "{name}: {}", text.len());
            assert!(
                (SAMPLE - 500..=SAMPLE).contains(&(sample.bytes as usize)),
                "{name}: {}",
                sample.bytes
            );
            let share = text.len() as f64 / sample.bytes as f64;
            for (what, of_sample, of_whole) in [
                ("tokens", sample.stream.len() as u64, whole.len() as u64),
                ("documents", sample.stream.documents() as u64, whole.documents() as u64),
                ("bytes", sample.stream.bytes(), whole.bytes()),
            ] {
                let ratio = share * of_sample as f64 / of_whole as f64;
                assert!((ratio - 1.0).abs() < 0.02, "{name}: {what} {ratio}");
            }
            let begins = &whole.tokens()[..sample.stream.len() - 20];
            assert_eq!(&sample.stream.tokens()[..begins.len()], begins, "{name}");
        }
    }

    #[test]
    fn short_files_are_whole_and_what_is_wrong_with_one_is_left_to_others() {
        let (sample, whole) = beside_the_whole("a.txt", "One.\n\nTwo.\n");
        assert_eq!((sample.bytes, sample.stream.len()), (11, whole.len()));
        let tokenizer = tokenizer();
        for text in ["", "[{\"text\": \"never end", "{}", "no JSON at all"] {
            let sample = Sample::of_beginning(Path::new("a.json"), text.as_bytes(), &tokenizer).unwrap();
            assert_eq!(sample.bytes, text.len() as u64, "{text}");
            assert_eq!(sample.stream.is_empty(), text.is_empty(), "{text}");
        }
    }
}
