//! What a run came to, as it is shown.

use edkm_train::evaluate::perplexity_in_words;
use edkm_train::run::{count, FinetuneOutcome, FinetuneSettings};

use crate::console::{bytes, Output};

/// What each layer of the store did, as a table.
fn show_store(output: Output, outcome: &FinetuneOutcome) {
    if outcome.store_layers.iter().all(|layer| layer.saves == 0) {
        // this process made no step
        return;
    }
    output.line(format!(
        "  {:18}{:>12}{:>12}{:>9}{:>9}{:>10}{:>12}",
        "layer of the store", "given", "kept", "saves", "hits", "packing", "unpacking"
    ));
    for layer in &outcome.store_layers {
        output.line(format!(
            "  {:18}{:>12}{:>12}{:>9}{:>9}{:>8.2} s{:>10.2} s",
            layer.name,
            bytes(layer.logical_bytes),
            bytes(layer.kept_bytes),
            layer.saves,
            layer.hits,
            layer.pack_seconds,
            layer.unpack_seconds
        ));
    }
    if outcome.saved_bytes_device > 0 {
        output.line(format!("  on the device     {:>12}", bytes(outcome.saved_bytes_device)));
    }
    if outcome.saved_bytes_disk > 0 {
        output.line(format!("  on disk           {:>12}", bytes(outcome.saved_bytes_disk)));
    }
}

/// Shows the figures.
pub fn show(output: Output, settings: &FinetuneSettings, outcome: &FinetuneOutcome) {
    output.line("");
    output.line("perplexity");
    output.line(format!(
        "  original                  {:>10}",
        perplexity_in_words(outcome.perplexity_before)
    ));
    let bits = settings
        .clustering
        .as_ref()
        .zip(outcome.bits_per_weight)
        .map(|(clustering, bits_per_weight)| clustering.bits_in_words(bits_per_weight));
    let with_bits = |name: &str| match &bits {
        Some(bits) => format!("{bits}-bit {name}"),
        None => name.to_owned(),
    };
    for baseline in &outcome.baselines {
        let name = match baseline.method {
            "rtn" => "rounding",
            _ => "k-means",
        };
        let name = with_bits(&format!("{name}, no training"));
        output.line(format!("  {name:26} {:>9}", perplexity_in_words(baseline.perplexity)));
    }
    if outcome.kept_steps != outcome.steps {
        let last = with_bits(&format!("after {}", count(outcome.steps, "step")));
        output.line(format!(
            "  {last:26} {:>9}",
            perplexity_in_words(outcome.perplexity_last)
        ));
    }
    let result = match outcome.kept_steps == outcome.steps {
        true => with_bits("fine-tuned"),
        false => with_bits(&format!("after {}, kept", outcome.kept_steps)),
    };
    output.line(format!(
        "  {result:26} {:>9}",
        perplexity_in_words(outcome.perplexity_after)
    ));
    output.line("size of the model file");
    output.line(format!(
        "  before                    {:>10}",
        bytes(outcome.size_before_bytes)
    ));
    output.line(format!("  after                     {:>10}", bytes(outcome.size_bytes)));
    if let Some(bits) = outcome.bits_per_weight {
        output.line(format!("  bits a clustered weight   {bits:>10.3}  (palettes counted)"));
        output.line("kept for backward by the clustering");
        output.line(format!(
            "  here                      {:>10}",
            bytes(outcome.saved_bytes_clustering)
        ));
        let plain = bytes(outcome.saved_bytes_plain_dkm);
        output.line(format!(
            "  plain DKM                 {plain:>10}  (attention maps of weights x clusters)"
        ));
    }
    output.line(format!(
        "kept for backward by ops    {:>10}  (at the peak, activations)",
        bytes(outcome.saved_bytes_peak)
    ));
    show_store(output, outcome);
    if let Some((_, text)) = outcome.sample.texts.last() {
        output.line("the result goes on");
        output.line(format!(
            "  {} [...] {}",
            outcome.sample.prompt,
            text.trim().replace('\n', "\n  ")
        ));
    }
    if let Some(note) = outcome.non_finite.note() {
        output.line(note);
    }
    let steps = match outcome.steps == outcome.planned_steps {
        true => count(outcome.steps, "step"),
        false => format!("{} of {}", outcome.steps, count(outcome.planned_steps, "step")),
    };
    output.line(format!(
        "{steps}, {}, {:.1} s of {:.1} s in all",
        count(outcome.tokens, "token"),
        outcome.training_seconds,
        outcome.seconds
    ));
    output.line(format!("wrote {} (look at report.html)", outcome.out.display()));
}
