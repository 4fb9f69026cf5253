//! `edkm chat`

use std::io::{BufRead, IsTerminal, Read, Write};
use std::time::Duration;

use edkm_llama::inference::{GenerateOptions, InferenceModel, InferenceProblem, Session, StopReason};
use edkm_llama::LlamaError;
use edkm_train::chat::{Chat, Forgot};
use edkm_train::memory::peak_resident_bytes;
use edkm_train::template::Template;
use edkm_train::{Tokenizer, TrainError};
use serde::Serialize;

use super::{stop_name, Failure};
use crate::args::ChatArgs;
use crate::console::{bytes, is_in_vain, note, Output};
use crate::hub;

/// Tokens that are remembered besides a response if the model can and nothing else was asked for.
const CONTEXT: usize = 1792;

#[derive(Serialize)]
struct Figures {
    turns: Vec<Turn>,
    /// Instructions without a response, since they were too long or no text.
    unanswered: usize,
    tokens_per_second: f64,
    prompt_tokens_per_second: f64,
    cache_bytes: usize,
    weight_bytes: usize,
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Turn {
    instruction: String,
    response: String,
    tokens: usize,
    /// `end_token`, `stop_string`, `token_limit` or `context_limit`.
    stop: &'static str,
    prompt_tokens: usize,
}

/// Tokens and the time that they took.
#[derive(Default)]
struct Rate(usize, Duration);

impl Rate {
    fn add(&mut self, tokens: usize, time: Duration) {
        *self = Self(self.0 + tokens, self.1 + time);
    }

    fn per_second(&self) -> f64 {
        match self.0 {
            0 => 0.0,
            tokens => tokens as f64 / self.1.as_secs_f64().max(1e-9),
        }
    }
}

/// The longest line that is read: to encode one takes about a hundred times its size in memory.
const LONGEST_LINE: u64 = 16 << 20;

/// What was read of the input.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Nothing: it is at its end.
    End,
    Whole,
    /// It was passed over to its end.
    TooLong,
}

/// The next line, into `line`.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Line> {
    line.clear();
    match input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)? as u64 {
        0 => Ok(Line::End),
        LONGEST_LINE if line.last() != Some(&b'\n') => {
            // one that ends here has its length alone
            let mut is_longer = false;
            loop {
                let read = input.fill_buf()?;
                if read.is_empty() {
                    break;
                }
                let end = read.iter().position(|&byte| byte == b'\n');
                is_longer |= end != Some(0);
                let used = end.map_or(read.len(), |end| end + 1);
                input.consume(used);
                if end.is_some() {
                    break;
                }
            }
            Ok(if is_longer { Line::TooLong } else { Line::Whole })
        }
        _ => Ok(Line::Whole),
    }
}

/// What may be typed.
const HELP: &str =
    "One instruction a line; /clear begins anew, /exit, /quit or the end of input (Ctrl-D) ends, /help shows this.";

pub fn run(args: ChatArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    args.device.check_inference()?;
    args.sampling.check()?;
    let model_dir = hub::folder(&args.model_dir)?;
    let model = InferenceModel::open(&model_dir)?;
    let mut tokenizer = Tokenizer::from_dir(&model_dir)?;
    if !args.template_arguments.is_empty() {
        tokenizer = tokenizer.with_template_arguments(args.template_arguments.into_iter().collect())?;
    }
    tokenizer.check_vocabulary(model.config().vocab_size)?;
    if let Template::Alpaca = tokenizer.template() {
        note("(the model has no chat template: instructions are written in Stanford Alpaca's)");
    }
    let model = args.device.place(model)?;
    let usual = CONTEXT.saturating_add(args.tokens).min(model.context_limit());
    let context = args.context.unwrap_or(usual);
    let more = match context < model.context_limit() {
        true => "; give more with --context",
        false => "",
    };
    let session = Session::new(&model, context, args.sampling.cache.into())?;
    let cache_bytes = session.cache_bytes();
    let options = GenerateOptions {
        max_tokens: args.tokens,
        stop_tokens: tokenizer.stop_tokens(),
        sampling: args.sampling.options(&model_dir)?,
    };
    let system = args.system.as_deref();
    let mut chat = Chat::new(session, &tokenizer, options, system, &args.sampling.stop)?;

    let input = std::io::stdin();
    let asks = input.is_terminal();
    if asks {
        note(HELP);
    }
    let (mut turns, mut decoded, mut read) = (Vec::new(), Rate::default(), Rate::default());
    let mut unanswered = 0;
    let mut line = Vec::new();
    // a reader who has gone wants no more responses
    while !is_in_vain() {
        if asks {
            drop(write!(std::io::stderr(), "> "));
        }
        match read_line(&mut input.lock(), &mut line)? {
            Line::End => break,
            Line::Whole => {}
            Line::TooLong => {
                note(format_args!(
                    "(no response: the instruction has more than the {} that a line may have)",
                    bytes(LONGEST_LINE)
                ));
                unanswered += 1;
                continue;
            }
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            note("(no response: the instruction is not UTF-8)");
            unanswered += 1;
            continue;
        };
        // a mark that some programs of Windows put in front of what they hand over
        let instruction = match text.trim_start_matches('\u{feff}').trim() {
            "" => continue,
            "/clear" => {
                chat.clear();
                continue;
            }
            "/help" => {
                note(HELP);
                continue;
            }
            "/exit" | "/quit" => break,
            instruction => instruction,
        };
        let response = match chat.respond(instruction, |piece| output.wanted(piece)) {
            Ok(response) => response,
            // nothing was read of it: the conversation is as it was
            Err(TrainError::Llama(LlamaError::Inference(problem @ InferenceProblem::ContextFull { .. }))) => {
                note(format_args!("(no response: {problem})"));
                unanswered += 1;
                continue;
            }
            Err(why @ TrainError::Template { .. }) => {
                note(format_args!("(no response: {why})"));
                unanswered += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        output.line("");
        if response.forgot == Forgot::EarlierTurns {
            note(format_args!(
                "(the context of {context} tokens is full: the first turns are forgotten{more})"
            ));
        }
        if response.written.generation.stop == StopReason::ContextFull {
            note(format_args!(
                "(the context of {context} tokens is full: the response ends here{more})"
            ));
        }
        let generation = &response.written.generation;
        if generation.stop == StopReason::MaxTokens {
            note(format_args!(
                "(the response ends here after {} tokens: give more with --tokens)",
                args.tokens
            ));
        }
        decoded.add(generation.decoded_tokens, generation.decode_time);
        read.add(generation.prompt_tokens, generation.prompt_time);
        turns.push(Turn {
            instruction: instruction.to_owned(),
            tokens: generation.tokens.len(),
            stop: stop_name(&response.written),
            prompt_tokens: generation.prompt_tokens,
            response: response.written.text,
        });
    }
    let figures = Figures {
        tokens_per_second: decoded.per_second(),
        prompt_tokens_per_second: read.per_second(),
        cache_bytes,
        weight_bytes: model.weight_bytes().total(),
        peak_rss_bytes: peak_resident_bytes(),
        turns,
        unanswered,
    };
    note(format_args!(
        "{:.1} tokens a second (prompt {:.1}); weights {}, cache {}, peak memory {}",
        figures.tokens_per_second,
        figures.prompt_tokens_per_second,
        bytes(figures.weight_bytes as u64),
        bytes(figures.cache_bytes as u64),
        figures.peak_rss_bytes.map_or("unknown".to_owned(), bytes),
    ));
    output.json(&figures)?;
    match unanswered {
        // who types has seen it
        1.. if !asks => Err(format!("{unanswered} of the instructions got no response; why is said at each").into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_passed_over_to_its_end() {
        let longest = "x".repeat(LONGEST_LINE as usize);
        let mut input = std::io::Cursor::new(format!("a\n{longest}\n{longest}y\nb\n{longest}{longest}"));
        let mut line = Vec::new();
        let mut next = || (read_line(&mut input, &mut line).unwrap(), line.len().min(3));
        assert_eq!(next(), (Line::Whole, 2));
        assert_eq!(next(), (Line::Whole, 3));
        assert_eq!(next(), (Line::TooLong, 3));
        assert_eq!(next(), (Line::Whole, 2));
        assert_eq!(next(), (Line::TooLong, 3));
        assert_eq!(next(), (Line::End, 0));
    }
}
