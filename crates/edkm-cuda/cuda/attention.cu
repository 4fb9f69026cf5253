// Causal grouped-query attention by tiles (arXiv 2205.14135): no map of positions x positions.
//
// q, out [B, S, A, D], k, v [B, S, G, D], lse [B, A, S]; query head a reads key/value head a / (A / G). Tiles of 16 queries and 16 keys:
// a thread holds one score, and a sixteenth of a row of the output. Tiles above the diagonal are skipped.

#define TILE 16
#define MOST_DIM 128
// One number more a row, so that a column of a tile does not lie in one bank.
#define PITCH (MOST_DIM + 1)

// Rows [first, first + TILE) of one head into a tile; zeros beyond the sequence.
__device__ inline void load_tile(float* tile, const float* x, size_t batch, size_t first, size_t head, size_t heads, size_t seq, size_t dim) {
    for (size_t i = threadIdx.x; i < TILE * dim; i += THREADS) {
        size_t row = i / dim, column = i % dim;
        size_t position = first + row;
        tile[row * PITCH + column] = position < seq ? x[((batch * seq + position) * heads + head) * dim + column] : 0.0f;
    }
}

__device__ inline float dot(const float* a, const float* b, size_t dim) {
    float sum = 0.0f;
    for (size_t i = 0; i < dim; i++) sum = fmaf(a[i], b[i], sum);
    return sum;
}

// A block a tile of queries, head and sequence.
EDKM_KERNEL edkm_attention_forward(
    const float* q, const float* k, const float* v, float* out, float* lse, float scale, size_t seq, size_t heads, size_t kv_heads, size_t dim,
    size_t blocks
) {
    __shared__ float queries[TILE * PITCH];
    __shared__ float keys[TILE * PITCH];
    __shared__ float scores[TILE * (TILE + 1)];
    size_t tiles = (seq + TILE - 1) / TILE;
    size_t row = threadIdx.x / TILE, column = threadIdx.x % TILE;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t tile = block % tiles, head = block / tiles % heads, batch = block / tiles / heads;
        size_t kv_head = head / (heads / kv_heads), query = tile * TILE + row;
        float sums[MOST_DIM / TILE];
        for (size_t j = 0; j < MOST_DIM / TILE; j++) sums[j] = 0.0f;
        float largest = negative_infinity(), total = 0.0f;
        __syncthreads();
        load_tile(queries, q, batch, tile * TILE, head, heads, seq, dim);
        for (size_t first = 0; first <= tile * TILE; first += TILE) {
            __syncthreads();
            load_tile(keys, k, batch, first, kv_head, kv_heads, seq, dim);
            __syncthreads();
            size_t key = first + column;
            float score = scale * dot(queries + row * PITCH, keys + column * PITCH, dim);
            scores[row * (TILE + 1) + column] = key <= query && key < seq ? score : negative_infinity();
            __syncthreads();
            load_tile(keys, v, batch, first, kv_head, kv_heads, seq, dim);
            // Every thread of a row finds the same maximum and sum, in the same order. The first tile of keys has key 0, which
            // every query sees: the maximum is finite from there on.
            float before = largest;
            for (size_t c = 0; c < TILE; c++) largest = larger(scores[row * (TILE + 1) + c], largest);
            float keep = expf(before - largest);
            total *= keep;
            for (size_t j = 0; j * TILE < dim; j++) sums[j] *= keep;
            __syncthreads();
            for (size_t c = 0; c < TILE; c++) {
                float weight = expf(scores[row * (TILE + 1) + c] - largest);
                total += weight;
                for (size_t j = 0; j * TILE + column < dim; j++) sums[j] = fmaf(weight, keys[c * PITCH + j * TILE + column], sums[j]);
            }
        }
        if (query < seq) {
            for (size_t j = 0; j * TILE + column < dim; j++) {
                out[((batch * seq + query) * heads + head) * dim + j * TILE + column] = sums[j] / total;
            }
            if (column == 0) lse[(batch * heads + head) * seq + query] = largest + logf(total);
        }
    }
}

// delta[B, A, S] = the sum over D of out * grad_out. A thread a query and head.
EDKM_KERNEL edkm_attention_delta(
    const float* out, const float* grad_out, float* delta, size_t seq, size_t heads, size_t dim, size_t len
) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        size_t position = i % seq, head = i / seq % heads, batch = i / seq / heads;
        size_t at = ((batch * seq + position) * heads + head) * dim;
        delta[i] = dot(out + at, grad_out + at, dim);
    }
}

// dq += ds k with ds = scale p (dp - delta), p = e^(score - lse), dp = grad_out v. A block a tile of queries, head and sequence.
EDKM_KERNEL edkm_attention_backward_queries(
    const float* q, const float* k, const float* v, const float* lse, const float* delta, const float* grad_out, float* grad_q, float scale,
    size_t seq, size_t heads, size_t kv_heads, size_t dim, size_t blocks
) {
    __shared__ float queries[TILE * PITCH];
    __shared__ float grads[TILE * PITCH];
    __shared__ float keys[TILE * PITCH];
    __shared__ float values[TILE * PITCH];
    __shared__ float score_grads[TILE * (TILE + 1)];
    size_t tiles = (seq + TILE - 1) / TILE;
    size_t row = threadIdx.x / TILE, column = threadIdx.x % TILE;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t tile = block % tiles, head = block / tiles % heads, batch = block / tiles / heads;
        size_t kv_head = head / (heads / kv_heads), query = tile * TILE + row;
        size_t at = (batch * heads + head) * seq + query;
        float sums[MOST_DIM / TILE];
        for (size_t j = 0; j < MOST_DIM / TILE; j++) sums[j] = 0.0f;
        __syncthreads();
        load_tile(queries, q, batch, tile * TILE, head, heads, seq, dim);
        load_tile(grads, grad_out, batch, tile * TILE, head, heads, seq, dim);
        for (size_t first = 0; first <= tile * TILE; first += TILE) {
            __syncthreads();
            load_tile(keys, k, batch, first, kv_head, kv_heads, seq, dim);
            load_tile(values, v, batch, first, kv_head, kv_heads, seq, dim);
            __syncthreads();
            float score_grad = 0.0f;
            if (query < seq && first + column <= query) {
                float p = expf(scale * dot(queries + row * PITCH, keys + column * PITCH, dim) - lse[at]);
                score_grad = scale * p * (dot(grads + row * PITCH, values + column * PITCH, dim) - delta[at]);
            }
            score_grads[row * (TILE + 1) + column] = score_grad;
            __syncthreads();
            for (size_t c = 0; c < TILE; c++) {
                float grad = score_grads[row * (TILE + 1) + c];
                for (size_t j = 0; j * TILE + column < dim; j++) sums[j] = fmaf(grad, keys[c * PITCH + j * TILE + column], sums[j]);
            }
        }
        if (query < seq) {
            for (size_t j = 0; j * TILE + column < dim; j++) {
                grad_q[((batch * seq + query) * heads + head) * dim + j * TILE + column] += sums[j];
            }
        }
    }
}

// dk += ds^T q and dv += p^T grad_out, over all query heads that read the key head. A block a tile of keys, key head and sequence.
EDKM_KERNEL edkm_attention_backward_keys(
    const float* q, const float* k, const float* v, const float* lse, const float* delta, const float* grad_out, float* grad_k, float* grad_v,
    float scale, size_t seq, size_t heads, size_t kv_heads, size_t dim, size_t blocks
) {
    __shared__ float queries[TILE * PITCH];
    __shared__ float grads[TILE * PITCH];
    __shared__ float keys[TILE * PITCH];
    __shared__ float values[TILE * PITCH];
    __shared__ float weights[TILE * (TILE + 1)];
    __shared__ float score_grads[TILE * (TILE + 1)];
    size_t tiles = (seq + TILE - 1) / TILE;
    // the row is a key here
    size_t row = threadIdx.x / TILE, column = threadIdx.x % TILE;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t tile = block % tiles, kv_head = block / tiles % kv_heads, batch = block / tiles / kv_heads;
        size_t group = heads / kv_heads, key = tile * TILE + row;
        float key_sums[MOST_DIM / TILE], value_sums[MOST_DIM / TILE];
        for (size_t j = 0; j < MOST_DIM / TILE; j++) key_sums[j] = value_sums[j] = 0.0f;
        __syncthreads();
        load_tile(keys, k, batch, tile * TILE, kv_head, kv_heads, seq, dim);
        load_tile(values, v, batch, tile * TILE, kv_head, kv_heads, seq, dim);
        for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            for (size_t first = tile * TILE; first < seq; first += TILE) {
                __syncthreads();
                load_tile(queries, q, batch, first, head, heads, seq, dim);
                load_tile(grads, grad_out, batch, first, head, heads, seq, dim);
                __syncthreads();
                size_t query = first + column, at = (batch * heads + head) * seq + query;
                float weight = 0.0f, score_grad = 0.0f;
                if (query < seq && key <= query) {
                    weight = expf(scale * dot(queries + column * PITCH, keys + row * PITCH, dim) - lse[at]);
                    score_grad = scale * weight * (dot(grads + column * PITCH, values + row * PITCH, dim) - delta[at]);
                }
                weights[row * (TILE + 1) + column] = weight;
                score_grads[row * (TILE + 1) + column] = score_grad;
                __syncthreads();
                for (size_t c = 0; c < TILE; c++) {
                    float w = weights[row * (TILE + 1) + c], grad = score_grads[row * (TILE + 1) + c];
                    for (size_t j = 0; j * TILE + column < dim; j++) {
                        key_sums[j] = fmaf(grad, queries[c * PITCH + j * TILE + column], key_sums[j]);
                        value_sums[j] = fmaf(w, grads[c * PITCH + j * TILE + column], value_sums[j]);
                    }
                }
            }
        }
        if (key < seq) {
            for (size_t j = 0; j * TILE + column < dim; j++) {
                size_t at = ((batch * seq + key) * kv_heads + kv_head) * dim + j * TILE + column;
                grad_k[at] += key_sums[j];
                grad_v[at] += value_sums[j];
            }
        }
    }
}
