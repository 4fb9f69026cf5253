//! The sizes of a model that memory follows from. All are bytes of f32 unless they say otherwise.

use dfdx_edkm::optim::MomentFormat;
use edkm_cluster::{GradientMode, Grouping, Spec};
use edkm_kernels::cross_entropy::tokens_at_once;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{ClusterPlan, Recompute};
use edkm_llama::names::{parameters, Role};

use crate::optimizer_bytes::{gradient_bytes, moment_bytes};
use crate::run::ClusterSettings;
use crate::trainer::Update;

const F32: u64 = 4;

/// Repetitions of a clustering that ends them by its tolerance.
const FEW: usize = 16;
/// More repetitions than any memory holds.
const MANY: usize = 1 << 30;

/// Bytes of so many f32; settings that make more than there can be make the most there can be.
fn bytes(tokens: u64, numbers: u64) -> u64 {
    F32.saturating_mul(tokens).saturating_mul(numbers)
}

/// Sizes of a model and of its clustering.
pub(super) struct ModelSizes {
    /// All parameters.
    pub(super) parameters: u64,
    /// The largest parameter.
    pub(super) largest: u64,
    /// The gradients that are there at once in a step when the last of them is whole.
    pub(super) gradients: u64,
    /// The same where they are freed part by part.
    pub(super) largest_part: u64,
    /// The optimizer's moments.
    pub(super) moments: u64,
    /// What the model as it came takes for distillation.
    pub(super) teacher: u64,
    /// What a layer of it takes more while it runs.
    pub(super) teacher_layer: u64,
    /// The parameters that are clustered.
    pub(super) clustered: u64,
    /// The parameters that are not and are written in 16 bits.
    pub(super) rounded: u64,
    /// The largest matrix that is clustered, and its copies where rows are scaled.
    pub(super) clustering_buffers: u64,
    /// What clusterings keep of their palettes, from a step to the next and for backward.
    pub(super) palettes: u64,
    /// The output projection, and so its gradient.
    pub(super) head: u64,
    /// Whether the output projection is clustered.
    pub(super) head_buffers: u64,
    /// Cosines and sines of all positions.
    pub(super) rotary: u64,
    hidden: u64,
    queries: u64,
    keys: u64,
    intermediate: u64,
    heads: u64,
    /// What attention saves more where its heads are normalised: a token's queries and keys as they come from their products.
    before_norms: u64,
    vocabulary: u64,
    pub(super) layers: u64,
    /// The model that is learned from, where it is another.
    other_teacher: Option<Box<ModelSizes>>,
}

/// What a clustering keeps of its palettes, each with as many repetitions as go into backward: where they started from and ended, in f64 and f32, for the step
/// and for the one that follows; the centroids behind each repetition and the masses, in memory that grows by doubling.
fn bytes_of_palettes(spec: &Spec, shape: &[usize]) -> u64 {
    let [rows, ..] = *shape else { return 0 };
    let palettes = match spec.grouping {
        Grouping::PerTensor => 1,
        Grouping::PerChannels(channels) => rows.div_ceil(channels.get()),
    };
    let kept = match spec.gradient {
        // those that end by themselves are few
        GradientMode::Unrolled if spec.tolerance > 0.0 => spec.iterations.min(FEW),
        GradientMode::Unrolled => spec.iterations.min(MANY),
        GradientMode::Implicit | GradientMode::StraightThrough => 1,
    };
    let centroids = (palettes * spec.clusters()) as u64;
    let numbers = centroids * spec.dim() as u64;
    let repetitions = numbers.saturating_mul((kept + 1).next_power_of_two() as u64);
    let masses = centroids.saturating_mul(kept.next_power_of_two() as u64);
    (2 * 2 * 12 * numbers).saturating_add(repetitions.saturating_add(masses).saturating_mul(8))
}

impl ModelSizes {
    /// `is_half` says which parameters have numbers of 16 bits, by name.
    pub(super) fn new(
        config: &LlamaConfig,
        clustering: Option<&ClusterSettings>,
        moments: MomentFormat,
        update: Update,
        is_half: impl Fn(&str) -> bool,
    ) -> Self {
        let (mut all, mut largest, mut halves, mut clustered, mut clustering_buffers, mut head_buffers) =
            (0, 0, 0, 0, 0, 0);
        let (mut palettes, mut rounded) = (0, 0);
        for parameter in parameters(config) {
            let bytes = F32 * parameter.shape.iter().map(|&n| n as u64).product::<u64>();
            all += bytes;
            largest = bytes.max(largest);
            if parameter.role == Role::Linear && is_half(&parameter.name) {
                halves += bytes / 2;
            }
            let Some((clustering, spec)) = clustering.and_then(|c| Some((c, c.spec(&parameter)?))) else {
                if is_half(&parameter.name) {
                    rounded += bytes;
                }
                continue;
            };
            palettes = bytes_of_palettes(&spec, &parameter.shape).saturating_add(palettes);
            let scaled = match clustering.channel_scale(&parameter) {
                dfdx_edkm::ChannelScale::None => 0,
                // the divided weight, what it is clustered to, and on a GPU the gradient of the divided one, beside that of the clustered weight
                dfdx_edkm::ChannelScale::RootMeanSquare => 3 * bytes,
            };
            clustered += bytes;
            clustering_buffers = clustering_buffers.max(bytes + scaled);
            if matches!(parameter.role, Role::Head | Role::Embedding) {
                // the clustered projection and its gradient, both at once
                head_buffers = 2 * bytes + scaled;
            }
        }
        let [hidden, intermediate, vocabulary] =
            [config.hidden_size, config.intermediate_size, config.vocab_size].map(|n| n as u64);
        let [heads, kv_heads, head_dim] =
            [config.num_attention_heads, config.num_key_value_heads, config.head_dim].map(|n| n as u64);
        Self {
            parameters: all,
            largest,
            gradients: gradient_bytes(config, update),
            largest_part: gradient_bytes(config, Update::InBackward),
            moments: moment_bytes(config, moments),
            teacher: all - halves,
            teacher_layer: 2 * halves / (config.num_hidden_layers as u64).max(1),
            clustered,
            rounded,
            clustering_buffers,
            palettes,
            head: F32 * vocabulary * hidden,
            head_buffers,
            rotary: F32 * config.context_limit() as u64 * head_dim,
            hidden,
            queries: heads * head_dim,
            keys: kv_heads * head_dim,
            intermediate,
            heads,
            before_norms: match config.query_key_norm {
                true => (heads + kv_heads) * head_dim,
                false => 0,
            },
            vocabulary,
            layers: config.num_hidden_layers as u64,
            other_teacher: None,
        }
    }

    /// The same, of a run that learns from another model.
    pub(super) fn learning_from(self, teacher: ModelSizes) -> Self {
        Self {
            teacher: teacher.teacher + teacher.rotary,
            teacher_layer: teacher.teacher_layer,
            other_teacher: Some(Box::new(teacher)),
            ..self
        }
    }

    /// Whether the model that is learned from is another.
    pub(super) fn has_other_teacher(&self) -> bool {
        self.other_teacher.is_some()
    }

    /// What a layer of the model that is learned from holds while it runs, beside its numbers.
    pub(super) fn forward_of_teacher(&self, tokens: u64) -> u64 {
        self.other_teacher.as_deref().unwrap_or(self).forward_of_layer(tokens)
    }

    /// Hidden states of so many tokens.
    pub(super) fn hidden(&self, tokens: u64) -> u64 {
        bytes(tokens, self.hidden)
    }

    /// What the ops of a layer save for backward of sequences of `sequence` tokens, `tokens` in all.
    pub(super) fn saved_by_layer(&self, recompute: Recompute, tokens: u64, sequence: u64) -> u64 {
        // RMSNorm's inputs, and gate and up: what the products read follows from them
        let outside_attention = 2 * self.hidden + 2 * self.intermediate;
        let numbers = match recompute {
            Recompute::Nothing => outside_attention + self.inside_attention(sequence),
            Recompute::Attention => outside_attention,
            Recompute::Layers => self.hidden,
        };
        bytes(tokens, numbers)
    }

    /// Numbers a token that attention saves: queries, keys (before their norms too), values and log-sum-exp, and its output where that is dear to make again.
    fn inside_attention(&self, sequence: u64) -> u64 {
        let output = match sequence <= self.queries / 4 {
            true => 0,
            false => self.queries,
        };
        self.queries + 2 * self.keys + self.heads + self.before_norms + output
    }

    /// What is held beside while a layer's backward pass runs: what it makes again, and the gradients of the widest features.
    pub(super) fn work_of_layer(&self, recompute: Recompute, tokens: u64, sequence: u64) -> u64 {
        let again = match recompute {
            Recompute::Nothing => 0,
            Recompute::Attention => self.inside_attention(sequence),
            Recompute::Layers => self.hidden + 2 * self.intermediate + self.inside_attention(sequence),
        };
        // SwiGLU's output, its gradient, and those of gate and up; beside them the residual's and the normed input
        bytes(tokens, again + 4 * self.intermediate + 2 * self.hidden)
    }

    /// What a layer holds while it runs without a tape.
    pub(super) fn forward_of_layer(&self, tokens: u64) -> u64 {
        bytes(tokens, 3 * self.intermediate + 2 * self.hidden)
    }

    /// Logits of a chunk for `models` models at once (see `edkm_kernels::cross_entropy`), with hidden states and their gradient.
    pub(super) fn loss(&self, tokens: u64, models: u64) -> u64 {
        let chunks = tokens.div_ceil(self.tokens_at_once(models)).max(1);
        let logits = bytes(tokens.div_ceil(chunks), self.vocabulary * models);
        logits.saturating_add(self.hidden(tokens).saturating_mul(1 + models))
    }

    /// The head's gradient that the loss finds on the CPU before the backward pass begins, where it has more than one chunk of logits.
    pub(super) fn ahead(&self, tokens: u64, models: u64) -> u64 {
        match tokens > self.tokens_at_once(models) {
            true => self.head,
            false => 0,
        }
    }

    fn tokens_at_once(&self, models: u64) -> u64 {
        tokens_at_once(self.hidden as usize, self.vocabulary as usize, models as usize) as u64
    }
}
