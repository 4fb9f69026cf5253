//! `edkm bench step`

use dfdx::prelude::*;
use edkm_cluster::Bits;
use edkm_train::bench::configurations::configuration;
use edkm_train::bench::phases::PhaseTimes;
use edkm_train::bench::step::{self, StepSettings};
use edkm_train::run::ClusterSettings;
use serde::Serialize;

use crate::args::BenchStepArgs;
use crate::commands::{recompute, Failure};
use crate::console::{bytes, Output};

#[derive(Serialize)]
struct Figures {
    seconds: f64,
    forward_seconds: f64,
    backward_seconds: f64,
    clustering_seconds: f64,
    optimizer_seconds: f64,
    store_seconds: f64,
    other_seconds: f64,
    matmul_seconds: f64,
    ratio: f64,
    gflops: f64,
    matmul_gflops: f64,
    tokens_per_second: f64,
    parameters: u64,
    peak_rss_bytes: Option<u64>,
}

pub fn run(args: BenchStepArgs, times: &PhaseTimes) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let clustering = match args.no_cluster {
        true => None,
        false => Some(ClusterSettings::new(Bits::new(args.bits)?, args.repeats as u64 + 1)),
    };
    let settings = StepSettings {
        config: configuration(&args.config)?,
        clustering,
        sequence: args.seq,
        batch: args.batch,
        recompute: recompute(args.checkpoint_layers, args.checkpoint_attention),
        repeats: args.repeats,
    };
    let measured = step::run(&settings, &Cpu::default(), times)?;
    let [forward, backward, clustering, optimizer, store] = measured.phases;
    let figures = Figures {
        seconds: measured.seconds,
        forward_seconds: forward,
        backward_seconds: backward,
        clustering_seconds: clustering,
        optimizer_seconds: optimizer,
        store_seconds: store,
        other_seconds: measured.seconds - measured.phases.iter().sum::<f64>(),
        matmul_seconds: measured.matmul_seconds,
        ratio: measured.seconds / measured.matmul_seconds,
        gflops: measured.matmul_flop / measured.seconds * 1e-9,
        matmul_gflops: measured.matmul_flop / measured.matmul_seconds * 1e-9,
        tokens_per_second: (args.batch * args.seq) as f64 / measured.seconds,
        parameters: settings.config.parameter_count(),
        peak_rss_bytes: measured.peak_rss_bytes,
    };
    output.line(format!(
        "a training step of {} ({} parameters), {} x {} tokens, median of {}",
        args.config, figures.parameters, args.batch, args.seq, args.repeats
    ));
    for (name, seconds) in [
        ("forward", forward),
        ("backward", backward),
        ("clustering", clustering),
        ("optimizer", optimizer),
        ("store", store),
        ("other", figures.other_seconds),
        ("the step", figures.seconds),
        ("its products alone", figures.matmul_seconds),
    ] {
        output.line(format!("  {name:20}{seconds:>10.4} s"));
    }
    output.line(format!(
        "  ratio {:.2}; {:.1} GFLOP/s in the step, {:.1} in the products alone; {:.0} tokens a second; peak memory {}",
        figures.ratio,
        figures.gflops,
        figures.matmul_gflops,
        figures.tokens_per_second,
        figures.peak_rss_bytes.map_or("unknown".to_owned(), bytes)
    ));
    output.json(&figures)?;
    Ok(())
}
