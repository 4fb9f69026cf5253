// Passes over the weights of a matrix, by the 16-bit key of each: counting, sums by key, looking up.
//
// Palettes are consecutive parts of the `all` weights of a matrix with `len` weights each, fewer in the last; each has tables of its own, indexed by key.
// `per` blocks work on a palette.
//
// Sums of gradients by key are taken in 64-bit fixed point: integer addition does not depend on the order of the blocks. The unit follows
// from the largest magnitude and the number of weights, so that no sum overflows.

// Keys that a block counts in shared memory: magnitudes [WINDOW_FIRST, WINDOW_FIRST + WINDOW) of both signs. Others go to global memory.
#define WINDOW 2816

// The palette of this block, and a statement for each position `i` of its weights that is this thread's: four at once.
#define PALETTE ((size_t)blockIdx.x / per)
#define FOR_EACH_OF_PALETTE(i, ...) \
    do { \
        size_t step = per * THREADS, end = all - PALETTE * len < len ? all - PALETTE * len : len; \
        size_t i = (blockIdx.x % per) * THREADS + threadIdx.x; \
        _Pragma("unroll 4") for (; i < end; i += step) { __VA_ARGS__; } \
    } while (0)

// The smallest magnitude key of the shared window: up to 2 for bf16 (22 binades), up to 1/4 for f16 (nearly 3).
__device__ inline unsigned int window_first(size_t kind) { return (kind == 0 ? 0x4000 : 0x3400) - WINDOW; }

// The place of a key in the window, or 2 WINDOW.
__device__ inline unsigned int place_of(unsigned int key, unsigned int first) {
    unsigned int magnitude = (key & 0x7fff) - first;
    return magnitude < WINDOW ? magnitude + (key >> 15) * WINDOW : 2 * WINDOW;
}

__device__ inline unsigned int key_at(unsigned int place, unsigned int first) {
    return place < WINDOW ? first + place : (first + place - WINDOW) | 0x8000;
}

// Of each palette: counts[key] += 1 for every weight; magnitude = the largest magnitude, as f32 bits (NaN above all).
EDKM_KERNEL edkm_count_keys(
    const float* weights, size_t kind, unsigned int* counts, unsigned int* magnitudes, size_t len, size_t all, size_t per
) {
    __shared__ unsigned int here[2 * WINDOW];
    __shared__ unsigned int largest;
    unsigned int first = window_first(kind);
    weights += PALETTE * len;
    counts += PALETTE * KEYS;
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) here[i] = 0;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    unsigned int of_thread = 0;
    FOR_EACH_OF_PALETTE(i, {
        float weight = weights[i];
        unsigned int bits = __float_as_uint(weight) & 0x7fffffff;
        of_thread = bits > of_thread ? bits : of_thread;
        unsigned int key = key_of(weight, kind), place = place_of(key, first);
        if (place < 2 * WINDOW) atomicAdd(&here[place], 1u);
        else atomicAdd(&counts[key], 1u);
    });
    atomicMax(&largest, of_thread);
    __syncthreads();
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) {
        if (here[i] != 0) atomicAdd(&counts[key_at(i, first)], here[i]);
    }
    if (threadIdx.x == 0) atomicMax(&magnitudes[PALETTE], largest);
}

// Of each palette: the largest magnitude, as f32 bits (NaN above all).
EDKM_KERNEL edkm_largest_magnitude(const float* x, unsigned int* magnitudes, size_t len, size_t all, size_t per) {
    __shared__ unsigned int largest;
    x += PALETTE * len;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    unsigned int of_thread = 0;
    FOR_EACH_OF_PALETTE(i, {
        unsigned int bits = __float_as_uint(x[i]) & 0x7fffffff;
        of_thread = bits > of_thread ? bits : of_thread;
    });
    atomicMax(&largest, of_thread);
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(&magnitudes[PALETTE], largest);
}

// Of each palette: sums[key] += addend x units, rounded to a whole number.
EDKM_KERNEL edkm_sum_by_key(
    const float* weights, size_t kind, const float* addends, const unsigned int* magnitudes, size_t bits, unsigned long long* sums, size_t len, size_t all, size_t per
) {
    __shared__ unsigned long long here[2 * WINDOW];
    unsigned int first = window_first(kind);
    double units = units_of(magnitudes[PALETTE], bits);
    weights += PALETTE * len;
    addends += PALETTE * len;
    sums += PALETTE * KEYS;
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) here[i] = 0;
    __syncthreads();
    FOR_EACH_OF_PALETTE(i, {
        // two's complement: adding as unsigned is adding as signed
        unsigned long long addend = (unsigned long long)__double2ll_rn((double)addends[i] * units);
        unsigned int key = key_of(weights[i], kind), place = place_of(key, first);
        if (place < 2 * WINDOW) atomicAdd(&here[place], addend);
        else atomicAdd(&sums[key], addend);
    });
    __syncthreads();
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) {
        if (here[i] != 0) atomicAdd(&sums[key_at(i, first)], here[i]);
    }
}

// Of each palette: out[i] = table[key of weights[i]]
EDKM_KERNEL edkm_look_up(const float* weights, size_t kind, const float* tables, float* out, size_t len, size_t all, size_t per) {
    weights += PALETTE * len;
    out += PALETTE * len;
    tables += PALETTE * KEYS;
    FOR_EACH_OF_PALETTE(i, { out[i] = tables[key_of(weights[i], kind)]; });
}

// Of each palette: total[i] += grad[i] slope + shift, with (slope, shift) = table[key of weights[i]]
EDKM_KERNEL edkm_multiply_add(
    const float* weights, size_t kind, const float* tables, const float* grad, float* total, size_t len, size_t all, size_t per
) {
    weights += PALETTE * len;
    grad += PALETTE * len;
    total += PALETTE * len;
    tables += PALETTE * 2 * KEYS;
    FOR_EACH_OF_PALETTE(i, {
        unsigned int key = key_of(weights[i], kind);
        total[i] += grad[i] * tables[2 * key] + tables[2 * key + 1];
    });
}
