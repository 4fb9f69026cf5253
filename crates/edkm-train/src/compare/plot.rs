//! Perplexity against bits a weight, a line for each method.

use plotters::prelude::*;

use super::Comparison;

/// Pixels.
const SIZE: (u32, u32) = (800, 500);

/// Told apart also by those who see few colours (Okabe and Ito), and by the marks' order from left to right.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

/// The most that the plot shows of a perplexity, as a multiple of the best: beyond, differences that matter would be crowded.
const TALLEST: f64 = 10.0;

/// A method and its points: bits a weight, perplexity, deviation.
type Line<'a> = (&'a str, Vec<(f64, f64, f64)>);

/// The plot as an SVG. Rows without bits a weight are levels. Points above ten times the best are left out, and the caption says how many.
pub(super) fn draw(comparison: &Comparison) -> Result<String, String> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut levels = vec![("original", comparison.original.perplexity)];
    let mut left_out = 0;
    let all = || {
        comparison
            .rows
            .iter()
            .map(|row| row.perplexity)
            .filter(|p| p.is_finite())
    };
    let best = all().fold(comparison.original.perplexity, f64::min);
    for row in &comparison.rows {
        match row.bits_per_weight {
            _ if row.perplexity.is_nan() || row.perplexity > TALLEST * best => left_out += 1,
            None => levels.push((&row.method, row.perplexity)),
            Some(bits) => {
                let point = (bits, row.perplexity, row.deviation.unwrap_or(0.0));
                match lines.iter_mut().find(|(method, _)| *method == row.method) {
                    Some((_, points)) => points.push(point),
                    None => lines.push((&row.method, vec![point])),
                }
            }
        }
    }
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let mut text = String::new();
    plot(&mut text, &lines, &levels, left_out).map_err(|why| why.to_string())?;
    Ok(text)
}

fn plot(
    text: &mut String,
    lines: &[Line<'_>],
    levels: &[(&str, f64)],
    left_out: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bits = points().map(|point| point.0);
    let (low, high) = bits.fold((f64::INFINITY, 0.0f64), |(low, high), b| (low.min(b), high.max(b)));
    let (low, high) = if low > high {
        (0.0, 8.0)
    } else {
        (low - 0.2, high + 0.2)
    };
    let tops = points().map(|p| p.1 + p.2).chain(levels.iter().map(|level| level.1));
    let bottoms = points().map(|p| p.1 - p.2).chain(levels.iter().map(|level| level.1));
    let (bottom, top) = (bottoms.fold(f64::INFINITY, f64::min), tops.fold(0.0, f64::max));
    let (low_end, high_end) = (0.97 * bottom, 1.05 * top);
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = match left_out {
        0 => "Perplexity and bits a weight".to_owned(),
        1 => format!("Perplexity and bits a weight (1 above {TALLEST} times the best left out)"),
        n => format!("Perplexity and bits a weight ({n} above {TALLEST} times the best left out)"),
    };
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            low..high,
            (low_end..high_end)
                .log_scale()
                .with_key_points(ticks(low_end, high_end)),
        )?;
    chart
        .configure_mesh()
        .x_desc("bits a weight, everything counted")
        .y_desc("perplexity")
        .y_label_formatter(&|perplexity| format!("{perplexity:.2}"))
        .light_line_style(WHITE)
        .draw()?;
    let mut colors = COLORS.iter().cycle();
    for ((name, points), &color) in lines.iter().zip(&mut colors) {
        let line = points.iter().map(|&(bits, perplexity, _)| (bits, perplexity));
        chart
            .draw_series(LineSeries::new(line.clone(), color.stroke_width(2)).point_size(0))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(line.map(|point| Circle::new(point, 4, color.filled())))?;
        let bars = points.iter().filter(|point| point.2 > 0.0);
        chart.draw_series(bars.map(|&(bits, perplexity, deviation)| {
            let ends = [(bits, perplexity - deviation), (bits, perplexity + deviation)];
            PathElement::new(ends, color.stroke_width(1))
        }))?;
    }
    for (index, &(name, level)) in levels.iter().enumerate() {
        let color = if index == 0 { BLACK } else { COLORS[COLORS.len() - 1] };
        chart
            .draw_series(DashedLineSeries::new(
                [(low, level), (high, level)],
                6,
                4,
                color.stroke_width(1),
            ))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(1)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// The values that are written beside a logarithmic axis: 1, 1.5, 2, 3, 5 and 7 times powers of ten, or, where few of those are, steps alike.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let round: Vec<f64> = powers
        .flat_map(|power| [1.0, 1.5, 2.0, 3.0, 5.0, 7.0].map(|digit| digit * 10f64.powi(power)))
        .filter(|tick| (low..=high).contains(tick))
        .collect();
    if round.len() >= 4 {
        return round;
    }
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough);
    let step = factor.unwrap_or(10.0) * power;
    let first = (low / step).ceil() as i64;
    (first..)
        .map(|n| n as f64 * step)
        .take_while(|tick| *tick <= high)
        .take(20)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_several_labels_however_wide_it_is() {
        for (low, high) in [
            (1.5, 13.2),
            (1.5, 1.7),
            (2.8, 3.6),
            (2.83, 29.0),
            (900.0, 950.0),
            (1.0, 1e4),
        ] {
            let ticks = ticks(low, high);
            assert!((3..=26).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (low..=high).contains(tick)), "{ticks:?}");
        }
    }
}
