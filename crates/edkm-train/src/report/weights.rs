//! The figure of one weight matrix: measured from the numbers, drawn as a histogram with the centroids in it.

use std::fmt::Write;

use edkm_palette::PalettizedMatrix;

use super::data::{Centroid, Histogram, WeightFigure};
use super::html::{escape, part, short};

/// Bins of a histogram: each about four pixels wide on a phone.
const BINS: usize = 72;

/// Up to so many centroids are drawn over the whole height; more would hide the histogram and become ticks below it.
pub(crate) const TALL_CENTROIDS: usize = 32;

/// With more none is drawn: they would be a bar from end to end.
pub(crate) const MOST_CENTROIDS: usize = 720;

/// The drawing's own units; it is stretched to the width there is.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;

impl Histogram {
    /// The histogram of the finite numbers among `values`, in `bins` bins.
    pub fn of(values: &[f32], bins: usize) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = finite().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if bins == 0 || low > high {
            return Self::default();
        }
        let mut counts = vec![0; bins];
        // In f64: the difference of two f32 may overflow.
        let width = (f64::from(high) - f64::from(low)) / bins as f64;
        for value in finite() {
            let bin = if width > 0.0 {
                ((f64::from(value) - f64::from(low)) / width) as usize
            } else {
                0
            };
            counts[bin.min(bins - 1)] += 1;
        }
        Self { low, high, counts }
    }
}

impl WeightFigure {
    /// The figure of weights that are not clustered.
    pub fn plain(name: &str, shape: &[usize], weights: &[f32]) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            histogram: Histogram::of(weights, BINS),
            centroids: Vec::new(),
            palettes: 0,
            mean_squared_error: None,
            variance: variance(weights),
        }
    }

    /// The figure of weights that are clustered: `clustered` holds for each weight the centroid it was given (as many as
    /// there are weights), and `palettes` is the number of palettes they come from.
    ///
    /// The centroids shown are those that occur. Time and memory: one sorted copy of `clustered`.
    pub fn clustered(name: &str, shape: &[usize], weights: &[f32], clustered: &[f32], palettes: usize) -> Self {
        Self {
            mean_squared_error: Some(mean_squared_error(weights, clustered)),
            ..Self::from_centroids(name, shape, clustered, palettes)
        }
        .with_weights(weights)
    }

    /// The figure of a compressed matrix: of the `weights` that it was made from, where they are at hand, with the error; else of the numbers that it holds.
    ///
    /// Memory: the matrix in f32, and where rows have factors once more.
    pub fn of_matrix(name: &str, matrix: &PalettizedMatrix, weights: Option<&[f32]>) -> Self {
        let (shape, clustered) = ([matrix.rows(), matrix.cols()], matrix.dequantize());
        let plain = Self::plain(name, &shape, weights.unwrap_or(&clustered));
        Self {
            centroids: match matrix.row_scales() {
                None => counted(matrix),
                Some(_) => centroids_in(&clustered),
            },
            palettes: matrix.groups(),
            mean_squared_error: weights.map(|weights| mean_squared_error(weights, &clustered)),
            ..plain
        }
    }

    /// The figure of a matrix of which only the assigned centroids are at hand.
    pub fn from_centroids(name: &str, shape: &[usize], clustered: &[f32], palettes: usize) -> Self {
        Self {
            centroids: centroids_in(clustered),
            palettes,
            ..Self::plain(name, shape, clustered)
        }
    }

    fn with_weights(mut self, weights: &[f32]) -> Self {
        self.histogram = Histogram::of(weights, BINS);
        self.variance = variance(weights);
        self
    }
}

/// The centroids that occur, from the number of each weight.
fn centroids_in(clustered: &[f32]) -> Vec<Centroid> {
    let mut sorted = clustered.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let share = 1.0 / clustered.len().max(1) as f64;
    let runs = sorted.chunk_by(|a, b| a == b);
    runs.map(|run| Centroid {
        value: run[0],
        share: run.len() as f64 * share,
    })
    .collect()
}

/// The same from the indices, of a matrix without factors of rows.
fn counted(matrix: &PalettizedMatrix) -> Vec<Centroid> {
    let spec = matrix.spec();
    let (indices, of_row) = (matrix.indices(), matrix.cols() / spec.vector);
    let mut found: Vec<(f32, u64)> = Vec::new();
    for group in 0..matrix.groups() {
        let rows = matrix.group_rows(group);
        let mut counts = vec![0u64; spec.clusters()];
        for &index in &indices[rows.start * of_row..rows.end * of_row] {
            counts[usize::from(index)] += 1;
        }
        let entries = matrix.palette(group).chunks(spec.vector).zip(counts);
        found.extend(
            entries
                .filter(|(_, count)| *count > 0)
                .flat_map(|(entry, count)| entry.iter().map(move |&value| (value, count))),
        );
    }
    found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let share = 1.0 / (matrix.rows() * matrix.cols()) as f64;
    let runs = found.chunk_by(|a, b| a.0 == b.0);
    runs.map(|run| Centroid {
        value: run[0].0,
        share: run.iter().map(|(_, count)| count).sum::<u64>() as f64 * share,
    })
    .collect()
}

fn mean_squared_error(weights: &[f32], clustered: &[f32]) -> f64 {
    let pairs = weights.iter().zip(clustered);
    let squares = pairs.map(|(&weight, &centroid)| (f64::from(weight) - f64::from(centroid)).powi(2));
    squares.sum::<f64>() / weights.len().max(1) as f64
}

fn variance(weights: &[f32]) -> f64 {
    let count = weights.len().max(1) as f64;
    let mean = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() / count;
    weights
        .iter()
        .map(|&weight| (f64::from(weight) - mean).powi(2))
        .sum::<f64>()
        / count
}

/// One figure with its caption.
pub(super) fn draw(page: &mut String, figure: &WeightFigure) -> std::fmt::Result {
    let shape = figure
        .shape
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(" × ");
    writeln!(
        page,
        "<figure class=\"weights\"><figcaption><b>{}</b> <span>{shape}</span></figcaption>",
        escape(&figure.name)
    )?;
    let Histogram { low, high, counts } = &figure.histogram;
    let spread = low < high;
    if spread {
        writeln!(
            page,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Histogram of {} \
             with {} centroids\">",
            escape(&figure.name),
            figure.centroids.len()
        )?;
        writeln!(page, "<path class=\"bars\" d=\"{}\"/>", outline(counts))?;
        centroids(page, figure)?;
        writeln!(
            page,
            "</svg><div class=\"ends\"><span>{}</span><span>{}</span></div>",
            short((*low).into()),
            short((*high).into())
        )?;
    }
    let mut facts = Vec::new();
    if !spread && !counts.is_empty() {
        facts.push(format!("every weight is {}", short((*low).into())));
    }
    match (figure.centroids.len(), figure.palettes) {
        (0, _) => facts.push("not clustered".to_owned()),
        (count, 0 | 1) => facts.push(format!("{count} centroids in use")),
        // vectors have as many values as numbers in use, and rows with a factor theirs
        (count, palettes) => facts.push(format!("{count} values, of {palettes} palettes")),
    }
    if let Some(error) = figure.mean_squared_error {
        facts.push(format!("mean squared error {}", short(error)));
        if figure.variance > 0.0 {
            facts.push(format!("{} of the variance", part(error / figure.variance)));
        }
    }
    writeln!(page, "<p>{}</p></figure>", facts.join(" · "))
}

/// The outline of all bars as one path.
fn outline(counts: &[u64]) -> String {
    let highest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let step = WIDTH / counts.len() as f64;
    let mut path = format!("M0 {HEIGHT}");
    for (bin, &count) in counts.iter().enumerate() {
        let top = HEIGHT - count as f64 / highest * (HEIGHT - 4.0);
        // Writing to a string cannot fail.
        let _ = write!(path, "V{top:.1}H{:.1}", (bin + 1) as f64 * step);
    }
    path + &format!("V{HEIGHT}Z")
}

/// The centroids of a figure whose weights are not all the same.
fn centroids(page: &mut String, figure: &WeightFigure) -> std::fmt::Result {
    if figure.centroids.len() > MOST_CENTROIDS {
        return Ok(());
    }
    let Histogram { low, high, .. } = figure.histogram;
    let (low, range) = (f64::from(low), f64::from(high) - f64::from(low));
    let drawn = figure.centroids.iter().filter(|centroid| centroid.value.is_finite());
    let drawn = drawn.map(|centroid| {
        let place = (f64::from(centroid.value) - low) / range;
        // A centroid of rounded weights may lie a hair outside of them.
        (centroid, place.clamp(0.0, 1.0) * WIDTH)
    });
    if figure.centroids.len() <= TALL_CENTROIDS {
        for (centroid, x) in drawn {
            writeln!(
                page,
                "<line class=\"centroid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{HEIGHT}\"><title>{}: {} of the weights</title></line>",
                short(centroid.value.into()),
                part(centroid.share)
            )?;
        }
        return Ok(());
    }
    write!(page, "<path class=\"centroid tick\" d=\"")?;
    let mut last = None;
    for x in drawn
        .map(|(_, x)| x.round() as u32)
        .filter(|&x| last.replace(x) != Some(x))
    {
        write!(page, "M{x} {HEIGHT}v-14")?;
    }
    writeln!(page, "\"/>")?;
    Ok(())
}
