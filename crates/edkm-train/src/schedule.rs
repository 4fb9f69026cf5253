//! Learning rate and clustering temperature as functions of the step: nothing to save, nothing to resume.

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How long the learning rate rises before it falls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// This many steps.
    Steps(u64),
    /// This part of the run, from 0 to 1; rounded to whole steps.
    Fraction(f64),
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays at its peak.
    Constant,
    /// It falls along half a cosine, to this part of the peak at the last step.
    Cosine {
        /// Learning rate at the last step divided by the peak, from 0 to 1.
        floor: f64,
    },
}

/// The learning rate of every step of a run: a linear warm-up to the peak, then the decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    peak: f64,
    warm_up: u64,
    decay: Decay,
    steps: u64,
}

impl LearningRate {
    /// A warm-up over 5 % of the run, then a cosine to a tenth of the peak.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn cosine(peak: f64, steps: u64) -> Result<Self, TrainError> {
        Self::new(peak, WarmUp::Fraction(0.05), Decay::Cosine { floor: 0.1 }, steps)
    }

    /// The schedule of a run of `steps` steps.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a peak that is negative or beyond f32, or a fraction or floor outside 0 to 1.
    pub fn new(peak: f64, warm_up: WarmUp, decay: Decay, steps: u64) -> Result<Self, TrainError> {
        check(
            "learning rate",
            peak,
            "a number from 0, and no more than f32 has",
            (0.0..=f64::from(f32::MAX)).contains(&peak),
        )?;
        let warm_up = match warm_up {
            WarmUp::Steps(count) => count.min(steps),
            WarmUp::Fraction(part) => {
                check(
                    "warm-up",
                    part,
                    "a part of the run from 0 to 1",
                    (0.0..=1.0).contains(&part),
                )?;
                (part * steps as f64).round() as u64
            }
        };
        if let Decay::Cosine { floor } = decay {
            check(
                "final learning rate",
                floor,
                "a part of the peak from 0 to 1",
                (0.0..=1.0).contains(&floor),
            )?;
        }
        Ok(Self {
            peak,
            warm_up,
            decay,
            steps,
        })
    }

    /// The learning rate of a step, from 0. After the last step it stays where it is.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warm_up {
            // The first step already moves: it has 1 / warm_up of the peak, not 0.
            return self.peak * (step + 1) as f64 / self.warm_up as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine { floor } => {
                let way = progress(step - self.warm_up, self.steps - self.warm_up);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * way).cos());
                self.peak * (floor + (1.0 - floor) * cosine)
            }
        }
    }
}

/// How the temperature of the soft assignment goes over a run.
///
/// The numbers are in whatever unit the clustering takes: the squared distance itself, or relative to the palette (times
/// the squared gap between its centroids), which serves tensors of any spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Annealing {
    /// The same at every step.
    Constant(f64),
    /// Falling (or rising) by the same factor at every step.
    Exponential {
        /// At the first step.
        from: f64,
        /// At the last step.
        to: f64,
        /// The part of the run, from 0 to 1, over which it falls; it stays at `to` for the rest.
        share: f64,
    },
}

/// Steps that are shorter still leave the beginning where it is.
const LEAST_RATE: f64 = 0.05;

/// The temperature of every step of a run, and what it is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemperatureSchedule {
    unit: TemperatureUnit,
    annealing: Annealing,
    start: u64,
    steps: u64,
}

/// What a temperature is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemperatureUnit {
    /// Squared weight, as in the DKM paper: fits one spread of weights only.
    Absolute,
    /// The squared gap of each palette: how far a centroid is from its nearest other one (see [`Temperature::Relative`](edkm_cluster::Temperature::Relative)).
    Relative,
}

impl TemperatureSchedule {
    /// From 1 to 0.004 relative to each palette: weights are free to change cluster early and nearly hard at the end. With more than 2 bits, runs of less
    /// than 200 steps begin lower in proportion, at 0.5 the least, and all that are not long begin lower by as much as their steps are shorter than usual, since they make
    /// less of that freedom: see the record of experiments. `bits`: those that indices take of a weight; `rate`: the peak learning rate over the usual one.
    pub fn annealed(bits: f64, steps: u64, rate: f64) -> Self {
        let least = match bits {
            ..=2.0 => 1.0,
            _ => 0.5,
        };
        let from = (steps as f64 / 200.0).max(least) * rate.clamp(LEAST_RATE, 1.0);
        Self::falling_from(from.min(1.0), steps)
    }

    /// [`annealed`](Self::annealed) for a model that has such palettes already: with more than 2 bits from 0.2, since a softer beginning gives away some of what
    /// they have.
    pub fn trained_on(bits: f64, steps: u64) -> Self {
        match bits {
            ..=2.0 => Self::annealed(bits, steps, 1.0),
            _ => Self::falling_from(0.2, steps),
        }
    }

    fn falling_from(from: f64, steps: u64) -> Self {
        let annealing = Annealing::Exponential {
            from,
            to: 0.004,
            share: 1.0,
        };
        Self {
            unit: TemperatureUnit::Relative,
            annealing,
            start: 0,
            steps,
        }
    }

    /// The schedule of a run of `steps` steps.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a temperature that is not a finite number above 0.
    pub fn new(unit: TemperatureUnit, annealing: Annealing, steps: u64) -> Result<Self, TrainError> {
        let ends = match annealing {
            Annealing::Constant(value) => [value, value],
            Annealing::Exponential { from, to, share } => {
                let holds = (0.0..=1.0).contains(&share);
                check("share of the annealing", share, "a part of the run from 0 to 1", holds)?;
                [from, to]
            }
        };
        for value in ends {
            check(
                "temperature",
                value,
                "a finite number above 0",
                value > 0.0 && value.is_finite(),
            )?;
        }
        Ok(Self {
            unit,
            annealing,
            start: 0,
            steps,
        })
    }

    /// The same fall, begun at `step` in place of the first: for a clustering that begins there.
    pub fn starting_at(self, step: u64) -> Self {
        Self { start: step, ..self }
    }

    /// Steps of the run that it is made for; `None` where the temperature is the same for any number.
    pub fn steps(&self) -> Option<u64> {
        match self.annealing {
            Annealing::Constant(_) => None,
            Annealing::Exponential { .. } => Some(self.steps),
        }
    }

    /// The step at which the clustering begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The temperature of a step, from 0, in [`Self::unit`]. After the last step it stays where it is.
    pub fn at(&self, step: u64) -> f64 {
        match self.annealing {
            Annealing::Constant(value) => value,
            Annealing::Exponential { from, to, share } => {
                let way = self.way(step, share);
                // Exactly `from` and `to` at the ends, which exp(ln) would miss by a rounding.
                if way == 0.0 {
                    from
                } else if way == 1.0 {
                    to
                } else {
                    (from.ln() * (1.0 - way) + to.ln() * way).exp()
                }
            }
        }
    }

    /// How far the fall has come, from 0 to 1.
    fn way(&self, step: u64, share: f64) -> f64 {
        let way = progress(step.saturating_sub(self.start), self.steps.saturating_sub(self.start));
        if share > 0.0 {
            (way / share).min(1.0)
        } else {
            1.0
        }
    }

    /// The part of the steps in which it falls; `None` where it does not.
    pub fn share(&self) -> Option<f64> {
        match self.annealing {
            Annealing::Constant(_) => None,
            Annealing::Exponential { share, .. } => Some(share),
        }
    }

    /// What [`Self::at`] is measured in.
    pub fn unit(&self) -> TemperatureUnit {
        self.unit
    }
}

/// How far a run of `steps` steps has come at `step`: 0 at the first step, 1 at the last and after.
fn progress(step: u64, steps: u64) -> f64 {
    match steps {
        0 | 1 => 0.0,
        _ => step.min(steps - 1) as f64 / (steps - 1) as f64,
    }
}

fn check(setting: &'static str, value: f64, expected: &'static str, holds: bool) -> Result<(), TrainError> {
    match holds {
        true => Ok(()),
        false => Err(TrainError::Setting {
            setting,
            value: value.to_string(),
            expected,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs().max(1.0)
    }

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_a_tenth() {
        let rate = LearningRate::cosine(2e-3, 400).unwrap();
        assert!(close(rate.at(0), 2e-3 / 20.0));
        assert!(close(rate.at(19), 2e-3));
        assert!(close(rate.at(20), 2e-3));
        // Halfway between step 20 and step 399 the cosine is at the mean of its ends.
        assert!(close((rate.at(209) + rate.at(210)) / 2.0, 1.1e-3));
        assert!(close(rate.at(399), 2e-4));
        assert!(close(rate.at(10_000), 2e-4));
        assert!((20..399).all(|step| rate.at(step + 1) < rate.at(step)));
    }

    #[test]
    fn short_runs_have_finite_rates() {
        for steps in 0..4 {
            for warm_up in [
                WarmUp::Steps(0),
                WarmUp::Steps(2),
                WarmUp::Steps(100),
                WarmUp::Fraction(1.0),
            ] {
                let rate = LearningRate::new(1.0, warm_up, Decay::Cosine { floor: 0.1 }, steps).unwrap();
                assert!(
                    (0..6).all(|step| (0.1 - 1e-12..=1.0).contains(&rate.at(step))),
                    "{rate:?}"
                );
            }
        }
    }

    #[test]
    fn a_constant_rate_stays() {
        let rate = LearningRate::new(0.5, WarmUp::Steps(2), Decay::Constant, 10).unwrap();
        assert_eq!([rate.at(0), rate.at(1), rate.at(2), rate.at(9)], [0.25, 0.5, 0.5, 0.5]);
    }

    #[test]
    fn short_runs_begin_harder_from_3_bits_on() {
        let start = |bits: f64, steps| TemperatureSchedule::annealed(bits, steps, 1.0).at(0);
        assert_eq!(
            [start(3.0, 1), start(3.0, 100), start(4.0, 150), start(3.0, 1000)],
            [0.5, 0.5, 0.75, 1.0]
        );
        assert_eq!([start(2.0, 100), start(1.0, 400), start(2.7, 100)], [1.0, 1.0, 0.5]);
        // shorter steps, in runs that are not long for all that; no harder than at the end
        let start = |bits: f64, steps, rate| TemperatureSchedule::annealed(bits, steps, rate).at(0);
        assert_eq!(
            [start(3.0, 100, 0.25), start(3.0, 400, 0.25), start(3.0, 800, 0.25)],
            [0.125, 0.5, 1.0]
        );
        assert_eq!(
            [start(3.0, 100, 4.0), start(2.0, 100, 0.25), start(2.0, 400, 0.25)],
            [0.5, 0.25, 0.5]
        );
        assert!(start(3.0, 1, 0.0) > 0.004);
    }

    #[test]
    fn the_temperature_falls_by_a_constant_factor() {
        let schedule = TemperatureSchedule::annealed(3.0, 400, 1.0);
        assert_eq!(
            (schedule.at(0), schedule.at(399), schedule.at(500)),
            (1.0, 0.004, 0.004)
        );
        let factor = 0.004f64.powf(1.0 / 399.0);
        assert!((0..399).all(|step| close(schedule.at(step + 1) / schedule.at(step), factor)));
    }

    #[test]
    fn the_temperature_stays_at_its_end_and_can_begin_late() {
        let annealing = |share| Annealing::Exponential {
            from: 0.1,
            to: 1e-3,
            share,
        };
        let new = |share| TemperatureSchedule::new(TemperatureUnit::Relative, annealing(share), 101);
        let schedule = new(0.8).unwrap();
        assert_eq!((schedule.at(0), schedule.at(80), schedule.at(100)), (0.1, 1e-3, 1e-3));
        assert!(close(schedule.at(40), 1e-2));
        assert_eq!(new(0.0).unwrap().at(0), 1e-3);
        assert!(new(1.1).is_err() && new(f64::NAN).is_err());
        let late = new(1.0).unwrap().starting_at(60);
        assert_eq!((late.at(10), late.at(60), late.at(100)), (0.1, 0.1, 1e-3));
        assert!(close(late.at(80), 1e-2));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let cosine = Decay::Cosine { floor: 0.1 };
        for peak in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(LearningRate::new(peak, WarmUp::Steps(0), cosine, 1)
                .unwrap_err()
                .to_string()
                .contains("learning rate"));
        }
        for part in [-0.1, 1.1, f64::NAN] {
            assert!(LearningRate::new(1.0, WarmUp::Fraction(part), cosine, 1).is_err());
            assert!(LearningRate::new(1.0, WarmUp::Steps(0), Decay::Cosine { floor: part }, 1).is_err());
        }
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let annealing = Annealing::Exponential {
                from: 0.1,
                to: value,
                share: 1.0,
            };
            assert!(TemperatureSchedule::new(TemperatureUnit::Absolute, annealing, 1).is_err());
            assert!(TemperatureSchedule::new(TemperatureUnit::Relative, Annealing::Constant(value), 1).is_err());
        }
    }
}
