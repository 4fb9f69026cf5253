//! Keys and values of the tokens that a model has read.
//!
//! # Layout
//!
//! Positions come in blocks of [`LANES`]. A block of keys of one head is `[D, LANES]`: a vector register holds one
//! coordinate of neighbouring positions, and the scores of a query against the block are sums of products with no sum across a
//! register. Values are `[position, D]`, D rounded up to whole registers. Heads lie apart, so that each is read in one stream.
#![allow(non_snake_case)]

use std::ops::Range;

use half::f16;

use crate::config::LlamaConfig;

/// Positions of a block, and numbers of a register.
pub(super) const LANES: usize = 16;

/// Numbers side by side.
pub(super) type Lanes<T> = [T; LANES];

/// The type of the numbers in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// Single precision: what the model computed.
    #[default]
    F32,
    /// Half precision: half the memory, and keys and values rounded to 11 bits.
    F16,
}

impl CacheType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// A number of a cache.
pub(super) trait CacheNumber: bytemuck::Zeroable + Copy + Send + Sync {
    fn from_f32(value: f32) -> Self;

    /// The numbers as f32: themselves, or converted into `scratch`, which has their length.
    fn widen<'a>(numbers: &'a [Lanes<Self>], scratch: &'a mut [Lanes<f32>]) -> &'a [Lanes<f32>];
}

impl CacheNumber for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widen<'a>(numbers: &'a [Lanes<f32>], _scratch: &'a mut [Lanes<f32>]) -> &'a [Lanes<f32>] {
        numbers
    }
}

impl CacheNumber for f16 {
    fn from_f32(value: f32) -> Self {
        // A value beyond the range would become infinite and the output NaN: the largest number is the lesser evil.
        f16::from_f32(value.clamp(f16::MIN.to_f32_const(), f16::MAX.to_f32_const()))
    }

    #[inline(always)]
    fn widen<'a>(numbers: &'a [Lanes<f16>], scratch: &'a mut [Lanes<f32>]) -> &'a [Lanes<f32>] {
        use half::slice::HalfFloatSliceExt;
        numbers.as_flattened().convert_to_f32_slice(scratch.as_flattened_mut());
        scratch
    }
}

/// Keys and values of one layer.
#[derive(Clone, Debug)]
pub(super) struct Planes<T> {
    shape: Shape,
    /// `[G, blocks, D]` lanes
    keys: Vec<Lanes<T>>,
    /// `[G, blocks * LANES, D / LANES]` lanes
    values: Vec<Lanes<T>>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    head_dim: usize,
    blocks: usize,
}

impl Shape {
    /// Registers that hold a value.
    fn value_width(self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn key_lanes(self) -> usize {
        self.heads * self.blocks * self.head_dim
    }

    fn value_lanes(self) -> usize {
        self.heads * self.blocks * LANES * self.value_width()
    }
}

impl<T: CacheNumber> Planes<T> {
    fn new(shape: Shape) -> Self {
        // Memory that the system hands out zeroed costs nothing until a position is written.
        let keys = bytemuck::zeroed_vec(shape.key_lanes());
        let values = bytemuck::zeroed_vec(shape.value_lanes());
        Self { shape, keys, values }
    }

    /// Numbers in a head: D.
    pub(super) fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// Registers that hold a value.
    pub(super) fn value_width(&self) -> usize {
        self.shape.value_width()
    }

    /// Keys of a block of positions, `[D]` lanes.
    #[inline(always)]
    pub(super) fn keys(&self, head: usize, block: usize) -> &[Lanes<T>] {
        &self.keys[(head * self.shape.blocks + block) * self.shape.head_dim..][..self.shape.head_dim]
    }

    /// Values of a block of positions, `[LANES, value_width]` lanes.
    #[inline(always)]
    pub(super) fn values(&self, head: usize, block: usize) -> &[Lanes<T>] {
        let len = LANES * self.shape.value_width();
        &self.values[(head * self.shape.blocks + block) * len..][..len]
    }

    /// Takes in keys and values of tokens, both `[tokens, G, D]`, at positions from `first` on.
    fn write(&mut self, first: usize, k: &[f32], v: &[f32]) {
        let Shape {
            heads,
            head_dim,
            blocks,
        } = self.shape;
        let (width, row) = (self.shape.value_width(), heads * head_dim);
        for (i, (k, v)) in k.chunks_exact(row).zip(v.chunks_exact(row)).enumerate() {
            let (block, lane) = ((first + i) / LANES, (first + i) % LANES);
            for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
                let keys = &mut self.keys[(head * blocks + block) * head_dim..][..head_dim];
                keys.iter_mut()
                    .zip(k)
                    .for_each(|(lanes, &k)| lanes[lane] = T::from_f32(k));
                let value = &mut self.values[((head * blocks + block) * LANES + lane) * width..][..width];
                value
                    .as_flattened_mut()
                    .iter_mut()
                    .zip(v)
                    .for_each(|(to, &v)| *to = T::from_f32(v));
            }
        }
    }
}

/// Keys and values of one layer, in either type.
#[derive(Clone, Debug)]
pub(super) enum LayerCache {
    F32(Planes<f32>),
    F16(Planes<f16>),
}

/// Keys and values of the tokens that a model has read, for all its layers.
///
/// Memory: `layers x key/value heads x ceil16(capacity) x (D + ceil16(D)) x (4 or 2)` bytes, D being the numbers in a head and
/// ceil16 rounding up to a multiple of 16. The system hands it out as positions are filled.
#[derive(Clone, Debug)]
pub(super) struct KvCache {
    layers: Vec<LayerCache>,
    shape: Shape,
    cache_type: CacheType,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `capacity` positions of each layer.
    pub(super) fn new(config: &LlamaConfig, capacity: usize, cache_type: CacheType) -> Self {
        Self::with_layers(config, config.num_hidden_layers, capacity, cache_type)
    }

    /// A cache that every layer uses after the one before it, for tokens that are read all at once.
    pub(super) fn for_one_pass(config: &LlamaConfig, capacity: usize) -> Self {
        Self::with_layers(config, 1, capacity, CacheType::F32)
    }

    fn with_layers(config: &LlamaConfig, layers: usize, capacity: usize, cache_type: CacheType) -> Self {
        let (heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let shape = Shape {
            heads,
            head_dim,
            blocks: capacity.div_ceil(LANES),
        };
        let layer = || match cache_type {
            CacheType::F32 => LayerCache::F32(Planes::new(shape)),
            CacheType::F16 => LayerCache::F16(Planes::new(shape)),
        };
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
            shape,
            cache_type,
            capacity,
        }
    }

    /// Positions that there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of all keys and values.
    pub(super) fn size_bytes(&self) -> usize {
        let lanes = self.shape.key_lanes() + self.shape.value_lanes();
        self.layers.len() * lanes * LANES * self.cache_type.size()
    }

    /// The cache of a layer.
    pub(super) fn layer(&self, index: usize) -> &LayerCache {
        &self.layers[index.min(self.layers.len() - 1)]
    }

    /// Takes in keys and values of tokens, both `[tokens, G, D]`, at positions from `first` on.
    pub(super) fn write(&mut self, layer: usize, first: usize, k: &[f32], v: &[f32]) {
        let last = self.layers.len() - 1;
        match &mut self.layers[layer.min(last)] {
            LayerCache::F32(planes) => planes.write(first, k, v),
            LayerCache::F16(planes) => planes.write(first, k, v),
        }
    }
}

/// Consecutive tokens of one sequence, among the tokens of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    /// Which tokens of the batch.
    pub(super) tokens: Range<usize>,
    /// Tokens before the first of them, which all of them see: where their keys lie in the cache. Begins with a block.
    pub(super) seen: Range<usize>,
    /// Where the keys of these tokens lie in the cache; of these each token sees its own and those before it. Either behind
    /// `seen` without a gap, or at the beginning of a block.
    pub(super) own: usize,
}

impl Span {
    /// Position of the first token in its sequence.
    pub(super) fn position(&self) -> usize {
        self.seen.len()
    }
}
