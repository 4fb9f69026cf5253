//! Where text for people goes: standard output, or standard error when standard output is for a JSON object.

use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::OnceLock;

pub use edkm_train::memory::bytes_in_words as bytes;
use serde::Serialize;

use crate::commands::Failure;

/// The first write of a result that failed.
static FAILED: OnceLock<std::io::Error> = OnceLock::new();

/// What standard output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Text for people.
    Human,
    /// One JSON object; text for people goes to standard error.
    Json,
}

impl Output {
    /// As asked for by `--json`.
    pub fn new(json_flag: bool) -> Self {
        if json_flag {
            Self::Json
        } else {
            Self::Human
        }
    }

    /// A line of what was asked for, for people. Where it cannot be written (a full disk) the work goes on, and [`check`] says so at the end.
    pub fn line(self, text: impl std::fmt::Display) {
        match self {
            Self::Human => result(writeln!(std::io::stdout(), "{text}")),
            Self::Json => note(text),
        }
    }

    /// A piece of such a line, shown at once.
    pub fn piece(self, text: &str) {
        match self {
            Self::Human => result(write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush())),
            Self::Json => drop(write!(std::io::stderr(), "{text}")),
        }
    }

    /// [`piece`](Self::piece), and whether more is wanted: a reader who has gone wants none.
    pub fn wanted(self, text: &str) -> ControlFlow<()> {
        self.piece(text);
        match is_in_vain() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// A line of how far the work is. Where nobody can read it the work goes on without.
    pub fn progress(self, text: impl std::fmt::Display) {
        match self {
            Self::Human => drop(writeln!(std::io::stdout(), "{text}")),
            Self::Json => note(text),
        }
    }

    /// The JSON object, if it was asked for.
    ///
    /// # Errors
    /// A value that is no JSON.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        if self == Self::Json {
            let line = serde_json::to_string(value)?;
            result(writeln!(std::io::stdout(), "{line}"));
        }
        Ok(())
    }
}

/// A line beside the results, on standard error. Where nobody can read it the work goes on without.
pub fn note(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn result(written: std::io::Result<()>) {
    if let Err(why) = written {
        // the first says what is wrong, those behind it no more
        drop(FAILED.set(why));
    }
}

/// Whether nobody reads what is still to come.
pub fn is_in_vain() -> bool {
    FAILED.get().is_some()
}

/// Whether all results could be written. A pipe whose other end was closed had a reader who wanted no more, and that is well.
///
/// # Errors
/// Standard output that could not be written.
pub fn check() -> Result<(), Failure> {
    result(std::io::stdout().flush());
    match FAILED.get() {
        Some(why) if why.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {why}; all else is done").into())
        }
        _ => Ok(()),
    }
}

/// What a system may not tell.
pub fn bytes_or_unknown(count: Option<u64>) -> String {
    count.map_or("an unknown amount".to_owned(), bytes)
}

/// A time in the unit that suits it, with three digits or all that are before the point.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    let places = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.places$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_units() {
        assert_eq!(
            [0.0, 3.604e-5, 0.0732, 0.9876, 1.85, 187.4].map(duration),
            ["0.00 us", "36.0 us", "73.2 ms", "988 ms", "1.85 s", "187 s"]
        );
    }
}
