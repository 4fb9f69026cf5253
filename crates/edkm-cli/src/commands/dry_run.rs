//! `finetune --dry-run`: what a run would take.

use edkm_train::run::estimate::{Estimate, Share, When};
use edkm_train::run::OnLimits;

use super::Failure;
use crate::console::{bytes, bytes_or_unknown, Output};
use crate::table::Table;

/// The estimate in one line, for the beginning of every run.
pub fn line(estimate: &Estimate) -> String {
    let Estimate { limits, .. } = estimate;
    let host = limits.memory_bytes.map(|free| free.saturating_add(limits.held_bytes));
    let memory = match estimate.host_bytes() {
        None => format!(
            "{} of memory ({} free)",
            bytes(estimate.memory_bytes),
            bytes_or_unknown(host)
        ),
        Some(beside) => format!(
            "{} of the GPU's memory ({} free), {} of the host's ({} free)",
            bytes(estimate.memory_bytes),
            bytes_or_unknown(limits.device_bytes),
            bytes(beside),
            bytes_or_unknown(host)
        ),
    };
    format!(
        "the run will take about {memory} and {} of disk ({} free)",
        bytes(estimate.disk_bytes),
        bytes_or_unknown(limits.disk_bytes)
    )
}

/// Shows the estimate by part.
///
/// # Errors
/// As the run itself: more than there is.
pub fn show(output: Output, estimate: &Estimate, on_limits: OnLimits) -> Result<(), Failure> {
    output.line(line(estimate));
    if let Some(peak) = estimate.peak() {
        output.line("");
        let heading = match estimate.host_memory {
            None => "memory at the peak",
            Some(_) => "GPU memory at the peak",
        };
        shares(output, [heading, peak.stage], &peak.shares);
    }
    if let Some(host) = &estimate.host_memory {
        output.line("");
        shares(output, ["memory of the host", ""], host);
    }
    let mut stages = Table::new(["the peak of each part of the run", ""]);
    for stage in &estimate.memory {
        let when = match stage.when {
            When::Always => "",
            When::Interrupted => ", if interrupted",
        };
        stages.row([format!("{}{when}", stage.stage), bytes(stage.bytes)]);
    }
    output.line("");
    stages.lines().for_each(|line| output.line(line));
    output.line("");
    shares(output, ["disk at the peak", ""], &estimate.disk);
    if estimate.disk_bytes_if_interrupted > 0 {
        let checkpoint = bytes(estimate.disk_bytes_if_interrupted);
        output.line(format!("and {checkpoint} for a checkpoint, if interrupted"));
    }
    output.json(estimate)?;
    match on_limits {
        OnLimits::Refuse => Ok(estimate.check()?),
        OnLimits::Ignore => Ok(()),
    }
}

fn shares(output: Output, heading: [&str; 2], shares: &[Share]) {
    let mut table = Table::new(heading);
    for share in shares.iter().filter(|share| share.bytes > 0) {
        table.row([share.what.to_owned(), bytes(share.bytes)]);
    }
    table.lines().for_each(|line| output.line(line));
}
