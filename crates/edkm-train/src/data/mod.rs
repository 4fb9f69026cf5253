//! Training and validation text as one stream of tokens.
//!
//! | module | what |
//! |---|---|
//! | [`text`] | `.txt`: documents split at blank lines |
//! | [`records`] | `.json`, `.jsonl`: texts, and prompts with completions, Alpaca's and Dolly's records and conversations, of which responses alone count |
//! | [`alpaca`] | Alpaca's template |
//! | [`windows`] | the stream cut into sequences, for evaluation and for training |
//! | `stream` | the tokens |
//! | `encoded` | documents as tokens |
//! | `apart` | which texts of a window see each other |
//! | `sample` | what the beginning of a file says about the whole |
//! | `spread` | parts of a text that are taken from all of its files |
//! | [`sampler`] | training batches in an order that can be saved and resumed |

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::records::{Place, Record};
use crate::run::OnProgress;
use crate::template::{Learned, Template};
use crate::{Tokenizer, TrainError};

pub mod alpaca;
mod apart;
mod encoded;
mod files;
mod packing;
pub mod records;
mod sample;
pub mod sampler;
mod shortened;
mod spread;
mod stream;
pub mod text;
pub mod windows;

pub use apart::Apart;
pub use files::data_files;
pub(crate) use sample::Sample;
pub use stream::TokenStream;

/// The longest document or record that is read, in bytes. Encoding one takes about a hundred times its size in memory.
pub(crate) const DOCUMENT_LIMIT: u64 = 16 << 20;

/// Documents of one file are encoded together once they have this many bytes: enough work for all threads,
/// and the text of a large file is never in memory as a whole.
const ENCODE_TOGETHER: usize = 4 << 20;

/// What a data file holds, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFormat {
    /// `.txt`: plain text, documents split at blank lines.
    Text,
    /// `.json`: one array of records.
    Array,
    /// `.jsonl`: one record a line.
    Lines,
}

impl DataFormat {
    /// The format of a file.
    ///
    /// # Errors
    /// [`TrainError::UnknownDataFormat`] for any other ending.
    pub fn of(path: &Path) -> Result<Self, TrainError> {
        let ending = path
            .extension()
            .and_then(|ending| ending.to_str())
            .map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("txt") => Ok(Self::Text),
            Some("json") => Ok(Self::Array),
            Some("jsonl") => Ok(Self::Lines),
            _ => Err(TrainError::UnknownDataFormat {
                path: path.to_path_buf(),
            }),
        }
    }
}

/// One document before it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Of a text: every token counts in the loss.
    Plain(String),
    /// A text that stands for itself: every token counts, and the end token behind it.
    Whole(String),
    /// Only the responses, and the end token after each, count.
    Turns(Vec<Turn>),
    /// Text of a chat template, which has its begin and end tokens in it.
    Marked {
        /// The text.
        text: String,
        /// What of it counts, in bytes; ranges in order.
        counted: Vec<Range<usize>>,
    },
}

/// A prompt and what is said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What the model is given.
    pub prompt: String,
    /// What it has to say.
    pub response: String,
    /// Whether that counts.
    pub learned: Learned,
}

impl TokenStream {
    /// Reads data files in the order given, or those of folders ([`data_files`]), and joins them. Records are written in the tokenizer's [template](Tokenizer::template).
    ///
    /// # Errors
    /// A file that cannot be read, is not what its ending says, or cannot be encoded; [`TrainError::EmptyData`] if there is
    /// no text in any of them.
    pub fn from_files(paths: &[PathBuf], tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        Self::read(paths, tokenizer, &mut |_| Ok(()))
    }

    /// [`Self::from_files`]. `progress` is told which share of the files' bytes is encoded, and may end it.
    pub(crate) fn read(
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        progress: &mut OnProgress<'_>,
    ) -> Result<Self, TrainError> {
        let mut stream = Self::default();
        let files = data_files(paths)?;
        let bytes_of = |path: &PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
        let (all, mut before) = (files.iter().map(bytes_of).sum::<u64>().max(1), 0);
        for path in files.iter() {
            let format = DataFormat::of(path)?;
            stream.begin_file();
            let mut encoded = |encoded| progress(((before + encoded) as f64 / all as f64).min(1.0));
            let mut waiting = Batcher::new(&mut stream, format, tokenizer, &mut encoded);
            waiting.read(path, format, BufReader::new(crate::files::open(path)?), &|| ())?;
            waiting.encode()?;
            if let Some((role, place)) = &waiting.unknown_role {
                tracing::warn!(
                    "{}: {place}: the role {role} is not known, and what it says is taken for part of the prompt; what is learned is that of \"assistant\" (or \"gpt\", \"chatgpt\", \"model\", \"bot\")",
                    path.display()
                );
            }
            if waiting.passed_over > 0 {
                tracing::warn!(
                    "{}: {} of its records have no text or no response; they are passed over",
                    path.display(),
                    waiting.passed_over
                );
            }
            if waiting.has_unheeded {
                tracing::warn!(
                    "{}: tools and chat_template_kwargs of its records are passed over: the model has no chat template, and Alpaca's has no place for them",
                    path.display()
                );
            }
            before += bytes_of(path);
        }
        if stream.is_empty() {
            return Err(TrainError::EmptyData { paths: paths.to_vec() });
        }
        Ok(stream)
    }
}

/// Collects documents until there are enough to encode them in parallel.
struct Batcher<'a> {
    stream: &'a mut TokenStream,
    /// Whether each document stands for itself.
    are_apart: bool,
    /// Bytes of the documents so far, and who is told.
    encoded: u64,
    progress: &'a mut dyn FnMut(u64) -> Result<(), TrainError>,
    tokenizer: &'a Tokenizer,
    documents: Vec<Document>,
    bytes: usize,
    /// Records in which there is nothing to learn.
    passed_over: u64,
    /// The first role that no template knows, for a message, and where it stands.
    unknown_role: Option<(String, Place)>,
    /// Whether a record has something for a template, and there is none that could ask for it.
    has_unheeded: bool,
}

impl<'a> Batcher<'a> {
    fn new(
        stream: &'a mut TokenStream,
        format: DataFormat,
        tokenizer: &'a Tokenizer,
        progress: &'a mut dyn FnMut(u64) -> Result<(), TrainError>,
    ) -> Self {
        Self {
            stream,
            are_apart: format != DataFormat::Text,
            encoded: 0,
            progress,
            tokenizer,
            documents: Vec::new(),
            bytes: 0,
            passed_over: 0,
            unknown_role: None,
            has_unheeded: false,
        }
    }

    /// Adds what a reader has, of a file of this path and format; `ended` is called behind each document and each record.
    fn read(
        &mut self,
        path: &Path,
        format: DataFormat,
        reader: impl BufRead,
        ended: &dyn Fn(),
    ) -> Result<(), TrainError> {
        match format {
            DataFormat::Text => text::read(path, reader, |document| {
                self.add(Document::Plain(document)).map(|()| ended())
            }),
            DataFormat::Array => {
                let mut add = self.records(path);
                records::read_array(path, reader, |record, place| add(record, place).map(|()| ended()))
            }
            DataFormat::Lines => {
                let mut add = self.records(path);
                records::read_lines(path, reader, |record, place| add(record, place).map(|()| ended()))
            }
        }
    }

    fn add(&mut self, document: Document) -> Result<(), TrainError> {
        self.bytes += match &document {
            Document::Plain(text) | Document::Whole(text) => text.len(),
            Document::Turns(turns) => turns.iter().map(|turn| turn.prompt.len() + turn.response.len()).sum(),
            Document::Marked { text, .. } => text.len(),
        };
        self.documents.push(document);
        if self.bytes >= ENCODE_TOGETHER {
            self.encode()?;
        }
        Ok(())
    }

    /// What adds the records of a file.
    fn records(&mut self, path: &Path) -> impl FnMut(Record, Place) -> Result<(), TrainError> + use<'_, 'a> {
        let path = path.to_owned();
        move |record, place| {
            if self.unknown_role.is_none() {
                self.unknown_role = record.unknown_role().map(|role| (shortened::quoted(role), place));
            }
            if !record.is_learned() {
                self.passed_over += 1;
                return Ok(());
            }
            if record.needs_template() {
                self.stream.note_template();
            }
            self.has_unheeded |= record.is_given_something() && matches!(self.tokenizer.template(), Template::Alpaca);
            let documents = self.tokenizer.template().documents(record);
            let documents = documents.map_err(|why| TrainError::record(&path, place, &why.to_string()))?;
            documents.into_iter().try_for_each(|document| self.add(document))
        }
    }

    fn encode(&mut self) -> Result<(), TrainError> {
        self.stream.extend(&self.documents, self.are_apart, self.tokenizer)?;
        self.documents.clear();
        self.encoded += std::mem::take(&mut self.bytes) as u64;
        (self.progress)(self.encoded)
    }
}

#[cfg(test)]
mod tests;
