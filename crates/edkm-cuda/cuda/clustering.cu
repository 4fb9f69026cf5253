// Passes over the weights of a palette, by the 16-bit key of each: counting, sums by key, looking up.
//
// Sums of gradients by key are taken in 64-bit fixed point: integer addition does not depend on the order of the blocks. The unit follows
// from the largest magnitude and the number of weights, so that no sum overflows.

#define KEYS 65536
// Keys that a block counts in shared memory: magnitudes [WINDOW_FIRST, WINDOW_FIRST + WINDOW) of both signs. Others go to global memory.
#define WINDOW 2816

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

// counts[key] += 1 for every weight; magnitude = the largest magnitude, as f32 bits (NaN above all).
EDKM_KERNEL edkm_count_keys(const float* weights, size_t kind, unsigned int* counts, unsigned int* magnitude, size_t len) {
    __shared__ unsigned int here[2 * WINDOW];
    __shared__ unsigned int largest;
    unsigned int first = window_first(kind);
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) here[i] = 0;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    unsigned int of_thread = 0;
    for (size_t i = FIRST; i < len; i += STRIDE) {
        unsigned int bits = __float_as_uint(weights[i]) & 0x7fffffff;
        of_thread = bits > of_thread ? bits : of_thread;
        unsigned int key = key_of(weights[i], kind), place = place_of(key, first);
        if (place < 2 * WINDOW) atomicAdd(&here[place], 1u);
        else atomicAdd(&counts[key], 1u);
    }
    atomicMax(&largest, of_thread);
    __syncthreads();
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) {
        if (here[i] != 0) atomicAdd(&counts[key_at(i, first)], here[i]);
    }
    if (threadIdx.x == 0) atomicMax(magnitude, largest);
}

// magnitude = the largest magnitude, as f32 bits (NaN above all).
EDKM_KERNEL edkm_largest_magnitude(const float* x, unsigned int* magnitude, size_t len) {
    __shared__ unsigned int largest;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    unsigned int of_thread = 0;
    for (size_t i = FIRST; i < len; i += STRIDE) {
        unsigned int bits = __float_as_uint(x[i]) & 0x7fffffff;
        of_thread = bits > of_thread ? bits : of_thread;
    }
    atomicMax(&largest, of_thread);
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(magnitude, largest);
}

// sums[key] += addend x units, rounded to a whole number; units is a power of two.
EDKM_KERNEL edkm_sum_by_key(
    const float* weights, size_t kind, const float* addends, double units, unsigned long long* sums, size_t len
) {
    __shared__ unsigned long long here[2 * WINDOW];
    unsigned int first = window_first(kind);
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) here[i] = 0;
    __syncthreads();
    for (size_t i = FIRST; i < len; i += STRIDE) {
        // two's complement: adding as unsigned is adding as signed
        unsigned long long addend = (unsigned long long)__double2ll_rn((double)addends[i] * units);
        unsigned int key = key_of(weights[i], kind), place = place_of(key, first);
        if (place < 2 * WINDOW) atomicAdd(&here[place], addend);
        else atomicAdd(&sums[key], addend);
    }
    __syncthreads();
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) {
        if (here[i] != 0) atomicAdd(&sums[key_at(i, first)], here[i]);
    }
}

// out[i] = table[key of weights[i]]
EDKM_KERNEL edkm_look_up(const float* weights, size_t kind, const float* table, float* out, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) out[i] = table[key_of(weights[i], kind)];
}

// total[i] += grad[i] slope + shift, with (slope, shift) = table[key of weights[i]]
EDKM_KERNEL edkm_multiply_add(const float* weights, size_t kind, const float* table, const float* grad, float* total, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        unsigned int key = key_of(weights[i], kind);
        total[i] += grad[i] * table[2 * key] + table[2 * key + 1];
    }
}
