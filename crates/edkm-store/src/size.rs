//! Amounts of memory as people write them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An amount of memory, in bytes. Reads and writes `2GiB`, `512MiB`, `64KiB`, `1.5GB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl From<u64> for Bytes {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

/// Text that is not an amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an amount of memory: write a number and a unit, as in 2GiB, 512MiB, 64KiB, 1GB or 4096")]
pub struct ParseBytesError(String);

const UNITS: [(&str, u64); 7] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, ParseBytesError> {
        let error = || ParseBytesError(text.to_owned());
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "" | "B" => 1,
            unit => {
                UNITS
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                    .ok_or_else(error)?
                    .1
            }
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Self).ok_or_else(error);
        }
        let bytes = number.parse::<f64>().map_err(|_| error())? * unit as f64;
        // Beyond 2^53 a fraction is not exact, and nobody means one.
        if bytes < (1u64 << 53) as f64 {
            Ok(Self(bytes as u64))
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[..4]
            .iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!(read("2GiB"), Ok(2 << 30));
        assert_eq!(read("1.5 MiB"), Ok(3 << 19));
        assert_eq!(read("64kib"), Ok(64 << 10));
        assert_eq!(read("1GB"), Ok(1_000_000_000));
        assert_eq!(read("4096"), Ok(4096));
        for wrong in [
            "",
            "GiB",
            "2 apples",
            "-1",
            "1.2.3MiB",
            "99999999999TiB",
            "9e9",
            "99999999999.5TiB",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for bytes in [0, 1, 1023, 1024, 3 << 20, (1 << 30) + 1, 5 << 40] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }
}
