//! A line chart that is readable at any width: the lines are an SVG that stretches, the labels are text beside it that does not.

use std::fmt::Write;

use super::axis::{Axis, Ends};
use super::html::{escape, short};

/// The drawing's own units; it is stretched to the width there is.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;

/// Points of a line at most: more than a screen can show.
const POINTS: usize = 800;

/// Values over steps, drawn together.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) series: Vec<Series>,
    /// A level to compare with, and what it is.
    pub(super) level: Option<(String, f64)>,
}

/// One line of a chart.
pub(super) struct Series {
    pub(super) label: String,
    pub(super) look: Look,
    /// Step and value, by step. Values that are not finite leave a gap.
    pub(super) points: Vec<(f64, f64)>,
}

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// In the background: single values that scatter.
    Faint,
    /// The line to look at.
    Strong,
    /// The line to look at, with a mark at every value.
    Marked,
}

impl Look {
    fn class(self) -> &'static str {
        match self {
            Look::Faint => "faint",
            Look::Strong | Look::Marked => "strong",
        }
    }
}

/// Draws a chart with its legend; nothing if it has no finite value.
pub(super) fn draw(page: &mut String, chart: &Chart) -> std::fmt::Result {
    let points = || {
        chart
            .series
            .iter()
            .flat_map(|series| &series.points)
            .filter(|(_, value)| value.is_finite())
    };
    let level = chart.level.iter().map(|(_, value)| *value);
    let across = Axis::over(points().map(|(step, _)| *step), Ends::AtValues);
    let up = Axis::over(points().map(|(_, value)| *value).chain(level), Ends::AtTicks);
    let (Some(across), Some(up)) = (across, up) else {
        return Ok(());
    };

    writeln!(
        page,
        "<figure class=\"chart\"><figcaption>{}{}</figcaption>",
        escape(chart.title),
        legend(chart)
    )?;
    writeln!(page, "<div class=\"plot\"><div class=\"ordinates\">")?;
    for &tick in &up.ticks {
        writeln!(
            page,
            "<span style=\"bottom:{:.2}%\">{}</span>",
            up.place(tick) * 100.0,
            short(tick)
        )?;
    }
    writeln!(page, "</div><div class=\"canvas\">")?;
    writeln!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        escape(chart.title)
    )?;
    let y = |value: f64| HEIGHT * (1.0 - up.place(value));
    for &tick in &up.ticks {
        writeln!(page, "<path class=\"grid\" d=\"M0 {0:.1}H{WIDTH}\"/>", y(tick))?;
    }
    if let Some((_, value)) = chart.level.as_ref().filter(|(_, value)| value.is_finite()) {
        writeln!(page, "<path class=\"level\" d=\"M0 {0:.1}H{WIDTH}\"/>", y(*value))?;
    }
    for series in &chart.series {
        let mut path = String::new();
        let mut pen_down = false;
        for (step, value) in thinned(&series.points, POINTS) {
            if value.is_finite() {
                write!(
                    path,
                    "{}{:.1} {:.1}",
                    if pen_down { 'L' } else { 'M' },
                    across.place(step) * WIDTH,
                    y(value)
                )?;
            }
            pen_down = value.is_finite();
        }
        writeln!(page, "<path class=\"{}\" d=\"{path}\"/>", series.look.class())?;
    }
    writeln!(page, "</svg>")?;
    for series in chart.series.iter().filter(|series| series.look == Look::Marked) {
        for (step, value) in thinned(&series.points, 60)
            .into_iter()
            .filter(|(_, value)| value.is_finite())
        {
            let (left, bottom) = (across.place(step) * 100.0, up.place(value) * 100.0);
            let title = format!("step {step}: {}", short(value));
            writeln!(
                page,
                "<i style=\"left:{left:.2}%;bottom:{bottom:.2}%\" title=\"{title}\"></i>"
            )?;
        }
    }
    writeln!(page, "</div><div class=\"abscissas\">")?;
    for &tick in &across.ticks {
        writeln!(
            page,
            "<span style=\"left:{:.2}%\">{}</span>",
            across.place(tick) * 100.0,
            short(tick)
        )?;
    }
    writeln!(page, "</div></div></figure>")
}

fn legend(chart: &Chart) -> String {
    let series = chart
        .series
        .iter()
        .map(|series| (series.look.class(), series.label.clone()));
    let level = chart
        .level
        .iter()
        .map(|(label, value)| ("level", format!("{label}: {}", short(*value))));
    series
        .chain(level)
        .map(|(class, label)| format!(" <span class=\"key {class}\">{}</span>", escape(&label)))
        .collect()
}

/// At most about `limit` of the points: of each run of neighbours the smallest and the largest value, so that no peak is lost.
fn thinned(points: &[(f64, f64)], limit: usize) -> Vec<(f64, f64)> {
    if points.len() <= limit {
        return points.to_vec();
    }
    let run = points.len().div_ceil(limit / 2);
    let mut kept = Vec::with_capacity(limit);
    for neighbours in points.chunks(run) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (neighbours.iter().min_by(by_value), neighbours.iter().max_by(by_value)) else {
            continue;
        };
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        kept.push(*first);
        if first.0 != second.0 {
            kept.push(*second);
        }
    }
    kept
}

/// The mean over the last steps, about a fiftieth of the run, at each step.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(2.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let finite = points.iter().filter(|(_, value)| value.is_finite());
    finite
        .map(|&(step, value)| {
            sum = sum * keep + value;
            weight = weight * keep + 1.0;
            (step, sum / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_peaks() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|step| (step as f64, 1.0)).collect();
        points[77_777].1 = 50.0;
        points[33_333].1 = -50.0;
        let kept = thinned(&points, POINTS);
        assert!(kept.len() <= POINTS && kept.contains(&(77_777.0, 50.0)) && kept.contains(&(33_333.0, -50.0)));
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn smoothing_follows_and_skips_what_is_not_finite() {
        let points: Vec<(f64, f64)> = (0..1000)
            .map(|step| (step as f64, if step < 500 { 4.0 } else { 2.0 }))
            .collect();
        let line = smoothed(&points);
        assert!(
            (line[0].1 - 4.0).abs() < 1e-12 && (line[499].1 - 4.0).abs() < 1e-9 && (line[999].1 - 2.0).abs() < 1e-6
        );
        assert_eq!(smoothed(&[(0.0, f64::NAN), (1.0, 3.0)]), [(1.0, 3.0)]);
    }

    #[test]
    fn values_that_are_not_finite_leave_a_gap() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 2.0), (3.0, 3.0)];
        let series = vec![Series {
            label: "x".into(),
            look: Look::Strong,
            points,
        }];
        let mut page = String::new();
        draw(
            &mut page,
            &Chart {
                title: "x",
                series,
                level: None,
            },
        )
        .unwrap();
        assert!(
            !page.contains("NaN") && page.contains("class=\"strong\" d=\"M0.0 300.0M666.7"),
            "{page}"
        );
        let mut empty = String::new();
        let series = vec![Series {
            label: "x".into(),
            look: Look::Strong,
            points: vec![(0.0, f64::NAN)],
        }];
        draw(
            &mut empty,
            &Chart {
                title: "x",
                series,
                level: None,
            },
        )
        .unwrap();
        assert!(empty.is_empty());
    }
}
