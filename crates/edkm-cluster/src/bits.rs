//! The width of a palette index.

use serde::{Deserialize, Serialize};

use crate::ClusterError;

/// Bits of a palette index, 1 to 8: a palette has 2^bits clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Bits(u8);

impl Bits {
    /// Checks the width.
    ///
    /// # Errors
    /// [`ClusterError::Bits`] outside 1 to 8.
    pub const fn new(bits: u8) -> Result<Self, ClusterError> {
        match bits {
            1..=8 => Ok(Bits(bits)),
            _ => Err(ClusterError::Bits { bits: bits as usize }),
        }
    }

    /// The width in bits.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number of clusters, 2^bits.
    pub const fn clusters(self) -> usize {
        1 << self.0
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> Self {
        bits.get()
    }
}

impl TryFrom<u8> for Bits {
    type Error = ClusterError;

    fn try_from(bits: u8) -> Result<Self, ClusterError> {
        Bits::new(bits)
    }
}

impl std::fmt::Display for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_to_eight_bits_are_accepted() {
        for bits in 1..=8 {
            assert_eq!(Bits::new(bits).map(Bits::clusters), Ok(2usize.pow(bits.into())));
        }
        for bits in [0, 9, 255] {
            assert_eq!(Bits::new(bits), Err(ClusterError::Bits { bits: bits.into() }));
        }
    }
}
