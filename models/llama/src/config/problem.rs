//! What can be wrong with one key.

/// What is wrong with a key of `config.json`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The key is needed and not there.
    #[error("is missing; expected {expected}")]
    Missing {
        /// What the value should be.
        expected: &'static str,
    },
    /// The value is of another kind.
    #[error("is {got}; expected {expected}")]
    WrongType {
        /// What the value should be.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// A number outside what makes sense.
    #[error("is {got}; it must be {allowed}")]
    OutOfRange {
        /// The value.
        got: String,
        /// What it may be.
        allowed: String,
    },
    /// A value or feature that this program does not compute with.
    #[error("is {got}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The value.
        got: String,
        /// What is.
        supported: &'static str,
    },
    /// Two keys contradict each other.
    #[error("is {got}, but \"{other}\" {relation}")]
    Contradiction {
        /// The value.
        got: String,
        /// The other key.
        other: &'static str,
        /// What it says.
        relation: String,
    },
}
