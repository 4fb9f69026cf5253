//! Attention of some tokens over the keys and values in a cache: a prompt, a single token, or several sequences with a common beginning.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::attention::MOST_HEAD_DIM;
use crate::check::{self, TooLarge};
use crate::dense::Kind;
use crate::runtime::{blocks, blocks_for};
use crate::Argument::{Address, Float, Size};
use crate::{Array, Runtime, Slice, SliceMut};

/// Queries and keys of a tile: as in `cuda/tiles.cuh`.
const TILE: usize = 64;

/// Query heads that can share a key head, at most: they are rows of one tile.
pub const MOST_SHARING: usize = TILE;

/// Keys of a range, at least: a block works on one. So a single token has blocks for its keys, not one for all.
const FEWEST_KEYS: usize = 256;

/// Ranges of a sequence's keys, at most. It bounds the memory for their sums.
const MOST_RANGES: usize = 16;

/// The axes of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads: A.
    pub queries: usize,
    /// Key and value heads: G, which divides A.
    pub keys: usize,
    /// Numbers in a head: D.
    pub dim: usize,
}

impl Heads {
    /// Panics if there are no kernels for such heads.
    #[track_caller]
    fn check(self) {
        let Heads { queries, keys, dim } = self;
        assert!(
            keys > 0 && queries.is_multiple_of(keys) && queries / keys <= MOST_SHARING,
            "{queries} query heads on {keys} key heads: at most {MOST_SHARING} share one"
        );
        assert!(
            dim > 0 && dim <= MOST_HEAD_DIM,
            "heads of {dim} numbers: at most {MOST_HEAD_DIM} on a GPU"
        );
    }
}

/// The type of the numbers in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// Single precision.
    F32,
    /// Half precision, rounded to nearest; what is beyond its range becomes its largest number.
    F16,
}

impl CacheKind {
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::F32,
            Self::F16 => Kind::F16,
        }
    }
}

/// Keys and values of one layer. Memory: 2 x G x capacity x D x (4 or 2) bytes.
pub struct Cache<R: Runtime> {
    /// `[G, capacity, D]`, in words of 4 bytes, which suit either type.
    keys: Array<R, u32>,
    values: Array<R, u32>,
    heads: Heads,
    capacity: usize,
    kind: CacheKind,
}

impl<R: Runtime> Cache<R> {
    /// A cache for `capacity` tokens. What it holds is to be written before it is read.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// For heads that there are no kernels for: more than 128 numbers, more than 64 query heads for a key head.
    pub fn new(runtime: &R, heads: Heads, capacity: usize, kind: CacheKind) -> Result<Self, R::Error> {
        heads.check();
        let factors = [2, heads.keys, capacity, heads.dim, kind.kind().size()];
        check::product("bytes of a cache [2, G, capacity, D]", factors)?;
        let words = Self::bytes_of_each(heads, capacity, kind).div_ceil(4);
        Ok(Self {
            keys: Array::unset(runtime, words)?,
            values: Array::unset(runtime, words)?,
            heads,
            capacity,
            kind,
        })
    }

    /// Bytes of the keys, and of the values: of a cache that there is.
    fn bytes_of_each(heads: Heads, capacity: usize, kind: CacheKind) -> usize {
        heads.keys * capacity * heads.dim * kind.kind().size()
    }

    /// Tokens that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the device's memory.
    pub fn size_bytes(&self) -> usize {
        2 * Self::bytes_of_each(self.heads, self.capacity, self.kind)
    }

    /// Takes in keys and values of tokens, each at its slot. `k`, `v [N, G, D]`, `slots [N]`; slots beyond the capacity are left out.
    ///
    /// # Errors
    /// The runtime's.
    pub fn write(
        &mut self,
        runtime: &R,
        k: Slice<'_, f32>,
        v: Slice<'_, f32>,
        slots: Slice<'_, u32>,
    ) -> Result<(), R::Error> {
        let (len, axes) = (k.len(), [slots.len(), self.heads.keys, self.heads.dim]);
        check::shape("k [N, G, D]", k.len(), axes);
        check::shape("v [N, G, D]", v.len(), axes);
        let arguments = [
            k.argument(),
            v.argument(),
            slots.argument(),
            self.keys.as_mut().argument(),
            self.values.as_mut().argument(),
            Size(self.kind.kind().number()),
            Size(self.heads.keys),
            Size(self.heads.dim),
            Size(self.capacity),
            Size(len),
        ];
        // SAFETY: edkm_cache_write(k, v, slots, keys, values, kind, kv_heads, dim, capacity, len) reaches `len` numbers of k and v, which are whole
        // tokens, as many slots, and of keys and values what belongs to slots below the capacity.
        unsafe { runtime.launch("edkm_cache_write", blocks_for(len), &arguments) }
    }
}

/// Consecutive tokens of one sequence, among the tokens of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which tokens of the pass.
    pub tokens: Range<usize>,
    /// Slots of the cache with the tokens before them, which all of them see.
    pub seen: Range<usize>,
    /// Slot of the first of these tokens; the others follow. Each sees its own and those before it.
    pub own: usize,
}

/// How the tokens of a pass are shared out among blocks: made once for all layers. Memory: 44 bytes for each 64 / (A / G) tokens and range of keys.
pub struct Pieces<R: Runtime> {
    items: Array<R, u32>,
    count: usize,
    /// Items that leave sums to be joined.
    partials: usize,
    heads: Heads,
    tokens: usize,
    capacity: usize,
}

/// As in `cuda/cached_attention.cu`.
const ITEM: usize = 11;

impl<R: Runtime> Pieces<R> {
    /// For spans that cover the tokens of a pass in order.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// For heads that there are no kernels for; spans with a gap or more than 2^32 slots.
    pub fn new(runtime: &R, heads: Heads, spans: &[Span]) -> Result<Self, R::Error> {
        heads.check();
        let at_once = TILE / (heads.queries / heads.keys);
        let (mut items, mut tokens, mut capacity, mut partials) = (Vec::new(), 0, 0, 0);
        for span in spans {
            let (start, end) = (span.tokens.start, span.tokens.end);
            assert!(start == tokens && start <= end, "spans cover the tokens in order");
            tokens = end;
            capacity = capacity.max(span.own + span.tokens.len()).max(span.seen.end);
            for before in (0..span.tokens.len()).step_by(at_once) {
                let count = at_once.min(span.tokens.len() - before);
                let keys = span.seen.len() + before + count;
                let of_range = keys_of_range(keys);
                let ranges = keys.div_ceil(of_range);
                let first_partial = partials;
                if ranges > 1 {
                    partials += ranges;
                }
                items.extend((0..ranges).flat_map(|range| {
                    let first_key = range * of_range;
                    let last_key = keys.min(first_key + of_range);
                    let item: [usize; ITEM] = [
                        span.tokens.start + before,
                        count,
                        before,
                        span.seen.start,
                        span.seen.len(),
                        span.own,
                        first_key,
                        last_key,
                        ranges,
                        range,
                        first_partial,
                    ];
                    item.map(|number| u32::try_from(number).expect("less than 2^32 slots"))
                }));
            }
        }
        Ok(Self {
            items: Array::from_host(runtime, &items)?,
            count: items.len() / ITEM,
            partials,
            heads,
            tokens,
            capacity,
        })
    }

    /// Numbers that [`forward`] works in.
    fn scratch(&self) -> Result<usize, TooLarge> {
        let Heads { keys, dim, .. } = self.heads;
        check::product(
            "sums of cached attention [ranges, G, 64, D + 2]",
            [self.partials, keys, TILE, dim + 2],
        )
    }
}

/// Keys of a range where there are so many: ranges are few, and begin with a tile.
fn keys_of_range(keys: usize) -> usize {
    keys.div_ceil(MOST_RANGES).next_multiple_of(TILE).max(FEWEST_KEYS)
}

/// out = softmax(q Kᵀ / sqrt(D)) V, of the keys and values that each token sees. `q`, `out [N, A, D]`.
///
/// Scratch: at most 16 x 64 x G x (D + 2) x 4 bytes for each 64 / (A / G) tokens.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If the pieces were made for other heads or reach beyond the cache.
pub fn forward<R: Runtime>(
    runtime: &R,
    cache: &Cache<R>,
    pieces: &Pieces<R>,
    q: Slice<'_, f32>,
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let heads = cache.heads;
    assert!(
        pieces.heads == heads,
        "pieces for {:?}, a cache of {heads:?}",
        pieces.heads
    );
    assert!(
        pieces.capacity <= cache.capacity,
        "pieces for {} tokens, a cache of {}",
        pieces.capacity,
        cache.capacity
    );
    let axes = [pieces.tokens, heads.queries, heads.dim];
    check::shape("q [N, A, D]", q.len(), axes);
    check::shape("out [N, A, D]", out.len(), axes);
    let wanted = check::product("blocks of cached attention [pieces, G]", [pieces.count, heads.keys])?;
    if wanted == 0 {
        return Ok(());
    }
    let mut partial = match pieces.partials {
        0 => None,
        _ => Some(Array::<R, f32>::unset(runtime, pieces.scratch()?)?),
    };
    let arguments = [
        q.argument(),
        cache.keys.as_slice().argument(),
        cache.values.as_slice().argument(),
        pieces.items.as_slice().argument(),
        out.argument(),
        partial
            .as_mut()
            .map_or(Address(0), |partial| partial.as_mut().argument()),
        Float(1.0 / (heads.dim as f32).sqrt()),
        Size(cache.kind.kind().number()),
        Size(heads.queries),
        Size(heads.keys),
        Size(heads.dim),
        Size(cache.capacity),
        Size(wanted),
    ];
    // SAFETY: edkm_cached_attention(q, keys, values, items, out, partial, scale, kind, heads, kv_heads, dim, capacity, blocks) reaches blocks / kv_heads
    // items, by them tokens of q and out below `tokens`, slots below the pieces' capacity, which is within the cache's, and sums of partial below
    // `partials`, none if there is none.
    unsafe { runtime.launch("edkm_cached_attention", blocks(wanted), &arguments) }?;
    let Some(partial) = partial else { return Ok(()) };
    let arguments = [
        pieces.items.as_slice().argument(),
        partial.as_slice().argument(),
        out.argument(),
        Size(heads.queries),
        Size(heads.keys),
        Size(heads.dim),
        Size(wanted),
    ];
    // SAFETY: edkm_cached_attention_join(items, partial, out, heads, kv_heads, dim, blocks) reaches the items, their tokens of out and their sums of
    // partial, as above.
    unsafe { runtime.launch("edkm_cached_attention_join", blocks(wanted), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Nowhere;

    #[test]
    fn a_cache_that_cannot_be_addressed_is_an_error() {
        let heads = Heads {
            queries: 8,
            keys: 8,
            dim: 64,
        };
        let cache = |capacity| Cache::new(&Nowhere, heads, capacity, CacheKind::F16);
        // 2^11 bytes a token
        assert!(cache((1 << 53) - 1).is_ok_and(|cache| cache.size_bytes() == usize::MAX - 2047));
        let error = cache(1 << 53).err().expect("2^64 bytes");
        let message = "bytes of a cache [2, G, capacity, D]: 2 x 8 x 9007199254740992 x 64 x 2 is too large";
        assert!(error.to_string().starts_with(message), "{error}");
    }
}
