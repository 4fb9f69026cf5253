//! Training and validation text as one stream of tokens.
//!
//! | module | what |
//! |---|---|
//! | [`text`] | `.txt`: documents split at blank lines |
//! | [`records`] | `.json`, `.jsonl`: texts, and prompts with completions, Alpaca's and Dolly's records and conversations, of which responses alone count |
//! | [`alpaca`] | Alpaca's template |
//! | [`windows`] | the stream cut into sequences, for evaluation and for training |
//! | `spread` | parts of a text that are taken from all of its files |
//! | [`sampler`] | training batches in an order that can be saved and resumed |

use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::records::{Place, Record};
use crate::run::OnProgress;
use crate::template::Learned;
use crate::{Tokenizer, TrainError};

pub mod alpaca;
mod files;
pub mod records;
pub mod sampler;
mod shortened;
mod spread;
pub mod text;
pub mod windows;

pub use files::data_files;

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
    /// Every token counts in the loss.
    Plain(String),
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

/// All documents of a run, encoded and joined: each with the begin token in front.
///
/// Memory: 4 bytes a token, and one more once a prompt has been added; 8 bytes a document, and 8 more of a record. As much again while a part of several files is taken off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenStream {
    tokens: Vec<u32>,
    /// Where documents begin.
    begins: Vec<usize>,
    /// Where what has no place of its own begins: a record, which stands for itself, or a whole text, whose documents follow each other.
    parts: Vec<usize>,
    /// Where the text of each file begins, if it has been read from files; empty ones begin where the next one does.
    files: Vec<usize>,
    /// Which tokens count when they are predicted; `None` while all do.
    counted: Option<Vec<bool>>,
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
            stream.begin_part();
            stream.files.push(stream.len());
            let mut waiting = Batcher {
                stream: &mut stream,
                are_apart: format != DataFormat::Text,
                encoded: 0,
                progress: &mut |encoded| progress(((before + encoded) as f64 / all as f64).min(1.0)),
                tokenizer,
                documents: Vec::new(),
                bytes: 0,
                passed_over: 0,
                unknown_role: None,
            };
            match format {
                DataFormat::Text => text::for_each(path, |document| waiting.add(Document::Plain(document)))?,
                DataFormat::Array => records::for_each_in_array(path, waiting.records(path))?,
                DataFormat::Lines => records::for_each_line(path, waiting.records(path))?,
            }
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
            before += bytes_of(path);
        }
        if stream.tokens.is_empty() {
            return Err(TrainError::EmptyData { paths: paths.to_vec() });
        }
        Ok(stream)
    }

    /// A stream of plain text held in memory, documents split at blank lines.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn from_text(text: &str, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let mut stream = Self::default();
        let documents: Vec<Document> = text::split(text).map(Document::Plain).collect();
        stream.append(&documents, tokenizer)?;
        Ok(stream)
    }

    /// A stream of tokens that all count.
    pub fn from_tokens(tokens: Vec<u32>) -> Self {
        Self {
            begins: (!tokens.is_empty()).then_some(0).into_iter().collect(),
            parts: Vec::new(),
            files: Vec::new(),
            tokens,
            counted: None,
        }
    }

    /// A stream of records of so many tokens each, of which those count that are marked.
    #[cfg(test)]
    pub(crate) fn of_records(tokens: Vec<u32>, counted: Vec<bool>, record: usize) -> Self {
        let begins: Vec<usize> = (0..tokens.len()).step_by(record).collect();
        Self {
            parts: begins.clone(),
            files: Vec::new(),
            begins,
            tokens,
            counted: Some(counted),
        }
    }

    /// Encodes documents, in parallel, and appends them in order, as parts of a text that stays in this order.
    ///
    /// # Errors
    /// If one cannot be encoded; the stream is then as it was.
    pub fn append(&mut self, documents: &[Document], tokenizer: &Tokenizer) -> Result<(), TrainError> {
        self.extend(documents, false, tokenizer)
    }

    /// [`Self::append`], of documents that stand for themselves if they `are_apart`.
    fn extend(&mut self, documents: &[Document], are_apart: bool, tokenizer: &Tokenizer) -> Result<(), TrainError> {
        let encoded: Vec<Encoded> = documents
            .par_iter()
            .map(|document| Encoded::new(document, tokenizer))
            .collect::<Result<_, _>>()?;
        for Encoded { tokens, counted } in encoded {
            match (&mut self.counted, counted) {
                (None, None) => {}
                (Some(all), Some(counted)) => all.extend(counted),
                (Some(all), None) => all.resize(all.len() + tokens.len(), true),
                (none, Some(counted)) => {
                    let mut all = vec![true; self.tokens.len()];
                    all.extend(counted);
                    *none = Some(all);
                }
            }
            if !tokens.is_empty() {
                self.begins.push(self.tokens.len());
                if are_apart {
                    self.begin_part();
                }
            }
            self.tokens.extend(tokens);
        }
        Ok(())
    }

    /// What comes next has no place of its own.
    fn begin_part(&mut self) {
        // that the first begins at 0 needs no word
        if !self.is_empty() && self.parts.last() != Some(&self.len()) {
            self.parts.push(self.len());
        }
    }

    /// What may change places: the records, which stand for themselves, and whole texts. In order, and together all of the stream.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        pieces(&self.parts, self.len())
    }

    /// The texts of the files that it was read from.
    fn files(&self) -> Vec<Range<usize>> {
        pieces(&self.files, self.len()).collect()
    }

    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Number of documents that begin in it.
    pub fn documents(&self) -> usize {
        self.begins.len()
    }

    /// Number of tokens that count in the loss when they are predicted.
    pub fn counted(&self) -> usize {
        match &self.counted {
            None => self.len(),
            Some(counted) => counted.iter().filter(|&&counts| counts).count(),
        }
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether the token at `position` counts in the loss when it is predicted.
    pub fn counts(&self, position: usize) -> bool {
        self.counted.as_ref().is_none_or(|counted| counted[position])
    }

    /// Keeps the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        for begins in [&mut self.begins, &mut self.parts, &mut self.files] {
            begins.truncate(begins.partition_point(|&begin| begin < tokens));
        }
        if let Some(counted) = &mut self.counted {
            counted.truncate(tokens);
        }
    }

    /// Keeps so many tokens at most, of all files alike: of each its beginning, of many short ones some whole ones.
    pub fn truncate_each(&mut self, tokens: usize) {
        let files = self.files();
        match spread::spread(&files, tokens).filter(|_| files.len() > 1 && tokens < self.len()) {
            None => self.truncate(tokens),
            Some(lens) => {
                let beginnings = files.iter().zip(lens).map(|(file, len)| file.start..file.start + len);
                *self = self.pieces(&beginnings.collect::<Vec<_>>());
            }
        }
    }

    /// Takes a `share` (from 0 to 1) of the tokens off and returns it, of all files alike: of each its end, of many short ones some whole ones.
    pub fn split_off_share(&mut self, share: f64) -> Self {
        let (files, wanted) = (self.files(), (self.len() as f64 * share.clamp(0.0, 1.0)) as usize);
        match spread::spread(&files, wanted).filter(|_| files.len() > 1) {
            None => {
                let at = self.len() - wanted;
                let within = |file: &Range<usize>| file.start.max(at)..file.end.max(at);
                let rest = self.pieces(&files.iter().map(within).collect::<Vec<_>>());
                self.truncate(at);
                rest
            }
            Some(lens) => {
                let cut = |(file, len): (&Range<usize>, &usize)| file.end - len;
                let cuts: Vec<usize> = files.iter().zip(&lens).map(cut).collect();
                let ends = files.iter().zip(&cuts).map(|(file, &cut)| cut..file.end);
                let rest = self.pieces(&ends.collect::<Vec<_>>());
                let beginnings = files.iter().zip(&cuts).map(|(file, &cut)| file.start..cut);
                *self = self.pieces(&beginnings.collect::<Vec<_>>());
                rest
            }
        }
    }

    /// These pieces of it, of a file each, in order.
    fn pieces(&self, ranges: &[Range<usize>]) -> Self {
        let mut taken = Self {
            counted: self.counted.as_ref().map(|_| Vec::new()),
            ..Self::default()
        };
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            taken.begin_part();
            let at = taken.len();
            taken.files.push(at);
            let moved = |begins: &[usize], after: usize| {
                let within =
                    begins.partition_point(|&begin| begin < after)..begins.partition_point(|&begin| begin < range.end);
                let moved = begins[within].iter().map(|begin| begin - range.start + at);
                moved.collect::<Vec<_>>()
            };
            taken.begins.extend(moved(&self.begins, range.start));
            // its own beginning is one already
            taken.parts.extend(moved(&self.parts, range.start + 1));
            taken.tokens.extend_from_slice(&self.tokens[range.clone()]);
            if let (Some(all), Some(counted)) = (&self.counted, &mut taken.counted) {
                counted.extend_from_slice(&all[range.clone()]);
            }
        }
        taken
    }

    /// A hash of the tokens, of which of them count and of what may change places, to recognise the data when a run is resumed.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for &token in &self.tokens {
            hash.update(&token.to_le_bytes());
        }
        for &counts in self.counted.iter().flatten() {
            hash.update(&[u8::from(counts)]);
        }
        for part in self.parts().skip(1) {
            hash.update(&(part.start as u64).to_le_bytes());
        }
        hash.digest()
    }
}

/// What lies between the places where something begins, and before the first of them.
fn pieces(begins: &[usize], len: usize) -> impl Iterator<Item = Range<usize>> + Clone + '_ {
    let within = begins.iter().copied().filter(move |&begin| begin > 0 && begin < len);
    let begins = std::iter::once(0).chain(within.clone());
    begins.zip(within.chain([len])).map(|(begin, end)| begin..end)
}

/// The tokens of one document, and which of them count; `None`: all do.
struct Encoded {
    tokens: Vec<u32>,
    counted: Option<Vec<bool>>,
}

impl Encoded {
    fn new(document: &Document, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        match document {
            Document::Plain(text) => Ok(Self {
                tokens: tokenizer.encode_document(text)?,
                counted: None,
            }),
            Document::Turns(turns) => Self::of_turns(turns, tokenizer),
            Document::Marked { text, counted } => {
                let encoded = tokenizer.encode_with_places(text)?;
                // a token that begins before the response is of the prompt, though it may reach into it
                let counts = |place: &Range<usize>| {
                    let range = &counted[..counted.partition_point(|range| range.start <= place.start)];
                    range.last().is_some_and(|range| place.start < range.end)
                };
                let (tokens, counted) = encoded.iter().map(|(token, place)| (*token, counts(place))).unzip();
                Ok(Self {
                    tokens,
                    counted: Some(counted),
                })
            }
        }
    }

    fn of_turns(turns: &[Turn], tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let (mut tokens, mut counted) = (Vec::new(), Vec::new());
        for (index, turn) in turns.iter().enumerate() {
            let Turn {
                prompt,
                response,
                learned,
            } = turn;
            let encode = |text: &str| match index {
                0 => tokenizer.encode_document(text),
                _ => tokenizer.encode(text),
            };
            // Both together, as the model will see them: a response encoded alone may begin with a token for a space.
            let whole = encode(&format!("{prompt}{response}"))?;
            let alone = encode(prompt)?;
            let shared = alone.iter().zip(&whole).take_while(|(a, b)| a == b).count();
            counted.resize(counted.len() + shared, false);
            tokens.extend(whole);
            tokens.extend(tokenizer.end_token());
            counted.resize(tokens.len(), *learned == Learned::Response);
        }
        Ok(Self {
            tokens,
            counted: Some(counted),
        })
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
}

impl<'a> Batcher<'a> {
    fn add(&mut self, document: Document) -> Result<(), TrainError> {
        self.bytes += match &document {
            Document::Plain(text) => text.len(),
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
