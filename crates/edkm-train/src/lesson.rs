//! What a run learns of the model as it came, step by step.

use edkm_llama::model::Distillation;

/// A number that goes in a straight line from the first step of a run to the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// At the first step.
    pub from: f64,
    /// At the last step.
    pub to: f64,
}

impl Ramp {
    /// The same at every step.
    pub const fn constant(value: f64) -> Self {
        Self { from: value, to: value }
    }

    /// 0 at every step.
    pub fn is_zero(&self) -> bool {
        *self == Self::constant(0.0)
    }

    /// The number of `step`, from 0, of a run of `steps`. After the last step it stays.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        let last = steps.saturating_sub(1);
        match step.min(last) {
            0 => self.from,
            step if step == last => self.to,
            step => self.from + (self.to - self.from) * (step as f64 / last as f64),
        }
    }
}

/// How a run weighs what it learns of the model as it came: see [`Distillation`], whose numbers these are over the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lesson {
    /// The share of the loss that is the divergence from the teacher's predictions.
    pub share: Ramp,
    /// The weight of the mean distance of hidden states from the teacher's.
    pub hidden: Ramp,
    /// The lead over the teacher, in nats a token, with which both are gone.
    pub fade: f32,
}

impl Lesson {
    /// The lesson of `step`, from 0, of a run of `steps`; `None` where nothing is learned of the teacher.
    pub fn at(&self, step: u64, steps: u64) -> Option<Distillation> {
        let [share, hidden] = [self.share, self.hidden].map(|ramp| ramp.at(step, steps) as f32);
        (share != 0.0 || hidden != 0.0).then_some(Distillation {
            share,
            hidden,
            fade: self.fade,
        })
    }

    /// Whether no step learns of the teacher.
    pub fn is_nothing(&self) -> bool {
        self.share.is_zero() && self.hidden.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_is_a_straight_line_with_exact_ends() {
        let ramp = Ramp { from: 0.9, to: 0.1 };
        assert_eq!([0, 4, 5].map(|step| ramp.at(step, 5)), [0.9, 0.1, 0.1]);
        assert!((ramp.at(1, 5) - 0.7).abs() < 1e-12);
        // a single step is the first one
        assert_eq!([0, 1].map(|steps| ramp.at(0, steps)), [0.9, 0.9]);
        assert_eq!(Ramp::constant(0.3).at(7, 20), 0.3);
    }

    #[test]
    fn a_lesson_that_is_over_needs_no_teacher() {
        let lesson = Lesson {
            share: Ramp { from: 1.0, to: 0.0 },
            hidden: Ramp { from: 2.0, to: 0.0 },
            fade: 0.1,
        };
        let half = lesson.at(5, 11).unwrap();
        assert_eq!((half.share, half.hidden, half.fade), (0.5, 1.0, 0.1));
        assert_eq!(lesson.at(10, 11), None);
        assert!(!lesson.is_nothing());
        let nothing = Ramp::constant(0.0);
        assert!(Lesson {
            share: nothing,
            hidden: nothing,
            ..lesson
        }
        .is_nothing());
    }
}
