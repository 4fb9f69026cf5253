//! Which texts of a window see each other.

/// What sees nothing of the text before it, though it shares a window with it, as if it were alone in a sequence: in training, in the model that is learned from,
/// and where perplexity is measured. The first token of what is kept apart is not predicted, since nothing comes before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Apart {
    /// A record of a `.json` or `.jsonl`, and the whole text of a `.txt`: what one is asked does not depend on what another was asked before.
    #[default]
    Records,
    /// The documents of a text too, which are split at blank lines.
    Documents,
    /// Nothing: all tokens of a window see those before them.
    Nothing,
}

impl Apart {
    /// Its name, as the program's options have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Documents => "documents",
            Self::Nothing => "nothing",
        }
    }
}
