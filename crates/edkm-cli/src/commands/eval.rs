//! `edkm eval`

use dfdx::prelude::*;
use edkm_llama::model::DynamicLlama;
use edkm_train::data::TokenStream;
use edkm_train::evaluate::perplexity;
use edkm_train::Tokenizer;
use serde::Serialize;

use super::Failure;
use crate::args::EvalArgs;
use crate::console::Output;

#[derive(Serialize)]
struct Figures {
    perplexity: f64,
    tokens: u64,
}

pub fn run(args: EvalArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let device = Cpu::default();
    let model = DynamicLlama::<Cpu>::open(&args.model_dir, &device)?;
    let tokenizer = Tokenizer::from_dir(&args.model_dir)?;
    tokenizer.check_vocabulary(model.config.vocab_size)?;
    let mut stream = TokenStream::from_files(std::slice::from_ref(&args.data), &tokenizer)?;
    if let Some(tokens) = args.max_tokens {
        stream.truncate(tokens);
    }
    if args.seq > model.config.max_position_embeddings {
        let positions = model.config.max_position_embeddings;
        return Err(format!(
            "--seq {} is beyond the model's {positions} positions; give at most that",
            args.seq
        )
        .into());
    }
    let measured = perplexity(&model, &stream, args.seq, |_| {})?;
    output.line(format!(
        "perplexity {:.5} over {} predicted tokens",
        measured.perplexity, measured.tokens
    ));
    output.json(&Figures {
        perplexity: measured.perplexity,
        tokens: measured.tokens,
    })?;
    Ok(())
}
