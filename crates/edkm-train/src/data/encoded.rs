//! Documents as tokens.

use std::ops::Range;

use super::{Document, Turn};
use crate::template::Learned;
use crate::{Tokenizer, TrainError};

/// The tokens of one document, and which of them count; `None`: all do.
pub(super) struct Encoded {
    pub(super) tokens: Vec<u32>,
    pub(super) counted: Option<Vec<bool>>,
    /// Whether the last of them was put behind the text.
    pub(super) has_end: bool,
}

impl Encoded {
    pub(super) fn new(document: &Document, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        match document {
            Document::Plain(text) => Ok(Self {
                tokens: tokenizer.encode_document(text)?,
                counted: None,
                has_end: false,
            }),
            Document::Whole(text) => {
                let mut tokens = tokenizer.encode_question(text)?;
                // as in TRL, unless the text spells it out
                let end = tokenizer.end_token().filter(|end| tokens.last() != Some(end));
                tokens.extend(end);
                Ok(Self {
                    tokens,
                    counted: None,
                    has_end: end.is_some(),
                })
            }
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
                    has_end: false,
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
                0 => tokenizer.encode_question(text),
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
            has_end: false,
        })
    }
}
