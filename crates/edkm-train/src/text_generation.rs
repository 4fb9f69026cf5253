//! Text from a prompt, piece by piece.

use std::ops::ControlFlow;

use edkm_llama::inference::{generate, GenerateOptions, Generation, Session};

use crate::tokenizer::DecodeStream;
use crate::TrainError;

/// Text that a model has written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenText {
    /// The text behind the prompt, up to a stop string.
    pub text: String,
    /// Tokens, times, and why it ended.
    pub generation: Generation,
}

/// Lets the model go on behind `prompt` (tokens that the session has not read), in text that `stream` makes: that of
/// [`Tokenizer::decode_stream_behind`](crate::Tokenizer::decode_stream_behind) if the text follows on the prompt's. `on_text` is given the text in pieces as it comes; a piece is
/// held back while it may be the beginning of one of `stop`, and a stop string itself is never handed over.
///
/// # Errors
/// Settings out of range, a prompt longer than the context, a decoder that fails.
pub fn write_text(
    session: &mut Session<'_>,
    mut stream: DecodeStream<'_>,
    prompt: &[u32],
    options: &GenerateOptions,
    stop: &[String],
    mut on_text: impl FnMut(&str),
) -> Result<WrittenText, TrainError> {
    let mut text = String::new();
    let mut handed_over = 0;
    let mut failure = None;
    let generation = generate(session, prompt, options, |token| match stream.push(token) {
        Ok(piece) => {
            text.push_str(&piece);
            if let Some(end) = first_stop(&text, stop) {
                text.truncate(end);
                return ControlFlow::Break(());
            }
            let safe = text.len() - held_back(&text[handed_over..], stop);
            on_text(&text[handed_over..safe]);
            handed_over = safe;
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    if first_stop(&text, stop).is_none() && generation.stop != edkm_llama::inference::StopReason::Caller {
        text.push_str(&stream.finish()?);
    }
    on_text(&text[handed_over..]);
    Ok(WrittenText { text, generation })
}

/// Where the first of the stop strings begins.
fn first_stop(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter()
        .filter(|s| !s.is_empty())
        .filter_map(|s| text.find(s.as_str()))
        .min()
}

/// Bytes at the end of `text` that may be the beginning of a stop string.
fn held_back(text: &str, stop: &[String]) -> usize {
    let overlap = |s: &String| {
        (1..s.len())
            .rev()
            .find(|&len| s.is_char_boundary(len) && text.ends_with(&s[..len]))
    };
    stop.iter().filter_map(overlap).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_stop_strings_are_held_back() {
        let stop = ["### Instruction".to_owned(), "\n\n".to_owned()];
        assert_eq!(held_back("a story", &stop), 0);
        assert_eq!(held_back("a story\n", &stop), 1);
        assert_eq!(held_back("a story ###", &stop), 3);
        assert_eq!(first_stop("one\n\ntwo ### Instruction", &stop), Some(3));
        assert_eq!(first_stop("one", &["".to_owned()]), None);
    }
}
