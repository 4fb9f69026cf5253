//! What can go wrong in this crate.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{
    checkpoint::{FloatDtype, HeaderProblem, IndexProblem},
    config::ConfigProblem,
};

/// Errors of reading, checking and writing models.
///
/// Each message names the file and the thing in it that is at fault, and what can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// A model type with const dimensions was asked to hold a parameter of another shape.
    #[error("{name}: the configuration asks for {got}, but the model type has {expected}; use `DynamicLlama` or other const dimensions")]
    ConstDimension {
        /// The parameter.
        name: String,
        /// The dimensions of the type.
        expected: String,
        /// The dimensions of the configuration.
        got: String,
    },
    /// The device could not hold a parameter, or compute with it.
    #[error("the device failed at {name}: {reason}")]
    Device {
        /// The parameter or op.
        name: String,
        /// The device's message.
        reason: String,
    },
    /// A parameter could not be clustered.
    #[error("cannot cluster {name}: {source}")]
    Cluster {
        /// The parameter.
        name: String,
        /// Why not.
        source: edkm_cluster::ClusterError,
    },
    /// A palette could not be packed or read.
    #[error("palettes of {name}: {source}")]
    Palettize {
        /// The parameter.
        name: String,
        /// Why not.
        source: edkm_palette::PaletteError,
    },
    /// The model cannot be run on what was given.
    #[error(transparent)]
    Inference(crate::inference::InferenceProblem),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that a model folder must have is not there.
    #[error("{} does not exist; {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// A folder, pipe or device where a file is expected.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was found.
        path: PathBuf,
    },
    /// A part of a file is larger than any that is read.
    #[error("{}: {bytes} bytes of {what}, more than the {limit} that are read; the file is damaged or not what its name says", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        bytes: u64,
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// Not JSON, or not of the expected form.
    #[error("{}: {detail}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The fault with its line and column.
        detail: String,
    },
    /// A key of `config.json` is missing, wrong or not supported.
    #[error("{}: \"{key}\" {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: ConfigProblem,
    },
    /// The header of a safetensors file is not valid.
    #[error("{}: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// The index of a sharded checkpoint is not valid.
    #[error("{}: {problem}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        problem: IndexProblem,
    },
    /// A tensor was asked for that the checkpoint does not hold.
    #[error("{}: there is no tensor {name:?}; is this the folder of another model?", path.display())]
    NoTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: {name:?} has shape {got:?}, config.json makes it {expected:?}; do the two belong together?", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration gives.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// A tensor's element type is not one that weights can have here.
    #[error("{}: {name:?} has type {got}; weights are read from {supported}", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        got: String,
        /// The types that are read.
        supported: &'static str,
    },
    /// A weight is NaN or infinite.
    #[error("{}: {name:?} holds {value} at flat index {index}; a model with such a weight computes nothing", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The row-major index of the first such value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A value that cannot be stored: not finite, or beyond the type in which it shall be.
    #[error("{name:?}: {value} at flat index {index} cannot be stored as {dtype}; weights must be finite, and f16 ends at 65504")]
    Unstorable {
        /// The tensor.
        name: String,
        /// The row-major index of the first such value.
        index: usize,
        /// The value.
        value: f32,
        /// The type to store.
        dtype: FloatDtype,
    },
    /// A palettized tensor, or the description of all of them, is not valid.
    #[error("{}: {}", path.display(), shortened(source))]
    Palette {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        source: edkm_palette::PaletteError,
    },
    /// The file is shorter now than when it was opened.
    #[error("{}: the file has become shorter since it was opened: {name:?} ends at byte {needed}, the file at {length}", path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Where the tensor ends.
        needed: u64,
        /// Where the file ends.
        length: u64,
    },
    /// The checkpoint does not hold exactly the parameters that its configuration asks for.
    #[error("{}: the tensors are not those of config.json{}", path.display(), ParameterList { missing, unexpected, misshapen })]
    Parameters {
        /// The checkpoint.
        path: PathBuf,
        /// Parameters without a tensor.
        missing: Vec<String>,
        /// Tensors that are no parameter.
        unexpected: Vec<String>,
        /// Tensors of another shape.
        misshapen: Vec<MisshapenTensor>,
    },
    /// Two tensors of one name were to be written.
    #[error("two tensors are named {name:?}; give each its own name")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A tensor to be written, or a weight of a new model, has another number of bytes than its type and shape say.
    #[error("{name:?}: {got} bytes were given, {expected} follow from its type and shape")]
    WrongLength {
        /// The tensor.
        name: String,
        /// Bytes that type and shape make.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// Who asked for it wanted it no more.
    #[error("stopped; nothing was written")]
    Stopped,
    /// The folder to write to already holds something.
    #[error("{} exists and is not empty; choose another folder, or replace it with --overwrite", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder to write to is none.
    #[error("{} is {found}, and a folder is to be written; name another", path.display())]
    OutputNoFolder {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The folder to write to cannot be put in another's place.
    #[error("{} is the folder that this program was started in, or holds it; name a folder of its own", path.display())]
    OutputInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder to write to holds things that no model folder has, and is not replaced.
    #[error("{} holds {}, which edkm does not write, and is left alone; choose another folder, or move that away", path.display(), Listed(entries))]
    OutputForeign {
        /// The folder.
        path: PathBuf,
        /// What was found there.
        entries: Vec<String>,
    },
}

impl LlamaError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A tensor whose shape is not the one that the configuration gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisshapenTensor {
    /// The tensor.
    pub name: String,
    /// The shape that the configuration gives.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub got: Vec<usize>,
}

impl fmt::Display for MisshapenTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} instead of {:?}", self.name, self.got, self.expected)
    }
}

/// Text that holds something from a stranger's file, cut to what a terminal bears. The end is kept: it has the line.
pub(crate) fn shortened(text: impl fmt::Display) -> String {
    const HEAD: usize = 240;
    const TAIL: usize = 80;
    let text = text.to_string();
    // In bytes, rounded to whole characters: a text of megabytes is not counted through.
    if text.len() <= HEAD + TAIL {
        return text;
    }
    let (head, tail) = (
        text.floor_char_boundary(HEAD),
        text.ceil_char_boundary(text.len() - TAIL),
    );
    format!("{} ... {}", &text[..head], &text[tail..])
}

/// A list in a message; a model has hundreds of tensors, so the tail is counted only.
struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        for (i, item) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct ParameterList<'a> {
    missing: &'a [String],
    unexpected: &'a [String],
    misshapen: &'a [MisshapenTensor],
}

impl fmt::Display for ParameterList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.missing.is_empty() {
            write!(f, "; missing: {}", Listed(self.missing))?;
        }
        if !self.unexpected.is_empty() {
            write!(f, "; not expected: {}", Listed(self.unexpected))?;
        }
        if !self.misshapen.is_empty() {
            write!(f, "; of another shape: {}", Listed(self.misshapen))?;
        }
        Ok(())
    }
}
