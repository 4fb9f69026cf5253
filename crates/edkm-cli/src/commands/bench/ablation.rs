//! `edkm bench ablation`

use edkm_cluster::Bits;
use edkm_train::bench::ablation::{run as measure, AblationRow, AblationSettings};
use serde::Serialize;

use crate::args::BenchAblationArgs;
use crate::commands::Failure;
use crate::console::{bytes, Output};

#[derive(Serialize)]
struct Figures {
    rows: Vec<AblationRow>,
    learners: usize,
    fused_times_smaller: f64,
    fused_times_faster: f64,
}

pub fn run(args: BenchAblationArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let settings = AblationSettings {
        rows: args.rows,
        cols: args.cols,
        bits: Bits::new(args.bits)?,
        iterations: args.iterations,
        learners: args.learners,
    };
    output.line(format!(
        "kept for backward by clustering [{}, {}] to {} bits, {} repetitions, {} learners",
        args.rows, args.cols, args.bits, args.iterations, args.learners
    ));
    output.line(format!(
        "  {:10}{:>14}{:>14}{:>12}{:>10}{:>6}{:>12}  {}",
        "", "a learner", "in all", "ratio", "seconds", "run", "peak RSS", "gradient against the first row"
    ));
    let rows = measure(&settings, |row| output.line(line(row)))?;
    let (first, fused) = (&rows[0], &rows[rows.len() - 1]);
    let figures = Figures {
        learners: args.learners,
        fused_times_smaller: fused.ratio,
        fused_times_faster: first.seconds / fused.seconds,
        rows: rows.clone(),
    };
    output.line(format!(
        "the fused form keeps {:.0} times less than plain DKM and is {:.0} times as fast",
        figures.fused_times_smaller, figures.fused_times_faster
    ));
    output.line("M: marshaling, U: uniquification, S: sharding (eDKM); run: learners that were run, taking turns on these cores");
    output.json(&figures)?;
    Ok(())
}

fn line(row: &AblationRow) -> String {
    let gradient = match row.gradient.bitwise_equal {
        true => "the same bits".to_owned(),
        false => format!("within {:.1e} of its largest value", row.gradient.largest_error),
    };
    format!(
        "  {:10}{:>14}{:>14}{:>12}{:>10.3}{:>6}{:>12}  {gradient}",
        row.name,
        bytes(row.bytes_per_learner),
        bytes(row.bytes_in_all),
        format!("{:.2}", row.ratio),
        row.seconds,
        row.learners_run,
        row.peak_rss_bytes.map_or("unknown".to_owned(), bytes),
    )
}
