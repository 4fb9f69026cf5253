//! Where text for people goes: standard output, or standard error when standard output is for a JSON object.

use std::io::Write;

use serde::Serialize;

use crate::commands::Failure;

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

    /// A line for people. Where nobody can read it (a pipe that was closed, a full disk) the work goes on without.
    pub fn line(self, text: impl std::fmt::Display) {
        let _ = match self {
            Self::Human => writeln!(std::io::stdout(), "{text}"),
            Self::Json => writeln!(std::io::stderr(), "{text}"),
        };
    }

    /// A piece of a line for people, shown at once. Nothing is lost with a pipe that was closed at the other end but text for nobody.
    pub fn piece(self, text: &str) {
        let _ = match self {
            Self::Human => write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()),
            Self::Json => write!(std::io::stderr(), "{text}"),
        };
    }

    /// The JSON object, if it was asked for.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        if self == Self::Json {
            let line = serde_json::to_string(value)?;
            writeln!(std::io::stdout(), "{line}").map_err(|why| format!("cannot write to standard output: {why}"))?;
        }
        Ok(())
    }
}

/// What a system may not tell.
pub fn bytes_or_unknown(count: Option<u64>) -> String {
    count.map_or("an unknown amount".to_owned(), bytes)
}

/// Bytes in the unit that suits them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.2} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_units() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)],
            ["0 B", "1023 B", "1.50 KiB", "5.00 GiB"]
        );
    }
}
