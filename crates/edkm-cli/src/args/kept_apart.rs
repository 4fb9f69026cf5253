//! `--apart`

use edkm_train::data::Apart;

/// `--apart`
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum KeptApart {
    /// Each record of a .json or .jsonl, and each .txt
    Records,
    /// Each document of a .txt too
    Documents,
    /// Nothing: all tokens of a sequence see those before them
    Nothing,
}

impl From<KeptApart> for Apart {
    fn from(kept: KeptApart) -> Self {
        match kept {
            KeptApart::Records => Self::Records,
            KeptApart::Documents => Self::Documents,
            KeptApart::Nothing => Self::Nothing,
        }
    }
}
