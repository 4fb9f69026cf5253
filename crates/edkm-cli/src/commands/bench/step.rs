//! `edkm bench step`

use dfdx_edkm::EdkmDevice;
use edkm_cluster::Bits;
use edkm_train::bench::configurations::configuration;
use edkm_train::bench::phases::PhaseTimes;
use edkm_train::bench::step::{self, StepBench, StepSettings};
use edkm_train::run::ClusterSettings;
use serde::Serialize;

use crate::args::BenchStepArgs;
use crate::commands::{recompute, update, Failure};
use crate::console::{bytes, Output};
use crate::device::OnDevice;

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
    device_bytes: Option<u64>,
}

/// The measurement.
struct Bench<'a> {
    settings: &'a StepSettings,
    times: &'a PhaseTimes,
}

impl OnDevice for Bench<'_> {
    type Output = StepBench;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<StepBench, Failure> {
        Ok(step::run(self.settings, device, self.times)?)
    }
}

pub fn run(args: BenchStepArgs, times: &PhaseTimes) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let (store, device_share) = args.device.storage(args.store.as_deref(), args.device_memory)?;
    let clustering = match args.no_cluster {
        true => None,
        false => Some(ClusterSettings::new(Bits::new(args.bits)?, args.repeats as u64 + 1)),
    };
    let settings = StepSettings {
        config: configuration(&args.config)?,
        clustering,
        sequence: args.seq,
        batch: args.batch,
        store,
        device_share,
        moments: args.optimizer.into(),
        update: update(args.update_in_backward),
        recompute: recompute(args.checkpoint_layers, args.checkpoint_attention),
        repeats: args.repeats,
    };
    let measured = args.device.run(Bench {
        settings: &settings,
        times,
    })?;
    let [forward, backward, clustering, optimizer, store] = measured.phases;
    let figures = Figures {
        seconds: measured.seconds,
        forward_seconds: forward,
        backward_seconds: backward,
        clustering_seconds: clustering,
        optimizer_seconds: optimizer,
        store_seconds: store,
        // medians of parts need not add up to that of the whole
        other_seconds: (measured.seconds - measured.phases.iter().sum::<f64>()).max(0.0),
        matmul_seconds: measured.matmul_seconds,
        ratio: measured.seconds / measured.matmul_seconds,
        gflops: measured.matmul_flop / measured.seconds * 1e-9,
        matmul_gflops: measured.matmul_flop / measured.matmul_seconds * 1e-9,
        tokens_per_second: (args.batch * args.seq) as f64 / measured.seconds,
        parameters: settings.config.parameter_count(),
        peak_rss_bytes: measured.peak_rss_bytes,
        device_bytes: measured.device_bytes,
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
    if let Some(taken) = figures.device_bytes {
        output.line(format!("  memory of the GPU that is taken {}", bytes(taken)));
    }
    output.json(&figures)?;
    Ok(())
}
