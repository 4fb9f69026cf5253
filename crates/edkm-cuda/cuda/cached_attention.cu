// Grouped-query attention of some tokens over the keys and values in a cache (arXiv 2205.14135), by tiles of 64 queries and 64 keys.
//
// q, out [N, A, D]; keys, values [G, capacity, D] of kind 1: f16, 2: f32; query head a reads key/value head a / (A / G). An item is some consecutive tokens of
// a sequence, with all their query heads of a key head as the rows of a tile, and a range of the keys that they see (arXiv 2311.01282). Where the
// keys of a sequence are more than one item takes, each leaves its sums in `partial`, and edkm_cached_attention_join adds them in order.

// At most 128 registers a thread.
#undef BLOCKS_TOGETHER
#define BLOCKS_TOGETHER 2

// As in src/cached_attention.rs.
struct Item {
    // the first token among all, and how many
    unsigned int token, tokens;
    // tokens of its sequence in this pass before the first
    unsigned int before;
    // where keys stand that all of these tokens see, how many they are, and where those of this pass begin
    unsigned int seen_begin, seen, own;
    // which of the keys, counted from the first that is seen
    unsigned int first_key, last_key;
    // ranges that the keys of these tokens are cut into, which of them this is, and the number of the first one's sums among all
    unsigned int ranges, range, partial;
};

// The queries of a key head: row i is head i % group of token i / group.
struct GroupedQueries {
    const float* x;
    size_t token_stride;
    unsigned int group, rows, dim;
    // all rows are whole fours at multiples of 16 bytes
    bool by_fours;

    __device__ inline Several<4, float> four(size_t row, unsigned int column) const {
        Several<4, float> four;
        for (int n = 0; n < 4; n++) four.x[n] = 0.0f;
        if (row < rows && column < dim) {
            const float* from = x + (unsigned int)row / group * token_stride + (unsigned int)row % group * dim;
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

// The keys or values of a head that an item sees, in the order of their positions.
struct CachedRows {
    const void* x;
    size_t kind;
    unsigned int seen_begin, seen, own, last, dim;
    bool by_fours;

    __device__ inline Several<4, float> four(size_t key, unsigned int column) const {
        Several<4, float> four;
        for (int n = 0; n < 4; n++) four.x[n] = 0.0f;
        if (key < last && column < dim) {
            size_t at = (key < seen ? seen_begin + key : own + key - seen) * dim + column;
            if (kind == 2) {
                const float* from = static_cast<const float*>(x);
                if (by_fours) {
                    four = load<4>(from, at);
                } else {
                    for (unsigned int n = 0; n < 4; n++) {
                        if (column + n < dim) four.x[n] = from[at + n];
                    }
                }
            } else {
                const unsigned short* from = static_cast<const unsigned short*>(x);
                if (by_fours) {
                    Several<4, unsigned short> halves = load<4>(from, at);
                    for (unsigned int n = 0; n < 4; n++) four.x[n] = float_of_half(halves.x[n], kind);
                } else {
                    for (unsigned int n = 0; n < 4; n++) {
                        if (column + n < dim) four.x[n] = float_of_half(from[at + n], kind);
                    }
                }
            }
        }
        return four;
    }
};

__device__ inline CachedRows cached_rows(const void* x, size_t kind, const Item& item, size_t head, size_t capacity, size_t dim) {
    CachedRows rows;
    rows.x = static_cast<const char*>(x) + head * capacity * dim * (kind == 2 ? 4 : 2);
    rows.kind = kind;
    rows.seen_begin = item.seen_begin;
    rows.seen = item.seen;
    rows.own = item.own;
    rows.last = item.last_key;
    rows.dim = (unsigned int)dim;
    rows.by_fours = dim % 4 == 0 && is_aligned(x);
    return rows;
}

// Keys and values [N, G, D] into the cache, each token's at its slot. A slot beyond the capacity is left out.
EDKM_KERNEL edkm_cache_write(
    const float* k, const float* v, const unsigned int* slots, void* keys, void* values, size_t kind, size_t kv_heads, size_t dim, size_t capacity,
    size_t len
) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        size_t within = i % dim, head = i / dim % kv_heads, slot = slots[i / dim / kv_heads];
        if (slot >= capacity) continue;
        size_t at = (head * capacity + slot) * dim + within;
        if (kind == 2) {
            static_cast<float*>(keys)[at] = k[i];
            static_cast<float*>(values)[at] = v[i];
        } else {
            // beyond the range of f16: its largest number, as in the CPU's cache; a NaN stays one
            float key = k[i] > 65504.0f ? 65504.0f : k[i] < -65504.0f ? -65504.0f : k[i];
            float value = v[i] > 65504.0f ? 65504.0f : v[i] < -65504.0f ? -65504.0f : v[i];
            static_cast<unsigned short*>(keys)[at] = (unsigned short)key_of(key, 1);
            static_cast<unsigned short*>(values)[at] = (unsigned short)key_of(value, 1);
        }
    }
}

// Where the sums of a row of an item stand in partial [items, G, TILE, D + 2]; behind them the largest score and the total of the exponentials.
__device__ inline size_t partial_at(const Item& item, size_t range, size_t head, size_t kv_heads, size_t row, size_t dim) {
    return (((item.partial + range) * kv_heads + head) * TILE + row) * (dim + 2);
}

// A block an item and key head.
EDKM_KERNEL edkm_cached_attention(
    const float* q, const void* keys, const void* values, const unsigned int* items, float* out, float* partial, float scale, size_t kind, size_t heads,
    size_t kv_heads, size_t dim, size_t capacity, size_t blocks
) {
    __shared__ Several<4, float> shared_stages[2 * STAGE / 4];
    __shared__ Several<4, float> shared_weights[SCORES / 4];
    __shared__ Several<4, float> shared_lanes[TILE * PITCH(ROW_LANES) / 4];
    float *stages = shared_stages[0].x, *weights = shared_weights[0].x, *of_lanes = shared_lanes[0].x;
    unsigned int group = (unsigned int)(heads / kv_heads);
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t head = block % kv_heads;
        Item item = reinterpret_cast<const Item*>(items)[block / kv_heads];
        GroupedQueries queries;
        queries.x = q + (item.token * heads + head * group) * dim;
        queries.token_stride = heads * dim;
        queries.group = group;
        queries.rows = item.tokens * group;
        queries.dim = (unsigned int)dim;
        queries.by_fours = dim % 4 == 0 && is_aligned(q);
        CachedRows of_keys = cached_rows(keys, kind, item, head, capacity, dim), of_values = cached_rows(values, kind, item, head, capacity, dim);
        float sums[HALVES][4][4], largest[4], total[4];
        // keys that a row sees
        unsigned int visible[4];
        for (int i = 0; i < 4; i++) {
            largest[i] = negative_infinity();
            // of the keys of this thread alone
            total[i] = 0.0f;
            visible[i] = ROW + i < queries.rows ? item.seen + item.before + (ROW + i) / group + 1 : 0;
            if (visible[i] > item.last_key) visible[i] = item.last_key;
            for (int j = 0; j < 4; j++) {
                for (int half = 0; half < HALVES; half++) sums[half][i][j] = 0.0f;
            }
        }
        for (unsigned int first_key = item.first_key; first_key < item.last_key; first_key += TILE) {
            float scores[4][4];
            multiply_rows(scores, queries, 0, of_keys, first_key, stages);
            for (int i = 0; i < 4; i++) {
                float of_thread = negative_infinity();
                for (int j = 0; j < 4; j++) {
                    scores[i][j] = first_key + COLUMN + ROW_LANES * j < visible[i] ? scale * scores[i][j] : negative_infinity();
                    of_thread = larger(scores[i][j], of_thread);
                }
                of_lanes[(ROW + i) * PITCH(ROW_LANES) + COLUMN] = of_thread;
            }
            __syncthreads();
            load_half(stages, of_values, first_key, 0);
            // Every thread of a row finds the same maximum. It is not finite where the row has seen no key of the range.
            for (int i = 0; i < 4; i++) {
                float before = largest[i];
                for (int lane = 0; lane < ROW_LANES; lane += 4) {
                    Several<4, float> four = load<4>(lanes_of_row(of_lanes, i), lane);
                    for (int n = 0; n < 4; n++) largest[i] = larger(four.x[n], largest[i]);
                }
                bool sees = largest[i] != negative_infinity();
                float keep = sees ? expf(before - largest[i]) : 1.0f;
                total[i] *= keep;
                for (int j = 0; j < 4; j++) {
                    scores[i][j] = sees ? expf(scores[i][j] - largest[i]) : 0.0f;
                    total[i] += scores[i][j];
                    for (int half = 0; half < HALVES; half++) sums[half][i][j] *= keep;
                }
            }
            store_tile(weights, scores);
            __syncthreads();
            add_rows(sums[0], weights, stages);
            if (dim > TILE) {
                __syncthreads();
                load_half(stages, of_values, first_key, 1);
                __syncthreads();
                add_rows(sums[1], weights, stages);
            }
        }
        __syncthreads();
        for (int i = 0; i < 4; i++) of_lanes[(ROW + i) * PITCH(ROW_LANES) + COLUMN] = total[i];
        __syncthreads();
        for (int i = 0; i < 4; i++) {
            unsigned int row = ROW + i;
            float of_row = 0.0f;
            for (int lane = 0; lane < ROW_LANES; lane++) of_row += lanes_of_row(of_lanes, i)[lane];
            if (row >= queries.rows) continue;
            bool is_whole = item.ranges == 1;
            float* to = is_whole ? out + ((item.token + row / group) * heads + head * group + row % group) * dim
                                 : partial + partial_at(item, item.range, head, kv_heads, row, dim);
            for (int half = 0; half < HALVES; half++) {
                for (int j = 0; j < 4; j++) {
                    size_t column = half * TILE + 4 * COLUMN + j;
                    if (column < dim) to[column] = is_whole ? sums[half][i][j] / of_row : sums[half][i][j];
                }
            }
            if (!is_whole && COLUMN == 0) {
                to[dim] = largest[i];
                to[dim + 1] = of_row;
            }
        }
    }
}

// out = the sums of the ranges of an item's keys, in order, over their total. A block an item and key head; the first range of each does it.
EDKM_KERNEL edkm_cached_attention_join(
    const unsigned int* items, const float* partial, float* out, size_t heads, size_t kv_heads, size_t dim, size_t blocks
) {
    size_t group = heads / kv_heads;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t head = block % kv_heads;
        Item item = reinterpret_cast<const Item*>(items)[block / kv_heads];
        if (item.ranges == 1 || item.range != 0) continue;
        for (size_t i = threadIdx.x; i < item.tokens * group * dim; i += THREADS) {
            size_t row = i / dim, column = i % dim;
            float largest = negative_infinity();
            for (size_t range = 0; range < item.ranges; range++) {
                largest = larger(partial[partial_at(item, range, head, kv_heads, row, dim) + dim], largest);
            }
            float sum = 0.0f, total = 0.0f;
            for (size_t range = 0; range < item.ranges; range++) {
                const float* of_range = partial + partial_at(item, range, head, kv_heads, row, dim);
                float weight = expf(of_range[dim] - largest);
                sum = fmaf(weight, of_range[column], sum);
                total = fmaf(weight, of_range[dim + 1], total);
            }
            out[((item.token + row / group) * heads + head * group + row % group) * dim + column] = sum / total;
        }
    }
}

#undef BLOCKS_TOGETHER
#define BLOCKS_TOGETHER 1
