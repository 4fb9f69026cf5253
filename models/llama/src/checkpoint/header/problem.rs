//! What can be wrong with a header.

/// What is wrong with the header of a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// The file is too short for the length of a header.
    #[error("truncated: {length} bytes are too few for a safetensors file; copy or download it again")]
    NoPrefix {
        /// Length of the file.
        length: u64,
    },
    /// The header would end beyond the file.
    #[error("truncated or not safetensors: the header takes {header} bytes, the file has {length}; copy or download it again")]
    Truncated {
        /// Length of the header.
        header: u64,
        /// Length of the file.
        length: u64,
    },
    /// The header is larger than any that is read.
    #[error("not safetensors: a header of {header} bytes, more than the {limit} that are read")]
    TooLarge {
        /// Length of the header.
        header: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The header is not JSON of the expected form.
    #[error("invalid header: {detail}")]
    Json {
        /// The fault with line and column.
        detail: String,
    },
    /// The size of a tensor is beyond what can be addressed.
    #[error("the size of {name:?} with shape {shape:?} overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its axes.
        shape: Vec<usize>,
    },
    /// Offsets do not hold what type and shape say.
    #[error("{name:?} takes {expected} bytes by its type and shape, {got} by its offsets")]
    Size {
        /// The tensor.
        name: String,
        /// Bytes by type and shape.
        expected: u64,
        /// Bytes by offsets.
        got: u64,
    },
    /// A tensor whose elements do not fill whole bytes.
    #[error("{name:?} does not fill whole bytes")]
    PartialByte {
        /// The tensor.
        name: String,
    },
    /// A tensor that begins before the one ahead of it ends, or leaves a gap, or ends before it begins.
    #[error("{name:?} has offsets {start} to {end}; it must begin where the tensor ahead of it ends, at {expected}")]
    Offsets {
        /// The tensor.
        name: String,
        /// Its first byte.
        start: u64,
        /// The byte behind it.
        end: u64,
        /// Where it must begin.
        expected: u64,
    },
    /// A tensor that ends beyond the file.
    #[error("truncated: {name:?} ends at byte {needed}, the file at {length}; copy or download it again")]
    TensorTruncated {
        /// The first tensor that is cut.
        name: String,
        /// Where it ends.
        needed: u64,
        /// Length of the file.
        length: u64,
    },
    /// Bytes behind the last tensor.
    #[error("{extra} bytes follow the last tensor; the file is not what its header says")]
    Trailing {
        /// How many.
        extra: u64,
    },
}
