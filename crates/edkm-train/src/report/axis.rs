//! An axis: where it begins and ends, and the round numbers that are written beside it.

/// Where the values of an axis lie.
pub(super) struct Axis {
    low: f64,
    high: f64,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis over the finite ones of the values; `None` if there are none.
    pub(super) fn over(values: impl Iterator<Item = f64>, ends: Ends) -> Option<Self> {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        // `high - low` may overflow where both are finite: such a chart would show nothing.
        if low > high || !(high - low).is_finite() {
            return None;
        }
        let range = if high > low {
            high - low
        } else {
            low.abs().max(1.0) * 0.1
        };
        let rough = range / 4.0;
        // read, not computed: powers of ten from the C library of MinGW are not round, and ticks would not be
        let power = format!("1e{}", rough.log10().floor()).parse().unwrap_or(rough);
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|&step| step >= rough)
            .unwrap_or(rough);
        let (first, last) = match ends {
            Ends::AtTicks => (
                (low / step).floor(),
                (high / step).ceil().max((low / step).floor() + 1.0),
            ),
            Ends::AtValues => ((low / step).ceil(), (high / step).floor()),
        };
        let ticks: Vec<f64> = (0..=(last - first) as usize)
            .map(|index| (first + index as f64) * step)
            .collect();
        Some(match ends {
            Ends::AtTicks => Self {
                low: first * step,
                high: last * step,
                ticks,
            },
            Ends::AtValues => Self {
                low,
                high: if high > low { high } else { low + 1.0 },
                ticks,
            },
        })
    }

    /// The place of a value, from 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// Where an axis begins and ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    AtTicks,
    AtValues,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        for (low, high) in [
            (0.0, 1.0),
            (2.83, 9.587),
            (1e-7, 3e-7),
            (-5.0, 1e6),
            (3.0, 3.0),
            (0.0, 0.0),
        ] {
            let axis = Axis::over([low, high].into_iter(), Ends::AtTicks).unwrap();
            assert!(
                axis.low <= low && high <= axis.high && axis.low < axis.high,
                "{low} to {high}"
            );
            assert!((2..=7).contains(&axis.ticks.len()), "{:?}", axis.ticks);
            let inner = Axis::over([low, high].into_iter(), Ends::AtValues).unwrap();
            assert!(inner.ticks.iter().all(|&tick| low <= tick && tick <= high) && inner.place(high).is_finite());
        }
        assert!(Axis::over([f64::NAN].into_iter(), Ends::AtTicks).is_none());
        assert!(Axis::over([f64::MIN, f64::MAX].into_iter(), Ends::AtTicks).is_none());
    }
}
