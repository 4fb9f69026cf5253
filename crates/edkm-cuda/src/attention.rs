//! Causal grouped-query attention by tiles, as `edkm_kernels::attention`.
#![allow(unsafe_code)]

use edkm_kernels::attention::Dims;

use crate::runtime::{blocks, blocks_for, THREADS};
use crate::Argument::{Address, Float, Size};
use crate::{check, Argument, Array, Runtime, Slice, SliceMut};

/// Numbers in a head, at most: as in `cuda/attention.cu`.
pub const MOST_HEAD_DIM: usize = 128;

/// Queries and keys of a tile: as in `cuda/attention.cu`.
const TILE: usize = 64;

/// Threads that share a row of [`backward`]'s first sum: as in `cuda/attention.cu`.
const ROW_LANES: usize = 16;

/// What attention reads: `q [B, S, A, D]`, `k` and `v [B, S, G, D]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries.
    pub q: Slice<'a, f32>,
    /// Keys.
    pub k: Slice<'a, f32>,
    /// Values.
    pub v: Slice<'a, f32>,
    /// `[B, S]`: the first position of its sequence that each sees, none below that of the position before it; `None`: all see their sequence from its beginning.
    pub first_seen: Option<Slice<'a, u32>>,
}

impl Inputs<'_> {
    #[track_caller]
    fn check(&self, dims: &Dims) {
        assert!(
            dims.kv_heads > 0 && dims.heads.is_multiple_of(dims.kv_heads),
            "{} query heads cannot share {} key/value heads evenly",
            dims.heads,
            dims.kv_heads
        );
        assert!(
            dims.head_dim <= MOST_HEAD_DIM,
            "heads of {} numbers: at most {MOST_HEAD_DIM} on a GPU",
            dims.head_dim
        );
        check::len("q [B, S, A, D]", self.q.len(), dims.query_len());
        check::len("k [B, S, G, D]", self.k.len(), dims.key_len());
        check::len("v [B, S, G, D]", self.v.len(), dims.key_len());
        if let Some(first_seen) = self.first_seen {
            check::len(
                "first_seen [B, S]",
                first_seen.len(),
                dims.batch.saturating_mul(dims.seq),
            );
        }
    }

    /// q, k, v, first_seen
    fn arguments(&self) -> [Argument; 4] {
        let first_seen = self.first_seen.map_or(Address(0), Slice::argument);
        [self.q.argument(), self.k.argument(), self.v.argument(), first_seen]
    }
}

/// softmax(q kᵀ scale, causal, from `first_seen` on) v: `out [B, S, A, D]`, and the log-sum-exp of each query's scores `lse [B, A, S]`.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// For heads of more than [`MOST_HEAD_DIM`].
pub fn forward<R: Runtime>(
    runtime: &R,
    dims: &Dims,
    inputs: Inputs<'_>,
    mut out: SliceMut<'_, f32>,
    mut lse: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    inputs.check(dims);
    check::len("out [B, S, A, D]", out.len(), dims.query_len());
    check::len("lse [B, A, S]", lse.len(), dims.lse_len());
    if dims.query_len() == 0 {
        return Ok(());
    }
    let tiles = dims.seq.div_ceil(TILE) * dims.heads * dims.batch;
    let [q, k, v, first_seen] = inputs.arguments();
    let arguments = [
        q,
        k,
        v,
        first_seen,
        out.argument(),
        lse.argument(),
        Float(dims.scale),
        Size(dims.seq),
        Size(dims.heads),
        Size(dims.kv_heads),
        Size(dims.head_dim),
        Size(tiles),
    ];
    // SAFETY: edkm_attention_forward(q, k, v, first_seen, out, lse, scale, seq, heads, kv_heads, dim, blocks) reaches the positions below seq of `blocks`
    // tiles, heads and sequences, which is what the slices hold; first_seen may be null.
    unsafe { runtime.launch("edkm_attention_forward", blocks(tiles), &arguments) }
}

/// What [`forward`] left.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// `[B, S, A, D]`
    pub out: Slice<'a, f32>,
    /// `[B, A, S]`
    pub lse: Slice<'a, f32>,
}

/// Adds the gradients of q, k and v. Scratch: B x A x S x 4 bytes, and where query heads share key/value heads 2 x B x S x A x D x 4 bytes more.
///
/// # Errors
/// The runtime's.
pub fn backward<R: Runtime>(
    runtime: &R,
    dims: &Dims,
    inputs: Inputs<'_>,
    outputs: Outputs<'_>,
    grad_out: Slice<'_, f32>,
    [mut grad_q, mut grad_k, mut grad_v]: [SliceMut<'_, f32>; 3],
) -> Result<(), R::Error> {
    inputs.check(dims);
    check::len("out [B, S, A, D]", outputs.out.len(), dims.query_len());
    check::len("lse [B, A, S]", outputs.lse.len(), dims.lse_len());
    check::len("grad_out [B, S, A, D]", grad_out.len(), dims.query_len());
    check::len("grad_q [B, S, A, D]", grad_q.len(), dims.query_len());
    check::len("grad_k [B, S, G, D]", grad_k.len(), dims.key_len());
    check::len("grad_v [B, S, G, D]", grad_v.len(), dims.key_len());
    if dims.query_len() == 0 {
        return Ok(());
    }
    let rows = dims.lse_len();
    let mut delta = Array::<R, f32>::unset(runtime, rows)?;
    let blocks_of_rows = rows.div_ceil(THREADS / ROW_LANES);
    let arguments = [
        outputs.out.argument(),
        grad_out.argument(),
        delta.as_mut().argument(),
        Size(dims.seq),
        Size(dims.heads),
        Size(dims.head_dim),
        Size(rows),
        Size(blocks_of_rows),
    ];
    // SAFETY: edkm_attention_delta(out, grad_out, delta, seq, heads, dim, len, blocks) reaches `len` rows of dim numbers, which is what the slices hold.
    unsafe { runtime.launch("edkm_attention_delta", blocks(blocks_of_rows), &arguments) }?;

    let (tiles, delta) = (dims.seq.div_ceil(TILE) * dims.batch, delta.as_slice());
    let (inputs, others) = (inputs.arguments(), [outputs.lse, delta, grad_out].map(Slice::argument));
    let reads = [&inputs[..], &others].concat();
    let shape = [dims.seq, dims.heads, dims.kv_heads, dims.head_dim].map(Size);

    let blocks_of_queries = tiles * dims.heads * dims.head_dim.div_ceil(TILE);
    let arguments = [
        &reads[..],
        &[grad_q.argument(), Float(dims.scale)],
        &shape,
        &[Size(blocks_of_queries)],
    ]
    .concat();
    // SAFETY: edkm_attention_backward_queries(q, k, v, first_seen, lse, delta, grad_out, grad_q, scale, seq, heads, kv_heads, dim, blocks) reaches what the slices
    // hold, as the forward kernel does.
    unsafe { runtime.launch("edkm_attention_backward_queries", blocks(blocks_of_queries), &arguments) }?;

    let blocks_of_keys = blocks_of_queries;
    let keys = |mut to_k: SliceMut<'_, f32>, mut to_v: SliceMut<'_, f32>| {
        let arguments = [
            &reads[..],
            &[to_k.argument(), to_v.argument(), Float(dims.scale)],
            &shape,
            &[Size(blocks_of_keys)],
        ]
        .concat();
        // SAFETY: edkm_attention_backward_keys(q, k, v, first_seen, lse, delta, grad_out, grad_k, grad_v, scale, seq, heads, kv_heads, dim, blocks): likewise;
        // grad_k and grad_v hold [B, S, A, D].
        unsafe { runtime.launch("edkm_attention_backward_keys", blocks(blocks_of_keys), &arguments) }
    };
    if dims.heads == dims.kv_heads {
        return keys(grad_k, grad_v);
    }
    let mut of_heads_k = Array::<R, f32>::unset(runtime, dims.query_len())?;
    let mut of_heads_v = Array::<R, f32>::unset(runtime, dims.query_len())?;
    keys(of_heads_k.as_mut(), of_heads_v.as_mut())?;
    for (of_heads, grad) in [(&of_heads_k, &mut grad_k), (&of_heads_v, &mut grad_v)] {
        let arguments = [
            of_heads.as_slice().argument(),
            grad.argument(),
            Size(dims.heads / dims.kv_heads),
            Size(dims.head_dim),
            Size(dims.key_len()),
        ];
        // SAFETY: edkm_attention_add_heads(of_heads, grad, group, dim, len) reaches `len` numbers of grad and `group` times as many of of_heads.
        unsafe { runtime.launch("edkm_attention_add_heads", blocks_for(dims.key_len()), &arguments) }?;
    }
    Ok(())
}
