//! `edkm bench generate`

use std::path::Path;
use std::process::{Command, Stdio};

use edkm_train::bench::configurations::configuration;
use edkm_train::bench::generate::{self, GenerateSettings};
use serde::Serialize;

use crate::args::BenchGenerateArgs;
use crate::commands::Failure;
use crate::console::{bytes, duration, Output};
use crate::device::DeviceChoice;

#[derive(Serialize)]
struct Figures {
    parameters: u64,
    size_bytes: u64,
    load_seconds: f64,
    first_token_seconds: f64,
    resident_before_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
    cache_bytes: usize,
    prompt_tokens_per_second: f64,
    tokens_per_second: f64,
    token_seconds: f64,
    dfdx_f32_seconds: Option<f64>,
    ratio: Option<f64>,
}

pub fn run(args: BenchGenerateArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    args.device.check_inference()?;
    let settings = GenerateSettings {
        config: configuration(&args.config)?,
        bits: args.bits,
        group: args.group,
        embedding_bits: args.embedding_bits,
        prompt: args.prompt as usize,
        tokens: args.tokens as usize,
    };
    if let Some(dir) = &args.write_to {
        return Ok(generate::write(&settings, dir)?);
    }
    let dir = tempfile::Builder::new().prefix("edkm-bench-").tempdir()?;
    write_in_a_process_of_its_own(&args, dir.path())?;
    let beside_dfdx = args.device.device == DeviceChoice::Cpu;
    let measured = generate::run(&settings, dir.path(), |model| args.device.place(model), beside_dfdx)?;
    let figures = Figures {
        parameters: settings.config.parameter_count(),
        size_bytes: measured.file_bytes,
        load_seconds: measured.load_seconds,
        first_token_seconds: measured.first_token_seconds,
        resident_before_bytes: measured.resident_before_bytes,
        peak_rss_bytes: measured.peak_resident_bytes,
        cache_bytes: measured.cache_bytes,
        prompt_tokens_per_second: measured.prompt_tokens_per_second,
        tokens_per_second: 1.0 / measured.token_seconds,
        token_seconds: measured.token_seconds,
        dfdx_f32_seconds: measured.dfdx_seconds,
        ratio: measured.dfdx_seconds.map(|dfdx| dfdx / measured.token_seconds),
    };
    let known = |count: Option<u64>| count.map_or("unknown".to_owned(), bytes);
    output.line(format!(
        "{} ({} parameters) in {} bits{}, embeddings in {}: {} in its file",
        args.config,
        figures.parameters,
        args.bits,
        args.group
            .map_or(String::new(), |group| format!(" in groups of {group} channels")),
        args.embedding_bits,
        bytes(figures.size_bytes)
    ));
    output.line(format!(
        "  opened in {}, first token after {}; peak memory {} ({} before opening), cache {}",
        duration(figures.load_seconds),
        duration(figures.first_token_seconds),
        known(figures.peak_rss_bytes),
        known(figures.resident_before_bytes),
        bytes(figures.cache_bytes as u64)
    ));
    output.line(format!(
        "  prompt of {} tokens: {:.1} a second; {} tokens one by one: {:.1} a second (median)",
        args.prompt, figures.prompt_tokens_per_second, args.tokens, figures.tokens_per_second
    ));
    let token = duration(figures.token_seconds);
    output.line(match measured.dfdx_seconds.zip(figures.ratio) {
        Some((dfdx, times)) => {
            let dfdx = duration(dfdx);
            format!("  a token {token}; its products alone in f32 through dfdx {dfdx}: {times:.1} times")
        }
        None => format!("  a token {token} on {}", args.device.device),
    });
    output.json(&figures)?;
    Ok(())
}

/// What the writer's allocator keeps shall not count as the model's memory.
fn write_in_a_process_of_its_own(args: &BenchGenerateArgs, dir: &Path) -> Result<(), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "generate", "--config", &args.config]);
    command.args(["--bits", &args.bits.to_string()]);
    if let Some(group) = args.group {
        command.args(["--group", &group.to_string()]);
    }
    command.args(["--embedding-bits", &args.embedding_bits.to_string()]);
    command.arg("--write-to").arg(dir);
    match command.stdout(Stdio::null()).stderr(Stdio::inherit()).status()? {
        status if status.success() => Ok(()),
        status => Err(format!("writing the model failed: {status}").into()),
    }
}
