//! One or two numbers, `FROM:TO`.

use std::fmt;
use std::str::FromStr;

use edkm_train::lesson::Ramp;

/// A number that goes from one value to another over a run, or stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// At the first step.
    pub from: f64,
    /// At the last, if it is another.
    pub to: Option<f64>,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<f64>()
                .map_err(|_| format!("`{text}` is not a number; write one as 0.1 or two as 1:0.004"))
        };
        Ok(match text.split_once(':') {
            None => Range {
                from: number(text)?,
                to: None,
            },
            Some((from, to)) => Range {
                from: number(from)?,
                to: Some(number(to)?),
            },
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.from)?;
        self.to.map_or(Ok(()), |to| write!(f, ":{to}"))
    }
}

impl From<Ramp> for Range {
    fn from(Ramp { from, to }: Ramp) -> Self {
        Self {
            from,
            to: (to != from).then_some(to),
        }
    }
}

impl From<Range> for Ramp {
    fn from(Range { from, to }: Range) -> Self {
        Self {
            from,
            to: to.unwrap_or(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_number_or_two() {
        let range = |text: &str| text.parse::<Range>();
        assert_eq!(range("0.1"), Ok(Range { from: 0.1, to: None }));
        assert_eq!(
            range("0.15:2e-3"),
            Ok(Range {
                from: 0.15,
                to: Some(2e-3)
            })
        );
        for bad in ["", ":", "0.1:", "a:1", "1:2:3"] {
            assert!(range(bad).unwrap_err().contains("1:0.004"), "{bad}");
        }
        for text in ["0.5", "1:0.3"] {
            assert_eq!(Range::from(Ramp::from(range(text).unwrap())).to_string(), text);
        }
    }
}
