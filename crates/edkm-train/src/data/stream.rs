//! The tokens of a text, and what is known of them.

use std::ops::Range;

use rayon::prelude::*;

use super::encoded::Encoded;
use super::{spread, text, Apart, Document};
use crate::hash::add_words;
use crate::{Tokenizer, TrainError};

/// All documents of a run, encoded and joined: each as its kind begins and ends.
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
    apart: Apart,
    contents: Contents,
    /// Where end tokens stand that were put behind texts.
    ends: Vec<usize>,
    /// Whether it is measured on, which leaves these out: how well a text is predicted is not how well its end is.
    is_measure: bool,
}

/// Of what kind what was read is, which people are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Contents {
    /// Something of it is written in the tokenizer's template.
    in_template: bool,
    /// There are records in it.
    records: bool,
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
            apart: Apart::default(),
            contents: Contents::default(),
            ends: Vec::new(),
            is_measure: false,
        }
    }

    /// The same tokens, of which these are kept apart; without it [records](Apart::Records) are.
    #[must_use]
    pub fn with_apart(self, apart: Apart) -> Self {
        Self { apart, ..self }
    }

    /// The same tokens to measure perplexity on: end tokens that were put behind texts (those of records with `text` alone) do not count.
    #[must_use]
    pub fn to_measure(self) -> Self {
        Self {
            is_measure: true,
            ..self
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
            apart: Apart::default(),
            contents: Contents {
                records: true,
                ..Contents::default()
            },
            ends: Vec::new(),
            is_measure: false,
        }
    }

    /// A stream of records of so many tokens, whose numbers follow each other; all of them count.
    #[cfg(test)]
    pub(crate) fn of_lengths(records: &[usize]) -> Self {
        let mut stream = Self::of_records((0..records.iter().sum::<usize>() as u32).collect(), Vec::new(), 1);
        let ends = records.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        stream.begins = std::iter::once(0).chain(ends).take(records.len()).collect();
        stream.parts = stream.begins.clone();
        stream.counted = None;
        stream
    }

    /// The same documents as those of one text.
    #[cfg(test)]
    pub(crate) fn make_one_text(&mut self) {
        self.parts.clear();
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
        // of several errors always the first, whatever thread comes to one
        let encoded: Vec<_> = documents
            .par_iter()
            .map(|document| Encoded::new(document, tokenizer))
            .collect();
        let encoded = encoded.into_iter().collect::<Result<Vec<_>, _>>()?;
        for Encoded {
            tokens,
            counted,
            has_end,
        } in encoded
        {
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
                    self.contents.records = true;
                    self.begin_part();
                }
            }
            self.tokens.extend(tokens);
            if has_end {
                self.ends.push(self.tokens.len() - 1);
            }
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
        (4 * self.tokens.len() + marks + 8 * (self.begins.len() + self.parts.len() + self.ends.len())) as u64
    }

    /// Number of documents that begin in it.
    pub fn documents(&self) -> usize {
        self.begins.len()
    }

    /// Number of tokens that count in the loss when they are predicted.
    pub fn counted(&self) -> usize {
        let marked = match &self.counted {
            None => self.len(),
            Some(counted) => counted.iter().filter(|&&counts| counts).count(),
        };
        let first = self
            .stretches(0..self.len())
            .filter(|stretch| self.begins_apart(stretch.start));
        let left_out = |end: &&usize| self.is_left_out(**end) && !self.begins_apart(**end);
        marked
            - self.ends.iter().filter(left_out).count()
            - first.filter(|stretch| self.is_marked(stretch.start)).count()
    }

    /// What comes next is written in the tokenizer's template.
    pub(super) fn note_template(&mut self) {
        self.contents.in_template = true;
    }

    /// Whether something of it is written in the tokenizer's [template](crate::template::Template): instructions, or conversations.
    pub fn is_in_template(&self) -> bool {
        self.contents.in_template
    }

    /// What its windows of `sequence` tokens are, for people.
    pub fn windows_in_words(&self, sequence: usize) -> String {
        let windows = format!("in windows of {sequence} tokens");
        match self.apart {
            // of a text without records it would only be asked what that means
            Apart::Records if !self.contents.records => windows,
            apart => format!("{windows}, {} apart", apart.name()),
        }
    }

    /// Records of more tokens than a window of `sequence` has room for, and all records; of what begins somewhere in the stream.
    pub(crate) fn records_longer_than(&self, sequence: usize) -> (usize, usize) {
        if !self.contents.records {
            return (0, 0);
        }
        let is_record = |part: &Range<usize>| {
            let begun = |end| self.begins.partition_point(|&begin| begin < end);
            begun(part.end) - begun(part.start) <= 1
        };
        let records = self.parts().filter(is_record).map(|part| part.len());
        records.fold((0, 0), |(longer, all), len| {
            (longer + usize::from(len > sequence.saturating_add(1)), all + 1)
        })
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether the token at `position` counts in the loss when it is predicted: not that of a prompt, and not the first of what is kept
    /// apart.
    pub fn counts(&self, position: usize) -> bool {
        self.is_marked(position) && !self.begins_apart(position) && !self.is_left_out(position)
    }

    /// Whether it is an end token that is not measured.
    fn is_left_out(&self, position: usize) -> bool {
        self.is_measure && self.ends.binary_search(&position).is_ok()
    }

    /// Whether it is text to learn, and not of a prompt.
    pub(crate) fn is_marked(&self, position: usize) -> bool {
        self.counted.as_ref().is_none_or(|counted| counted[position])
    }

    /// Where what is kept apart begins, in two lists in order.
    fn apart(&self) -> [&[usize]; 2] {
        match self.apart {
            Apart::Nothing => [&[]; 2],
            Apart::Records => [&self.parts, &[]],
            // a piece of a text need not begin with a document
            Apart::Documents => [&self.parts, &self.begins],
        }
    }

    fn begins_apart(&self, position: usize) -> bool {
        match position {
            // it may come to stand behind another
            0 => self.apart().iter().any(|begins| begins.iter().any(|&begin| begin > 0)),
            _ => self
                .apart()
                .iter()
                .any(|begins| begins.binary_search(&position).is_ok()),
        }
    }

    /// The pieces of `range`, one after the other, that do not see each other: all of it where nothing is kept apart.
    pub(super) fn stretches(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut start = range.start;
        std::iter::from_fn(move || {
            if start >= range.end {
                return None;
            }
            let next = |begins: &&[usize]| begins.get(begins.partition_point(|&begin| begin <= start)).copied();
            let end = self.apart().iter().filter_map(next).min();
            let stretch = start..end.map_or(range.end, |end| end.min(range.end));
            start = stretch.end;
            Some(stretch)
        })
    }

    /// Whether some of it is kept apart from other.
    pub(super) fn is_kept_apart(&self) -> bool {
        self.stretches(0..self.len()).nth(1).is_some()
    }

    /// Keeps the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        for begins in [&mut self.begins, &mut self.parts, &mut self.files, &mut self.ends] {
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
        let [begins, parts, files, ends] = self.begins_in(ranges);
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
            apart: self.apart,
            contents: self.contents,
            ends,
            is_measure: self.is_measure,
        }
    }

    /// Keeps these pieces of it, of a file each, in order, and takes no more memory for it.
    fn keep(&mut self, ranges: &[Range<usize>]) {
        [self.begins, self.parts, self.files, self.ends] = self.begins_in(ranges);
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

    /// Where documents, parts and files begin in these pieces, of a file each, one behind the other, and where end tokens stand that were put behind texts.
    fn begins_in(&self, ranges: &[Range<usize>]) -> [Vec<usize>; 4] {
        let [mut begins, mut parts, mut files, mut ends] = [const { Vec::new() }; 4];
        let mut at = 0;
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
            ends.extend(moved(&self.ends, range.start));
            at += range.len();
        }
        [begins, parts, files, ends]
    }

    /// A hash of the tokens, of which of them count and of what may change places, to recognise the data when a run is resumed.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        add_words(&mut hash, self.tokens.iter().map(|token| token.to_le_bytes()));
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
