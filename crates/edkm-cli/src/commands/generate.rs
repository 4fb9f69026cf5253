//! `edkm generate`

use std::fs::File;
use std::io::Read;

use edkm_llama::inference::{GenerateOptions, InferenceModel, Session, StopReason};
use edkm_train::memory::peak_resident_bytes;
use edkm_train::text_generation::write_text;
use edkm_train::Tokenizer;
use serde::Serialize;

use super::{stop_name, Failure};
use crate::args::GenerateArgs;
use crate::console::{bytes, note, Output};
use crate::hub;

#[derive(Serialize)]
struct Figures {
    text: String,
    prompt_tokens: usize,
    tokens: usize,
    /// `end_token`, `stop_string`, `token_limit` or `context_limit`.
    stop: &'static str,
    prompt_tokens_per_second: f64,
    tokens_per_second: f64,
    cache_bytes: usize,
    weight_bytes: usize,
    peak_rss_bytes: Option<u64>,
}

pub fn run(args: GenerateArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    args.device.check_inference()?;
    args.sampling.check()?;
    let text = prompt(&args)?;
    let model_dir = hub::folder(&args.model_dir)?;
    let model = InferenceModel::open(&model_dir)?;
    let tokenizer = Tokenizer::from_dir(&model_dir)?;
    tokenizer.check_vocabulary(model.config().vocab_size)?;
    let model = args.device.place(model)?;
    let mut prompt = tokenizer.encode_question(&text)?;
    if prompt.is_empty() {
        prompt = tokenizer.encode_document(&text)?;
    }
    if prompt.is_empty() {
        return Err("the prompt has no token; give some text with --prompt or --prompt-file".into());
    }
    let limit = model.context_limit();
    if prompt.len() > limit {
        let tokens = prompt.len();
        return Err(
            format!("the prompt has {tokens} tokens, and the model takes at most {limit}; give a shorter one").into(),
        );
    }
    let context = prompt.len().saturating_add(args.tokens).min(limit);
    let mut session = Session::new(&model, context, args.sampling.cache.into())?;
    let options = GenerateOptions {
        max_tokens: args.tokens,
        stop_tokens: tokenizer.stop_tokens(),
        sampling: args.sampling.options(&model_dir)?,
    };
    output.piece(&text);
    let written = write_text(
        &mut session,
        tokenizer.decode_stream_behind(&prompt),
        &prompt,
        &options,
        &args.sampling.stop,
        |piece| output.wanted(piece),
    );
    // a message begins on a line of its own
    output.line("");
    let written = written?;
    let generation = &written.generation;
    let weights = model.weight_bytes().total();
    if generation.stop == StopReason::ContextFull {
        note(format_args!(
            "the text ends here because its {context} tokens are all that the model takes"
        ));
    }
    note(format_args!(
        "{} tokens, {:.1} a second (prompt {:.1}); weights {}, cache {}, peak memory {}",
        generation.tokens.len(),
        generation.decode_tokens_per_second(),
        generation.prompt_tokens_per_second(),
        bytes(weights as u64),
        bytes(generation.cache_bytes as u64),
        peak_resident_bytes().map_or("unknown".to_owned(), bytes),
    ));
    output.json(&Figures {
        prompt_tokens: generation.prompt_tokens,
        tokens: generation.tokens.len(),
        stop: stop_name(&written),
        prompt_tokens_per_second: generation.prompt_tokens_per_second(),
        tokens_per_second: generation.decode_tokens_per_second(),
        cache_bytes: generation.cache_bytes,
        weight_bytes: weights,
        peak_rss_bytes: peak_resident_bytes(),
        text: written.text,
    })?;
    Ok(())
}

/// The text to go on with.
fn prompt(args: &GenerateArgs) -> Result<String, Failure> {
    /// No model takes so long a one.
    const MOST_BYTES: u64 = 16 << 20;
    let Some(path) = &args.prompt_file else {
        return Ok(args.prompt.clone().unwrap_or_default());
    };
    let (name, source): (_, Box<dyn Read>) = match path.as_os_str() == "-" {
        true => ("standard input".to_owned(), Box::new(std::io::stdin())),
        false => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|why| format!("cannot read {name}: {why}"))?;
            (name, Box::new(file))
        }
    };
    let mut bytes = Vec::new();
    let read = source.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|why| format!("cannot read {name}: {why}"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("{name} holds more than {MOST_BYTES} bytes; give a shorter prompt").into());
    }
    let text = String::from_utf8(bytes).map_err(|why| {
        let at = why.utf8_error().valid_up_to();
        format!("{name} is no UTF-8 at byte {at}")
    })?;
    // as in the text that models are trained on here: without the mark and the line ends of Windows
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n");
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}
