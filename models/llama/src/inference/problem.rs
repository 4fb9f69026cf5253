//! What a caller of the inference path can ask for in vain.

/// Why a model could not be run on what was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceProblem {
    /// There is nothing to predict from.
    #[error("no token was given; begin with at least one, such as the token that begins a text")]
    NoTokens,
    /// A token without a row in the embedding.
    #[error("token {token} is beyond the vocabulary of {vocabulary}; use the tokenizer that belongs to the model")]
    Token {
        /// The token.
        token: u32,
        /// Number of tokens that the model knows.
        vocabulary: usize,
    },
    /// A context that the model cannot have.
    #[error("a context of {asked} tokens was asked for; this model takes 1 to {limit} (max_position_embeddings or sliding_window)")]
    ContextLength {
        /// What was asked for.
        asked: usize,
        /// The longest that the model is made for.
        limit: usize,
    },
    /// More tokens than the context has room for.
    #[error("{new} tokens were given where the context of {capacity} has room for {}; {}", capacity - held, remedy(*capacity, *limit))]
    ContextFull {
        /// Tokens in the context.
        held: usize,
        /// Tokens to be added.
        new: usize,
        /// Tokens that the context holds.
        capacity: usize,
        /// The longest context that the model is made for.
        limit: usize,
    },
    /// A weight of another shape than the configuration says.
    #[error("{name:?} was given with {got}, the configuration makes it {expected:?}")]
    Part {
        /// The parameter.
        name: String,
        /// The shape that the configuration gives.
        expected: Vec<usize>,
        /// What was given.
        got: String,
    },
    /// The model computed a number that is NaN or infinite although no weight is.
    #[error("the logits behind {tokens} tokens hold {value}; the weights are finite but too large to compute with")]
    Logits {
        /// Tokens in the context.
        tokens: usize,
        /// The first such number.
        value: f32,
    },
    /// A GPU has too little memory.
    #[error("GPU {gpu} has no room for {what}: it takes {}, and {} are free. Fewer bits a weight, a shorter context and a cache in f16 take less; the CPU can run what no GPU holds", mebibytes(*bytes), mebibytes(*free))]
    GpuMemory {
        /// The GPU, counted from 0.
        gpu: usize,
        /// What was to be placed there.
        what: String,
        /// Its bytes.
        bytes: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Attention heads that there are no GPU kernels for.
    #[error("heads of {dim} numbers, {sharing} query heads for a key head: on a GPU heads have at most {most_dim} numbers and at most {most_sharing} query heads share one; run the model on the CPU")]
    HeadsOnGpu {
        /// Numbers in a head.
        dim: usize,
        /// At most.
        most_dim: usize,
        /// Query heads for a key head.
        sharing: usize,
        /// At most.
        most_sharing: usize,
    },
    /// No logit that could be chosen.
    #[error("none of the {count} logits is finite, so there is no token to choose")]
    NoCandidate {
        /// Number of logits.
        count: usize,
    },
    /// A setting outside its range.
    #[error("{setting} is {value}; it must be {allowed}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
}

/// What can be done about a context that is full.
fn remedy(capacity: usize, limit: usize) -> String {
    match capacity < limit {
        true => format!("give fewer, or begin a session with a longer context (this model takes up to {limit})"),
        false => "give fewer: this model takes no more".to_owned(),
    }
}

/// Bytes as text, for messages about the memory of a GPU.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1u32 << 20))
}
