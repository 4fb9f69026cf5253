//! The forward pass on a GPU, as [`forward`](super::super::forward) has it on the CPU.
//!
//! Axes: N tokens, H hidden, Q all query heads, K all key heads, F intermediate, V vocabulary.
#![allow(non_snake_case)]

use std::fmt;
use std::sync::Arc;

use edkm_cuda::cached_attention::{self, Cache, CacheKind, Heads, Pieces};
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::matrix::Unpacked;
use edkm_cuda::rotary::{turn_at, Angles};
use edkm_cuda::{elementwise::add_assign, embedding, likelihood::log_likelihoods, rms_norm, swiglu, Array, Slice};

use super::super::{
    cache::{CacheType, Span},
    executor::{Executor, Room, Target},
    InferenceModel,
};
use super::weights::Weights;
use super::workspace::Workspace;
use crate::{config::LlamaConfig, LlamaError};

/// Logits held at once: 256 MiB.
const LOGITS: usize = 1 << 26;

/// A model on a GPU with its cache, and memory that is used from one pass to the next.
pub(super) struct OnGpu {
    model: InferenceModel,
    weights: Arc<Weights>,
    batch: usize,
    /// Of each layer, or of one that all use.
    caches: Vec<Cache<Gpu>>,
    angles: Option<Angles<Gpu>>,
    unpacked: Unpacked<Gpu>,
    workspace: Option<Workspace>,
    /// Tokens of the last pass.
    tokens: usize,
}

fn heads_of(config: &LlamaConfig) -> Heads {
    Heads {
        queries: config.num_attention_heads,
        keys: config.num_key_value_heads,
        dim: config.head_dim,
    }
}

fn kind_of(cache_type: CacheType) -> CacheKind {
    match cache_type {
        CacheType::F32 => CacheKind::F32,
        CacheType::F16 => CacheKind::F16,
    }
}

impl OnGpu {
    pub(super) fn new(model: InferenceModel, weights: Arc<Weights>, room: Room) -> Result<Self, LlamaError> {
        let batch = match room {
            Room::OnePass => weights.batches.one_pass,
            Room::Session { .. } => weights.batches.prompt,
        };
        let mut made = Self {
            batch,
            caches: Vec::new(),
            angles: None,
            unpacked: weights.unpacked(),
            workspace: None,
            tokens: 0,
            model,
            weights,
        };
        if let Room::Session { capacity, cache_type } = room {
            made.make_caches(made.model.config().num_hidden_layers, capacity, cache_type)?;
        }
        Ok(made)
    }

    fn make_caches(&mut self, layers: usize, capacity: usize, cache_type: CacheType) -> Result<(), LlamaError> {
        let (device, heads) = (&self.weights.device, heads_of(self.model.config()));
        let caches = (0..layers).map(|_| Cache::new(device.gpu(), heads, capacity, kind_of(cache_type)));
        self.caches = caches.collect::<Result<_, _>>().map_err(|error| {
            // which may be more than there are numbers for
            let factors = [layers, 2, heads.keys, capacity, heads.dim, cache_type.size()];
            let bytes = factors.into_iter().fold(1, usize::saturating_mul);
            device.error(error, format!("keys and values of {capacity} tokens"), bytes)
        })?;
        Ok(())
    }

    /// Angles for so many positions. They are made once and again only when they must grow.
    fn make_angles(&mut self, positions: usize) -> Result<(), LlamaError> {
        if self
            .angles
            .as_ref()
            .is_some_and(|angles| angles.positions() >= positions)
        {
            return Ok(());
        }
        let table = self.model.rotary(positions);
        let device = &self.weights.device;
        let angles = Angles::new(device.gpu(), &table, table.positions()).map_err(|error| {
            let bytes = table.positions() * table.head_dim() * 4;
            device.error(error, format!("the rotary table of {positions} positions"), bytes)
        })?;
        self.angles = Some(angles);
        Ok(())
    }

    fn make_workspace(&mut self, tokens: usize) -> Result<(), LlamaError> {
        if self.workspace.as_ref().is_some_and(|space| space.tokens >= tokens) {
            return Ok(());
        }
        // what is freed may be used again for the new one
        self.workspace = None;
        let (device, config) = (&self.weights.device, self.model.config());
        let workspace = Workspace::new(device.gpu(), config, tokens).map_err(|error| {
            let bytes = Workspace::bytes(config, tokens);
            device.error(error, format!("the activations of {tokens} tokens"), bytes)
        })?;
        self.workspace = Some(workspace);
        Ok(())
    }

    fn run(&mut self, tokens: &[u32], spans: &[Span]) -> Result<(), GpuError> {
        let Self {
            model,
            weights,
            caches,
            angles: Some(angles),
            unpacked,
            workspace: Some(workspace),
            ..
        } = self
        else {
            unreachable!("made before each pass")
        };
        let (gpu, config) = (weights.device.gpu(), model.config());
        let n = tokens.len();
        let (hidden, query) = (config.hidden_size, config.query_size());
        let (key, wide) = (config.key_value_size(), config.intermediate_size);
        let eps = config.rms_norm_eps as f32;
        let Workspace {
            x_NH,
            normed_NH,
            branch_NH,
            q_NQ,
            attended_NQ,
            k_NK,
            v_NK,
            gate_NF,
            up_NF,
            active_NF,
            ..
        } = workspace;
        // the tokens that there are, of buffers for more
        macro_rules! slice {
            ($buffer:ident, $width:expr) => {
                $buffer.as_slice().part(0, n * $width)
            };
        }
        macro_rules! slice_mut {
            ($buffer:ident, $width:expr) => {{
                let [part] = $buffer.as_mut().split([n * $width]);
                part
            }};
        }

        let plan = Array::<Gpu, u32>::from_host(gpu, &plan(tokens, spans))?;
        let [ids, positions, slots] = [0, n, 2 * n].map(|first| plan.as_slice().part(first, n));
        let pieces = Pieces::new(gpu, heads_of(config), &spans_of(spans))?;

        weights.embedding.gather(gpu, ids, slice_mut!(x_NH, hidden))?;
        let last_cache = caches.len() - 1;
        for (index, layer) in weights.layers.iter().enumerate() {
            let cache = &mut caches[index.min(last_cache)];
            let norm = layer.input_norm.as_slice();
            rms_norm::forward(gpu, slice!(x_NH, hidden), norm, eps, slice_mut!(normed_NH, hidden))?;
            let normed = slice!(normed_NH, hidden);
            layer.value.apply(gpu, normed, slice_mut!(v_NK, key), unpacked)?;
            match &layer.head_norms {
                None => {
                    layer.query.apply(gpu, normed, slice_mut!(q_NQ, query), unpacked)?;
                    layer.key.apply(gpu, normed, slice_mut!(k_NK, key), unpacked)?;
                }
                // by way of what attention will write, which is as wide as the queries
                Some(norms) => {
                    layer
                        .query
                        .apply(gpu, normed, slice_mut!(attended_NQ, query), unpacked)?;
                    let heads = slice!(attended_NQ, query);
                    rms_norm::forward(gpu, heads, norms.query.as_slice(), eps, slice_mut!(q_NQ, query))?;
                    layer.key.apply(gpu, normed, slice_mut!(attended_NQ, key), unpacked)?;
                    let heads = slice!(attended_NQ, key);
                    rms_norm::forward(gpu, heads, norms.key.as_slice(), eps, slice_mut!(k_NK, key))?;
                }
            }
            turn_at(gpu, angles, positions, slice_mut!(q_NQ, query))?;
            turn_at(gpu, angles, positions, slice_mut!(k_NK, key))?;
            cache.write(gpu, slice!(k_NK, key), slice!(v_NK, key), slots)?;
            let attended = slice_mut!(attended_NQ, query);
            cached_attention::forward(gpu, cache, &pieces, slice!(q_NQ, query), attended)?;
            let attended = slice!(attended_NQ, query);
            layer
                .output
                .apply(gpu, attended, slice_mut!(branch_NH, hidden), unpacked)?;
            add_assign(gpu, slice_mut!(x_NH, hidden), slice!(branch_NH, hidden))?;

            let norm = layer.post_attention_norm.as_slice();
            rms_norm::forward(gpu, slice!(x_NH, hidden), norm, eps, slice_mut!(normed_NH, hidden))?;
            let normed = slice!(normed_NH, hidden);
            layer.gate.apply(gpu, normed, slice_mut!(gate_NF, wide), unpacked)?;
            layer.up.apply(gpu, normed, slice_mut!(up_NF, wide), unpacked)?;
            let (gate, up) = (slice!(gate_NF, wide), slice!(up_NF, wide));
            swiglu::forward(gpu, gate, up, slice_mut!(active_NF, wide))?;
            let active = slice!(active_NF, wide);
            layer.down.apply(gpu, active, slice_mut!(branch_NH, hidden), unpacked)?;
            add_assign(gpu, slice_mut!(x_NH, hidden), slice!(branch_NH, hidden))?;
        }
        self.tokens = n;
        Ok(())
    }

    /// Logits `[rows, V]` of hidden states `[rows, H]`.
    fn project(
        weights: &Weights,
        config: &LlamaConfig,
        x_NH: Slice<'_, f32>,
        unpacked: &mut Unpacked<Gpu>,
    ) -> Result<Array<Gpu, f32>, GpuError> {
        let gpu = weights.device.gpu();
        let rows = x_NH.len() / config.hidden_size;
        let mut normed_NH = Array::unset(gpu, x_NH.len())?;
        let norm = weights.norm.as_slice();
        rms_norm::forward(gpu, x_NH, norm, config.rms_norm_eps as f32, normed_NH.as_mut())?;
        let mut logits_NV = Array::unset(gpu, rows * config.vocab_size)?;
        weights
            .head()
            .multiply(gpu, normed_NH.as_slice(), logits_NV.as_mut(), unpacked)?;
        Ok(logits_NV)
    }

    /// The hidden states of the last pass, `[N, H]`.
    fn hidden(workspace: Option<&Workspace>, tokens: usize, hidden: usize) -> Slice<'_, f32> {
        let workspace = workspace.expect("a pass has run");
        workspace.x_NH.as_slice().part(0, tokens * hidden)
    }

    /// Bytes of the logits of so many rows, and of what is worked in beside them.
    fn logits_bytes(&self, rows: usize) -> usize {
        let config = self.model.config();
        rows * (config.vocab_size + 2 * config.hidden_size) * 4 + self.unpacked.size_bytes()
    }
}

/// Tokens, their positions and their slots in the cache, one after the other.
fn plan(tokens: &[u32], spans: &[Span]) -> Vec<u32> {
    let each = |first: fn(&Span) -> usize| {
        spans
            .iter()
            .flat_map(move |span| (0..span.tokens.len()).map(move |i| (first(span) + i) as u32))
    };
    let mut plan = tokens.to_vec();
    plan.extend(each(Span::position));
    plan.extend(each(|span| span.own));
    plan
}

fn spans_of(spans: &[Span]) -> Vec<cached_attention::Span> {
    spans
        .iter()
        .map(|span| cached_attention::Span {
            tokens: span.tokens.clone(),
            seen: span.seen.clone(),
            own: span.own,
        })
        .collect()
}

impl Executor for OnGpu {
    fn batch(&self) -> usize {
        self.batch
    }

    fn forward(&mut self, tokens: &[u32], spans: &[Span]) -> Result<(), LlamaError> {
        let positions = spans.iter().map(|span| span.position() + span.tokens.len()).max();
        self.make_angles(positions.unwrap_or(0))?;
        self.make_workspace(tokens.len())?;
        self.run(tokens, spans).map_err(|error| {
            let what = format!("a pass over {} tokens", tokens.len());
            self.weights.device.error(error, what, self.unpacked.size_bytes())
        })
    }

    fn last_logits(&mut self, logits: &mut [f32]) -> Result<(), LlamaError> {
        let (weights, config) = (&self.weights, self.model.config());
        let hidden = config.hidden_size;
        let last = Self::hidden(self.workspace.as_ref(), self.tokens, hidden).part((self.tokens - 1) * hidden, hidden);
        let computed = Self::project(weights, config, last, &mut self.unpacked)
            .and_then(|on_gpu| on_gpu.to_host(weights.device.gpu()));
        match computed {
            Ok(computed) => logits.copy_from_slice(&computed),
            Err(error) => return Err(weights.device.error(error, "logits", self.logits_bytes(1))),
        }
        Ok(())
    }

    fn log_likelihoods(&mut self, targets: &[Target]) -> Result<Vec<f32>, LlamaError> {
        let (weights, config) = (&self.weights, self.model.config());
        let (gpu, hidden) = (weights.device.gpu(), config.hidden_size);
        let most = (LOGITS / config.vocab_size).max(16);
        let by_row: Vec<&[Target]> = targets.chunk_by(|a, b| a.row == b.row).collect();
        let mut likelihoods = Vec::with_capacity(targets.len());
        for rows in by_row.chunks(most) {
            let ids: Vec<u32> = rows.iter().map(|row| row[0].row as u32).collect();
            let (of, tokens): (Vec<u32>, Vec<u32>) = (0..)
                .zip(rows)
                .flat_map(|(i, row)| row.iter().map(move |target| (i, target.token)))
                .unzip();
            let x_NH = Self::hidden(self.workspace.as_ref(), self.tokens, hidden);
            let unpacked = &mut self.unpacked;
            let computed = Array::unset(gpu, ids.len() * hidden).and_then(|mut picked| {
                embedding::gather(gpu, x_NH, &ids, picked.as_mut())?;
                let logits = Self::project(weights, config, picked.as_slice(), unpacked)?;
                log_likelihoods(gpu, logits.as_slice(), config.vocab_size, &of, &tokens)
            });
            match computed {
                Ok(computed) => likelihoods.extend(computed),
                Err(error) => {
                    let what = format!("logits of {} tokens", rows.len());
                    return Err(weights.device.error(error, what, self.logits_bytes(rows.len())));
                }
            }
        }
        Ok(likelihoods)
    }

    fn make_room(&mut self, positions: usize) -> Result<(), LlamaError> {
        if self.caches.first().is_some_and(|cache| cache.capacity() >= positions) {
            return Ok(());
        }
        self.caches.clear();
        self.make_caches(1, positions, CacheType::F32)
    }

    fn give_back(&mut self) {
        self.workspace = None;
        self.unpacked.give_back();
    }

    fn cache_bytes(&self) -> usize {
        self.caches.iter().map(Cache::size_bytes).sum()
    }
}

impl fmt::Debug for OnGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnGpu")
            .field("cache_bytes", &self.cache_bytes())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}
