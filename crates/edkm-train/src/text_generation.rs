//! Text from a prompt, piece by piece.

use std::ops::ControlFlow;

use edkm_llama::inference::{generate, GenerateOptions, Generation, Session, StopReason};

use crate::tokenizer::DecodeStream;
use crate::TrainError;

/// Text that a model has written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenText {
    /// The text behind the prompt, up to a stop string.
    pub text: String,
    /// Tokens, those of a stop string too, times, and why it ended.
    pub generation: Generation,
    /// The stop string that ended it; it ended with [`StopReason::Caller`] then.
    pub stop_string: Option<String>,
}

/// Lets the model go on behind `prompt` (tokens that the session has not read), in text that `stream` makes: that of
/// [`Tokenizer::decode_stream_behind`](crate::Tokenizer::decode_stream_behind) if the text follows on the prompt's. `on_text` is given the text in pieces as it comes; a piece is
/// held back while it may be the beginning of one of `stop`, and a stop string itself is never handed over. `ControlFlow::Break` ends it behind the piece that was
/// handed over ([`StopReason::Caller`]).
///
/// # Errors
/// Settings out of range, a prompt longer than the context, a decoder that fails.
pub fn write_text(
    session: &mut Session,
    mut stream: DecodeStream<'_>,
    prompt: &[u32],
    options: &GenerateOptions,
    stop: &[String],
    mut on_text: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<WrittenText, TrainError> {
    let mut text = String::new();
    let (mut handed_over, mut enough) = (0, ControlFlow::Continue(()));
    let (mut failure, mut stop_string) = (None, None);
    let generation = generate(session, prompt, options, |token| match stream.push(token) {
        Ok(piece) => {
            text.push_str(&piece);
            if let Some((end, found)) = first_stop(&text, stop) {
                text.truncate(end);
                stop_string = Some(found.to_owned());
                return ControlFlow::Break(());
            }
            let safe = text.len() - held_back(&text[handed_over..], stop);
            enough = on_text(&text[handed_over..safe]);
            handed_over = safe;
            enough
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    if enough.is_break() {
        text.truncate(handed_over);
        return Ok(WrittenText {
            text,
            generation,
            stop_string: None,
        });
    }
    if stop_string.is_none() && generation.stop != StopReason::Caller {
        text.push_str(&stream.finish()?);
    }
    // nothing follows that could be left out
    let _ = on_text(&text[handed_over..]);
    Ok(WrittenText {
        text,
        generation,
        stop_string,
    })
}

/// Where the first of the stop strings begins, and which it is.
fn first_stop<'s>(text: &str, stop: &'s [String]) -> Option<(usize, &'s str)> {
    stop.iter()
        .filter(|s| !s.is_empty())
        .filter_map(|s| text.find(s.as_str()).map(|at| (at, s.as_str())))
        .min_by_key(|&(at, _)| at)
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
    use std::path::Path;

    use edkm_llama::checkpoint::Weight;
    use edkm_llama::config::LlamaConfig;
    use edkm_llama::inference::{CacheType, InferenceModel};

    use super::*;
    use crate::init::random_weights;
    use crate::synthetic;
    use crate::tokenizer::SpecialTokens;
    use crate::Tokenizer;

    #[test]
    fn a_text_ends_where_its_reader_has_enough() {
        let json = synthetic::train_tokenizer("the fox found a red kite by the old tree", 280).unwrap();
        let tokenizer = Tokenizer::from_bytes(Path::new("t.json"), &json, SpecialTokens::default()).unwrap();
        let config = format!(
            r#"{{"model_type": "llama", "vocab_size": {}, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}}"#,
            tokenizer.vocabulary_size()
        );
        let config = LlamaConfig::from_json(Path::new("config.json"), &config).unwrap();
        let mut weights = random_weights(0, 1, 0.5);
        let model = InferenceModel::from_parts(config, |p| Ok(Weight::Dense(weights(p)?))).unwrap();
        let prompt = tokenizer.encode("the fox").unwrap();
        let options = GenerateOptions {
            max_tokens: 40,
            ..GenerateOptions::for_model(&model)
        };
        let written = |pieces: usize, stop: &[String]| {
            let mut session = Session::new(&model, 64, CacheType::F32).unwrap();
            let (mut seen, mut count) = (String::new(), 0);
            let stream = tokenizer.decode_stream_behind(&prompt);
            let written = write_text(&mut session, stream, &prompt, &options, stop, |piece| {
                seen += piece;
                count += usize::from(!piece.is_empty());
                match count < pieces {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
            let written = written.unwrap();
            assert_eq!(written.text, seen);
            written
        };
        let (whole, part) = (written(usize::MAX, &[]), written(3, &[]));
        assert!(whole.text.starts_with(&part.text) && part.text.len() < whole.text.len());
        assert_eq!(part.generation.stop, StopReason::Caller);
        assert_eq!((whole.stop_string.as_ref(), part.stop_string.as_ref()), (None, None));
        // the end of the part, as a stop string
        let end = part.text.chars().last().unwrap().to_string();
        let stopped = written(usize::MAX, &["none of it".to_owned(), end.clone()]);
        assert!(whole.text.starts_with(&(stopped.text.clone() + &end)), "{stopped:?}");
        assert_eq!(stopped.stop_string, Some(end));
        assert!(part.generation.tokens.len() < whole.generation.tokens.len());
    }

    #[test]
    fn beginnings_of_stop_strings_are_held_back() {
        let stop = ["### Instruction".to_owned(), "\n\n".to_owned()];
        assert_eq!(held_back("a story", &stop), 0);
        assert_eq!(held_back("a story\n", &stop), 1);
        assert_eq!(held_back("a story ###", &stop), 3);
        assert_eq!(first_stop("one\n\ntwo ### Instruction", &stop), Some((3, "\n\n")));
        assert_eq!(first_stop("one", &["".to_owned()]), None);
    }
}
