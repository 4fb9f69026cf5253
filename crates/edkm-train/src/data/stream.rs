//! The tokens of a text, and what is known of them.

use std::ops::Range;

use rayon::prelude::*;

use super::{spread, text, Document, Turn};
use crate::template::Learned;
use crate::{Tokenizer, TrainError};

/// All documents of a run, encoded and joined: each with the begin token in front.
///
/// Memory: 4 bytes a token, and one more once a prompt has been added; 8 bytes a document, and 8 more of a record.
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
    pub(super) fn extend(
        &mut self,
        documents: &[Document],
        are_apart: bool,
        tokenizer: &Tokenizer,
    ) -> Result<(), TrainError> {
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

    /// What comes next is another file's, and has no place of its own.
    pub(super) fn begin_file(&mut self) {
        self.begin_part();
        self.files.push(self.len());
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
        between(&self.parts, self.len())
    }

    /// The texts of the files that it was read from.
    fn files(&self) -> Vec<Range<usize>> {
        between(&self.files, self.len()).collect()
    }

    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Bytes that it takes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let marks = self.counted.as_ref().map_or(0, Vec::len);
        (4 * self.tokens.len() + marks + 8 * (self.begins.len() + self.parts.len())) as u64
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
        for begins in [&mut self.begins, &mut self.parts, &mut self.files] {
            begins.truncate(begins.partition_point(|&begin| begin < tokens));
        }
        self.cut_tokens(tokens);
    }

    /// Gives the memory of the tokens behind so many back.
    fn cut_tokens(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.tokens.shrink_to_fit();
        if let Some(counted) = &mut self.counted {
            counted.truncate(tokens);
            counted.shrink_to_fit();
        }
    }

    /// Keeps so many tokens at most, of all files alike: of each its beginning, of many short ones some whole ones.
    pub fn truncate_each(&mut self, tokens: usize) {
        let files = self.files();
        match spread::spread(&files, tokens).filter(|_| files.len() > 1 && tokens < self.len()) {
            None => self.truncate(tokens),
            Some(lens) => {
                let beginnings = files.iter().zip(lens).map(|(file, len)| file.start..file.start + len);
                self.keep(&beginnings.collect::<Vec<_>>());
            }
        }
    }

    /// Takes a `share` (from 0 to 1) of the tokens off and returns it, of all files alike: of each its end, of many short ones some whole ones.
    pub fn split_off_share(&mut self, share: f64) -> Self {
        let (files, wanted) = (self.files(), (self.len() as f64 * share.clamp(0.0, 1.0)) as usize);
        let cuts: Vec<usize> = match spread::spread(&files, wanted).filter(|_| files.len() > 1) {
            Some(lens) => files.iter().zip(lens).map(|(file, len)| file.end - len).collect(),
            None => {
                let at = self.len() - wanted;
                files.iter().map(|file| at.clamp(file.start, file.end)).collect()
            }
        };
        let ends = files.iter().zip(&cuts).map(|(file, &cut)| cut..file.end);
        let rest = self.pieces(&ends.collect::<Vec<_>>());
        let beginnings = files.iter().zip(&cuts).map(|(file, &cut)| file.start..cut);
        self.keep(&beginnings.collect::<Vec<_>>());
        rest
    }

    /// A copy of these pieces of it, of a file each, in order.
    fn pieces(&self, ranges: &[Range<usize>]) -> Self {
        let counted = self.counted.as_ref();
        let [begins, parts, files] = self.begins_in(ranges);
        Self {
            tokens: ranges
                .iter()
                .flat_map(|range| &self.tokens[range.clone()])
                .copied()
                .collect(),
            counted: counted.map(|all| ranges.iter().flat_map(|range| &all[range.clone()]).copied().collect()),
            begins,
            parts,
            files,
        }
    }

    /// Keeps these pieces of it, of a file each, in order, and takes no more memory for it.
    fn keep(&mut self, ranges: &[Range<usize>]) {
        [self.begins, self.parts, self.files] = self.begins_in(ranges);
        let mut kept = 0;
        for range in ranges {
            self.tokens.copy_within(range.clone(), kept);
            if let Some(counted) = &mut self.counted {
                counted.copy_within(range.clone(), kept);
            }
            kept += range.len();
        }
        self.cut_tokens(kept);
    }

    /// Where documents, parts and files begin in these pieces, of a file each, one behind the other.
    fn begins_in(&self, ranges: &[Range<usize>]) -> [Vec<usize>; 3] {
        let (mut begins, mut parts, mut files, mut at) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            let moved = |begins: &[usize], after: usize| {
                let within =
                    begins.partition_point(|&begin| begin < after)..begins.partition_point(|&begin| begin < range.end);
                begins[within]
                    .iter()
                    .map(|begin| begin - range.start + at)
                    .collect::<Vec<_>>()
            };
            files.push(at);
            begins.extend(moved(&self.begins, range.start));
            // that the first begins at 0 needs no word, and its own beginning is one already
            parts.extend((at > 0).then_some(at));
            parts.extend(moved(&self.parts, range.start + 1));
            at += range.len();
        }
        [begins, parts, files]
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
fn between(begins: &[usize], len: usize) -> impl Iterator<Item = Range<usize>> + Clone + '_ {
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
