// Causal grouped-query attention by tiles (arXiv 2205.14135): no map of positions x positions.
//
// q, out [B, S, A, D], k, v [B, S, G, D], lse [B, A, S]; query head a reads key/value head a / (A / G). Tiles of 64 queries and 64 keys; those above
// the diagonal are skipped. Blocks with the most tiles come first.
//
// first_seen [B, S], unless null, is the first position that each sees, of which none is below that of the position before it: tiles of which nothing
// is seen are skipped.

// At most 128 registers a thread.
#undef BLOCKS_TOGETHER
#define BLOCKS_TOGETHER 2

// One head of a sequence: row i is at x + i stride.
struct Rows {
    const float* x;
    size_t stride, seq;
    unsigned int dim;
    // all rows are whole fours at multiples of 16 bytes
    bool by_fours;

    __device__ inline Several<4, float> four(size_t row, unsigned int column) const {
        Several<4, float> four;
        for (int n = 0; n < 4; n++) four.x[n] = 0.0f;
        if (row < seq && column < dim) {
            const float* from = x + row * stride;
            if (by_fours) {
                four = load<4>(from, column);
            } else {
                for (unsigned int n = 0; n < 4; n++) {
                    if (column + n < dim) four.x[n] = from[column + n];
                }
            }
        }
        return four;
    }
};

__device__ inline Rows rows_of(const float* x, size_t batch, size_t head, size_t heads, size_t seq, size_t dim) {
    Rows rows;
    rows.x = x + (batch * seq * heads + head) * dim;
    rows.stride = heads * dim;
    rows.seq = seq;
    rows.dim = (unsigned int)dim;
    rows.by_fours = dim % 4 == 0 && is_aligned(x);
    return rows;
}

// What the positions of a sequence see first, if that is not all.
__device__ inline const unsigned int* seen_of(const unsigned int* first_seen, size_t batch, size_t seq) { return first_seen ? first_seen + batch * seq : 0; }

// The first position that one sees; of those beyond the sequence 0.
__device__ inline unsigned int first_of(const unsigned int* seen, size_t position, size_t seq) { return seen && position < seq ? seen[position] : 0; }

// A block a tile of queries, head and sequence.
EDKM_KERNEL edkm_attention_forward(
    const float* q, const float* k, const float* v, const unsigned int* first_seen, float* out, float* lse, float scale, size_t seq, size_t heads, size_t kv_heads, size_t dim,
    size_t blocks
) {
    __shared__ Several<4, float> shared_stages[2 * STAGE / 4];
    __shared__ Several<4, float> shared_weights[SCORES / 4];
    __shared__ Several<4, float> shared_lanes[TILE * PITCH(ROW_LANES) / 4];
    float *stages = shared_stages[0].x, *weights = shared_weights[0].x, *of_lanes = shared_lanes[0].x;
    size_t tiles = (seq + TILE - 1) / TILE, sides = blocks / tiles;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t first_query = (tiles - 1 - block / sides) * TILE, head = block % sides % heads, batch = block % sides / heads;
        size_t kv_head = head / (heads / kv_heads);
        Rows queries = rows_of(q, batch, head, heads, seq, dim);
        Rows keys = rows_of(k, batch, kv_head, kv_heads, seq, dim), values = rows_of(v, batch, kv_head, kv_heads, seq, dim);
        const unsigned int* seen_first = seen_of(first_seen, batch, seq);
        float sums[HALVES][4][4], largest[4], total[4];
        unsigned int first[4];
        for (int i = 0; i < 4; i++) {
            first[i] = first_of(seen_first, first_query + ROW + i, seq);
            largest[i] = negative_infinity();
            // of the keys of this thread alone
            total[i] = 0.0f;
            for (int j = 0; j < 4; j++) {
                for (int half = 0; half < HALVES; half++) sums[half][i][j] = 0.0f;
            }
        }
        for (size_t first_key = first_of(seen_first, first_query, seq) / TILE * TILE; first_key <= first_query; first_key += TILE) {
            float scores[4][4];
            multiply_rows(scores, queries, first_query, keys, first_key, stages);
            for (int i = 0; i < 4; i++) {
                float of_thread = negative_infinity();
                for (int j = 0; j < 4; j++) {
                    size_t key = first_key + COLUMN + ROW_LANES * j;
                    bool seen = key >= first[i] && key <= first_query + ROW + i && key < seq;
                    scores[i][j] = seen ? scale * scores[i][j] : negative_infinity();
                    of_thread = larger(scores[i][j], of_thread);
                }
                of_lanes[(ROW + i) * PITCH(ROW_LANES) + COLUMN] = of_thread;
            }
            __syncthreads();
            load_half(stages, values, first_key, 0);
            // Every thread of a row finds the same maximum. It is finite from the first tile on of which the query sees something; before, all is 0.
            for (int i = 0; i < 4; i++) {
                float before = largest[i];
                for (int lane = 0; lane < ROW_LANES; lane += 4) {
                    Several<4, float> four = load<4>(lanes_of_row(of_lanes, i), lane);
                    for (int n = 0; n < 4; n++) largest[i] = larger(four.x[n], largest[i]);
                }
                float base = largest[i] == negative_infinity() ? 0.0f : largest[i], keep = expf(before - base);
                total[i] *= keep;
                for (int j = 0; j < 4; j++) {
                    scores[i][j] = expf(scores[i][j] - base);
                    total[i] += scores[i][j];
                    for (int half = 0; half < HALVES; half++) sums[half][i][j] *= keep;
                }
            }
            store_tile(weights, scores);
            __syncthreads();
            add_rows(sums[0], weights, stages);
            if (dim > TILE) {
                __syncthreads();
                load_half(stages, values, first_key, 1);
                __syncthreads();
                add_rows(sums[1], weights, stages);
            }
        }
        __syncthreads();
        for (int i = 0; i < 4; i++) of_lanes[(ROW + i) * PITCH(ROW_LANES) + COLUMN] = total[i];
        __syncthreads();
        for (int i = 0; i < 4; i++) {
            size_t query = first_query + ROW + i;
            float of_row = 0.0f;
            for (int lane = 0; lane < ROW_LANES; lane++) of_row += lanes_of_row(of_lanes, i)[lane];
            if (query < seq) {
                for (int half = 0; half < HALVES; half++) {
                    for (int j = 0; j < 4; j++) {
                        size_t column = half * TILE + 4 * COLUMN + j;
                        if (column < dim) out[((batch * seq + query) * heads + head) * dim + column] = sums[half][i][j] / of_row;
                    }
                }
                if (COLUMN == 0) lse[(batch * heads + head) * seq + query] = largest[i] + logf(of_row);
            }
        }
    }
}

// delta[B, A, S] = the sum over D of out * grad_out. A block THREADS / ROW_LANES rows of out, ROW_LANES threads a row.
EDKM_KERNEL edkm_attention_delta(
    const float* out, const float* grad_out, float* delta, size_t seq, size_t heads, size_t dim, size_t len, size_t blocks
) {
    __shared__ float of_lanes[THREADS];
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t row = block * (THREADS / ROW_LANES) + threadIdx.x / ROW_LANES;
        float sum = 0.0f;
        if (row < len) {
            for (size_t i = COLUMN; i < dim; i += ROW_LANES) sum = fmaf(out[row * dim + i], grad_out[row * dim + i], sum);
        }
        __syncthreads();
        of_lanes[threadIdx.x] = sum;
        __syncthreads();
        if (COLUMN == 0 && row < len) {
            for (unsigned int lane = 1; lane < ROW_LANES; lane++) sum += of_lanes[threadIdx.x + lane];
            size_t head = row % heads, position = row / heads % seq, batch = row / heads / seq;
            delta[(batch * heads + head) * seq + position] = sum;
        }
    }
}

// dq += ds k with ds = scale p (dp - delta), p = e^(score - lse), dp = grad_out v. A block a tile of queries, half of a head, head and
// sequence.
EDKM_KERNEL edkm_attention_backward_queries(
    const float* q, const float* k, const float* v, const unsigned int* first_seen, const float* lse, const float* delta, const float* grad_out, float* grad_q, float scale,
    size_t seq, size_t heads, size_t kv_heads, size_t dim, size_t blocks
) {
    __shared__ Several<4, float> shared_stages[2 * STAGE / 4];
    __shared__ Several<4, float> shared_grads[SCORES / 4];
    float *stages = shared_stages[0].x, *score_grads = shared_grads[0].x;
    size_t tiles = (seq + TILE - 1) / TILE, sides = blocks / tiles;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t first_query = (tiles - 1 - block / sides) * TILE, head = block % sides % heads, batch = block % sides / heads;
        size_t halves = (dim + TILE - 1) / TILE, kv_head = head / (heads / kv_heads);
        unsigned int half = (unsigned int)(batch % halves);
        batch /= halves;
        Rows queries = rows_of(q, batch, head, heads, seq, dim), grads = rows_of(grad_out, batch, head, heads, seq, dim);
        Rows keys = rows_of(k, batch, kv_head, kv_heads, seq, dim), values = rows_of(v, batch, kv_head, kv_heads, seq, dim);
        const float *row_lse = lse + (batch * heads + head) * seq, *row_delta = delta + (batch * heads + head) * seq;
        const unsigned int* seen_first = seen_of(first_seen, batch, seq);
        float sums[4][4];
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
        }
        unsigned int first[4];
        for (int i = 0; i < 4; i++) first[i] = first_of(seen_first, first_query + ROW + i, seq);
        for (size_t first_key = first_of(seen_first, first_query, seq) / TILE * TILE; first_key <= first_query; first_key += TILE) {
            float p[4][4], dp[4][4];
            multiply_rows(p, queries, first_query, keys, first_key, stages);
            multiply_rows(dp, grads, first_query, values, first_key, stages);
            __syncthreads();
            load_half(stages, keys, first_key, half);
            for (int i = 0; i < 4; i++) {
                size_t query = first_query + ROW + i;
                for (int j = 0; j < 4; j++) {
                    size_t key = first_key + COLUMN + ROW_LANES * j;
                    bool seen = query < seq && key >= first[i] && key <= query;
                    dp[i][j] = seen ? scale * expf(scale * p[i][j] - row_lse[query]) * (dp[i][j] - row_delta[query]) : 0.0f;
                }
            }
            store_tile(score_grads, dp);
            __syncthreads();
            add_rows(sums, score_grads, stages);
        }
        for (int i = 0; i < 4; i++) {
            size_t query = first_query + ROW + i;
            for (int j = 0; j < 4; j++) {
                size_t column = half * TILE + 4 * COLUMN + j;
                if (query < seq && column < dim) grad_q[((batch * seq + query) * heads + head) * dim + column] += sums[i][j];
            }
        }
    }
}

// dk = ds^T q and dv = p^T grad_out of one query head: added where each query head has a key/value head of its own, else written, for
// edkm_attention_add_heads to add. grad_k, grad_v [B, S, A, D]. A block a tile of keys, half of a head, query head and sequence.
EDKM_KERNEL edkm_attention_backward_keys(
    const float* q, const float* k, const float* v, const unsigned int* first_seen, const float* lse, const float* delta, const float* grad_out, float* grad_k, float* grad_v,
    float scale, size_t seq, size_t heads, size_t kv_heads, size_t dim, size_t blocks
) {
    __shared__ Several<4, float> shared_stages[2 * STAGE / 4];
    __shared__ Several<4, float> shared_weights[SCORES / 4];
    float *stages = shared_stages[0].x, *weights = shared_weights[0].x;
    size_t tiles = (seq + TILE - 1) / TILE, sides = blocks / tiles;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        // low keys are seen by the most queries
        size_t first_key = block / sides * TILE, head = block % sides % heads, batch = block % sides / heads;
        size_t halves = (dim + TILE - 1) / TILE, kv_head = head / (heads / kv_heads);
        unsigned int half = (unsigned int)(batch % halves);
        batch /= halves;
        Rows queries = rows_of(q, batch, head, heads, seq, dim), grads = rows_of(grad_out, batch, head, heads, seq, dim);
        Rows keys = rows_of(k, batch, kv_head, kv_heads, seq, dim), values = rows_of(v, batch, kv_head, kv_heads, seq, dim);
        const float *row_lse = lse + (batch * heads + head) * seq, *row_delta = delta + (batch * heads + head) * seq;
        const unsigned int* seen_first = seen_of(first_seen, batch, seq);
        float key_sums[4][4], value_sums[4][4];
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) key_sums[i][j] = value_sums[i][j] = 0.0f;
        }
        for (size_t first_query = first_key; first_query < seq; first_query += TILE) {
            // no later query sees more
            if (first_of(seen_first, first_query, seq) >= first_key + TILE) break;
            // rows are keys here
            float p[4][4], ds[4][4];
            multiply_rows(p, keys, first_key, queries, first_query, stages);
            multiply_rows(ds, values, first_key, grads, first_query, stages);
            __syncthreads();
            load_half(stages, grads, first_query, half);
            for (int j = 0; j < 4; j++) {
                size_t query = first_query + COLUMN + ROW_LANES * j;
                // in 32 bits, for want of registers: no sequence is longer
                unsigned int first = first_of(seen_first, query, seq), key_of_row = (unsigned int)first_key + ROW;
                for (int i = 0; i < 4; i++) {
                    bool seen = query < seq && key_of_row + i >= first && key_of_row + i <= (unsigned int)query;
                    p[i][j] = seen ? expf(scale * p[i][j] - row_lse[query]) : 0.0f;
                    ds[i][j] = seen ? scale * p[i][j] * (ds[i][j] - row_delta[query]) : 0.0f;
                }
            }
            store_tile(weights, p);
            __syncthreads();
            add_rows(value_sums, weights, stages);
            __syncthreads();
            load_half(stages, queries, first_query, half);
            store_tile(weights, ds);
            __syncthreads();
            add_rows(key_sums, weights, stages);
        }
        for (int i = 0; i < 4; i++) {
            size_t key = first_key + ROW + i;
            for (int j = 0; j < 4; j++) {
                size_t column = half * TILE + 4 * COLUMN + j, at = ((batch * seq + key) * heads + head) * dim + column;
                if (key < seq && column < dim) {
                    grad_k[at] = heads == kv_heads ? grad_k[at] + key_sums[i][j] : key_sums[i][j];
                    grad_v[at] = heads == kv_heads ? grad_v[at] + value_sums[i][j] : value_sums[i][j];
                }
            }
        }
    }
}

// grad[B, S, G, D] += the sum over the query heads of each group of of_heads[B, S, A, D], in their order.
EDKM_KERNEL edkm_attention_add_heads(const float* of_heads, float* grad, size_t group, size_t dim, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        const float* from = of_heads + i / dim * group * dim + i % dim;
        float sum = 0.0f;
        for (size_t head = 0; head < group; head++) sum += from[head * dim];
        grad[i] += sum;
    }
}

#undef BLOCKS_TOGETHER
#define BLOCKS_TOGETHER 1
