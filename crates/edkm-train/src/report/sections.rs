//! The parts of the page, from the summary to the samples. A part without figures is left out.

use std::fmt::{Result, Write};

use super::chart::{self, Chart, Look, Series};
use super::data::{ContenderRole, ReportData, StoreLayerFigures};
use super::html::{bytes, escape, short, thousands, times};
use super::weights;

pub(super) fn all(page: &mut String, data: &ReportData) -> Result {
    summary(page, data)?;
    for note in &data.notes {
        writeln!(page, "<p class=\"note\">{}</p>", escape(note))?;
    }
    comparison(page, data)?;
    training(page, data)?;
    store(page, data)?;
    samples(page, data)?;
    weight_figures(page, data)?;
    settings(page, data)
}

/// The figures that everyone asks for first.
fn summary(page: &mut String, data: &ReportData) -> Result {
    let mut tiles = Vec::new();
    if let Some(perplexity) = data.perplexity {
        let before = format!("{} before", short(perplexity.before));
        tiles.push(("Perplexity", short(perplexity.after), before));
    }
    if let Some(size) = data.size {
        let ratio = size.before as f64 / size.after as f64;
        let ratio = match ratio > 1.005 {
            true => format!(", {} as much", times(ratio)),
            false => String::new(),
        };
        tiles.push((
            "Size",
            bytes(size.after),
            format!("{} before{ratio}", bytes(size.before)),
        ));
    }
    if let Some(bits) = data.bits_per_weight {
        tiles.push((
            "Bits a weight",
            short(bits),
            "in the compressed tensors, palettes counted".to_owned(),
        ));
    }
    if let Some(kept) = data.store.as_ref().and_then(|store| store.layers.last()) {
        let logical = data.store.as_ref().map_or(0, |store| store.logical_bytes);
        tiles.push((
            "Saved for backward",
            bytes(kept.kept_bytes),
            format!("of {} before the store", bytes(logical)),
        ));
    }
    if tiles.is_empty() {
        return Ok(());
    }
    writeln!(page, "<dl class=\"tiles\">")?;
    for (label, value, beside) in tiles {
        writeln!(
            page,
            "<div><dt>{label}</dt><dd>{value}</dd><dd class=\"quiet\">{beside}</dd></div>"
        )?;
    }
    writeln!(page, "</dl>")
}

fn comparison(page: &mut String, data: &ReportData) -> Result {
    if data.comparison.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section><h2>Comparison</h2><table class=\"figures\"><thead><tr><th scope=\"col\">Model</th><th scope=\"col\">Bits a weight</th><th scope=\"col\">Size</th><th scope=\"col\">Perplexity</th></tr></thead><tbody>")?;
    for contender in &data.comparison {
        let class = match contender.role {
            ContenderRole::Result => " class=\"result\"",
            ContenderRole::Original | ContenderRole::Baseline => "",
        };
        writeln!(
            page,
            "<tr{class}><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&contender.name),
            contender.bits_per_weight.map_or("–".to_owned(), short),
            contender.size_bytes.map_or("–".to_owned(), bytes),
            contender.perplexity.map_or("–".to_owned(), short),
        )?;
    }
    writeln!(page, "</tbody></table></section>")
}

fn training(page: &mut String, data: &ReportData) -> Result {
    if data.steps.is_empty() {
        return Ok(());
    }
    let loss: Vec<(f64, f64)> = data
        .steps
        .iter()
        .map(|line| (line.step as f64, line.loss.unwrap_or(f64::NAN)))
        .collect();
    let mut perplexity: Vec<(f64, f64)> = data
        .steps
        .iter()
        .filter_map(|line| Some((line.step as f64, line.validation_perplexity?)))
        .collect();
    writeln!(page, "<section><h2>Training</h2><div class=\"charts\">")?;
    let smooth = Series {
        label: "smoothed".into(),
        look: Look::Strong,
        points: chart::smoothed(&loss),
    };
    let single = Series {
        label: "each step".into(),
        look: Look::Faint,
        points: loss,
    };
    chart::draw(
        page,
        &Chart {
            title: "Loss by step, in nats",
            series: vec![single, smooth],
            level: None,
        },
    )?;
    if !perplexity.is_empty() {
        // the result's own is measured when it is written
        let last = data.steps.last().map(|line| line.step as f64);
        perplexity.extend(last.zip(data.perplexity.map(|perplexity| perplexity.after)));
        let series = vec![Series {
            label: "during training".into(),
            look: Look::Marked,
            points: perplexity,
        }];
        let level = data
            .perplexity
            .map(|perplexity| ("original".to_owned(), perplexity.before));
        chart::draw(
            page,
            &Chart {
                title: "Validation perplexity by step",
                series,
                level,
            },
        )?;
    }
    writeln!(page, "</div></section>")
}

/// What was saved for the backward pass, before and after each layer of the store.
fn store(page: &mut String, data: &ReportData) -> Result {
    let Some(store) = &data.store else { return Ok(()) };
    let mut rows = Vec::new();
    rows.extend(
        store
            .plain_dkm_bytes
            .map(|plain| ("plain DKM (computed)".to_owned(), plain)),
    );
    rows.push(("saved by this run".to_owned(), store.logical_bytes));
    let after = |layer: &StoreLayerFigures| (format!("after {}", layer.name), layer.kept_bytes);
    rows.extend(store.layers.iter().map(after));
    let largest = rows.iter().map(|(_, size)| *size).max().unwrap_or(0).max(1) as f64;
    let last = rows.len() - 1;
    writeln!(
        page,
        "<section><h2>Saved for the backward pass, at the peak</h2><table class=\"figures\"><tbody>"
    )?;
    for (index, (name, size)) in rows.iter().enumerate() {
        let class = if index == last { " class=\"result\"" } else { "" };
        let width = *size as f64 / largest * 100.0;
        writeln!(
            page,
            "<tr{class}><th scope=\"row\">{}<span class=\"bar\" style=\"width:{width:.2}%\"></span></th><td>{}</td></tr>",
            escape(name),
            bytes(*size)
        )?;
    }
    writeln!(page, "</tbody></table>")?;
    store_layers(page, &store.layers)?;
    writeln!(page, "</section>")
}

/// What each layer did in the whole run.
fn store_layers(page: &mut String, layers: &[StoreLayerFigures]) -> Result {
    if layers.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<table class=\"figures\"><thead><tr><th scope=\"col\">Layer of the store</th><th scope=\"col\">Given, at the peak</th><th scope=\"col\">Kept, \
         at the peak</th><th scope=\"col\">Saves</th><th scope=\"col\">Hits</th><th scope=\"col\">Packing, s</th><th scope=\"col\">Unpacking, s</th></tr></thead><tbody>"
    )?;
    for layer in layers {
        writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td></tr>",
            escape(&layer.name),
            bytes(layer.logical_bytes),
            bytes(layer.kept_bytes),
            thousands(layer.saves),
            thousands(layer.hits),
            layer.pack_seconds,
            layer.unpack_seconds
        )?;
    }
    writeln!(page, "</tbody></table>")
}

fn samples(page: &mut String, data: &ReportData) -> Result {
    if data.samples.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section><h2>Samples</h2>")?;
    for sample in &data.samples {
        writeln!(
            page,
            "<div class=\"sample\"><h3>Prompt</h3><p>{}</p><div class=\"texts\">",
            escape(&sample.prompt)
        )?;
        for (model, text) in &sample.texts {
            writeln!(page, "<div><h3>{}</h3><p>{}</p></div>", escape(model), escape(text))?;
        }
        writeln!(page, "</div></div>")?;
    }
    writeln!(page, "</section>")
}

fn weight_figures(page: &mut String, data: &ReportData) -> Result {
    if data.weights.is_empty() {
        return Ok(());
    }
    let clustered = data
        .weights
        .iter()
        .filter(|figure| !figure.centroids.is_empty())
        .count();
    writeln!(
        page,
        "<section><h2>Weights</h2><p class=\"quiet\">{} tensors, {} of them clustered. Bars: how many weights have a value, \
         where an error is given as they were trained, before their palettes took their place; lines: the centroids.</p><div class=\"grid-of-weights\">",
        thousands(data.weights.len() as u64),
        thousands(clustered as u64)
    )?;
    for figure in &data.weights {
        weights::draw(page, figure)?;
    }
    writeln!(page, "</div></section>")
}

fn settings(page: &mut String, data: &ReportData) -> Result {
    if data.settings.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section><h2>Settings</h2><table><tbody>")?;
    for (name, value) in &data.settings {
        writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            escape(name),
            escape(value)
        )?;
    }
    writeln!(page, "</tbody></table></section>")
}
