//! `--plan`: what each weight matrix would get.

use edkm_llama::config::LlamaConfig;
use edkm_train::run::{plan, planned_sizes, ClusterSettings, PlannedLayer};
use serde::Serialize;

use super::Failure;
use crate::console::{note, Output};

#[derive(Serialize)]
struct Plan {
    bits_per_weight: Option<f64>,
    layers: Vec<PlannedLayer>,
}

/// Bits of a weight that is not compressed.
const PLAIN: f64 = 16.0;

/// Says of palettes that they take more than the weights, as those of few weights do. Settings that cannot be planned are refused elsewhere.
pub fn note_if_larger(config: &LlamaConfig, clustering: &ClusterSettings) {
    if clustering.bits_budget.is_some() {
        return;
    }
    let planned = plan(config, clustering).ok();
    let bits = planned.and_then(|layers| planned_sizes(&layers).bits_per_weight());
    if let Some(bits) = bits.filter(|&bits| bits >= PLAIN) {
        note(format_args!(
            "a clustered weight will take {bits:.1} bits with its palettes, no less than plain weights of 16; larger --group or fewer --bits (--plan shows each matrix)"
        ));
    }
}

/// Shows a plan.
pub fn show(output: Output, layers: Vec<PlannedLayer>) -> Result<(), Failure> {
    let width = layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0);
    for PlannedLayer { name, shape, palette } in &layers {
        let shape = format!("{shape:?}");
        let what = match palette {
            None => "as it is".to_owned(),
            Some(palette) => {
                let group = palette.group.map_or("one palette".to_owned(), |rows| {
                    format!("a palette for {rows} channels")
                });
                let vector = match palette.vector {
                    1 => String::new(),
                    len => format!(", vectors of {len}"),
                };
                let rows = if palette.row_scales { ", a factor a row" } else { "" };
                format!(
                    "{} bits, {group}{vector}, {}{rows}: {:.3} bits a weight",
                    palette.bits, palette.dtype, palette.bits_per_weight
                )
            }
        };
        output.line(format!("{name:width$}  {shape:14}  {what}"));
    }
    let bits_per_weight = planned_sizes(&layers).bits_per_weight();
    if let Some(bits) = bits_per_weight {
        output.line(format!("{bits:.3} bits a clustered weight, palettes counted"));
    }
    output.json(&Plan {
        bits_per_weight,
        layers,
    })?;
    Ok(())
}
