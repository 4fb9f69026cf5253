// Passes over the weights of a matrix, by the 16-bit key of each: counting, sums by key, looking up.
//
// Palettes are consecutive parts of the `all` weights of a matrix with `len` weights each, fewer in the last; each has tables of its own, indexed by key.
// `per` blocks work on a palette.
//
// A pass begins where the one before it ended, whose numbers the cache still has. Blocks that count all run at once, so that they end in the last parts of
// their shares; blocks that stream have an eighth of such a share and run one after the other, in the order of these eighths: see `block_in_turn`.
//
// Sums of gradients by key are taken in fixed point: integer addition does not depend on the order of the blocks. The unit follows from the largest
// magnitude and the number of weights, so that no sum overflows.

// Keys of either sign that a block counts in shared memory: a window of magnitudes. Others go to global memory.
#define WINDOW 1408
// Numbers that a block adds up in shared memory before it passes them on: halves of sums of so many stay in 32 bits.
#define MOST_OF_BLOCK 32768
// Bits of the lower half of an addend in fixed point.
#define HALF_BITS 17

// Blocks that stream, for one that counts.
#define TURNS 8

// The palette of a block, and whether all palettes begin and end with whole fours.
#define PALETTE(block) ((size_t)(block) / per)
#define BY_FOURS (len % 4 == 0 && all % 4 == 0)

// Where a block's part of its palette lies.
struct Part {
    size_t first, end;
};

// The numbers of a block: an equal share of its palette's, in whole fours.
__device__ inline Part part_of(size_t block, size_t len, size_t all, size_t per) {
    size_t palette = PALETTE(block), of_palette = all - palette * len < len ? all - palette * len : len;
    size_t share = ((of_palette + per - 1) / per + 3) / 4 * 4, first = (block % per) * share;
    Part part;
    part.first = palette * len + (first < of_palette ? first : of_palette);
    part.end = palette * len + (first + share < of_palette ? first + share : of_palette);
    return part;
}

// The block of a pass that this one is to be: first the first of every TURNS consecutive ones, then the second of each; or first the last.
__device__ inline size_t block_in_turn(bool from_the_last) {
    size_t block = blockIdx.x, all = gridDim.x, of_turn = all / TURNS;
    if (all % TURNS != 0) return from_the_last ? all - 1 - block : block;
    size_t place = block / of_turn;
    return block % of_turn * TURNS + (from_the_last ? TURNS - 1 - place : place);
}

// Numbers of a thread that are under way at once.
#define AHEAD 4

// use(i, read(i)) for the positions i of this thread in a part, N numbers from each on; AHEAD of them are read before the first is used. N divides the length
// of the part.
template <int N, bool FROM_THE_LAST, class Read, class Use> __device__ inline void for_each(Part part, Read read, Use use) {
    size_t len = part.end - part.first, after = threadIdx.x * N;
    const size_t step = THREADS * N;
    for (; after + (AHEAD - 1) * step < len; after += AHEAD * step) {
        decltype(read(after)) x[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) x[a] = read(FROM_THE_LAST ? part.end - N - after - a * step : part.first + after + a * step);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) use(FROM_THE_LAST ? part.end - N - after - a * step : part.first + after + a * step, x[a]);
    }
    for (; after < len; after += step) {
        size_t i = FROM_THE_LAST ? part.end - N - after : part.first + after;
        use(i, read(i));
    }
}

// The place of a key in the window of magnitudes [first, first + WINDOW) of both signs, or 2 WINDOW.
__device__ inline unsigned int place_of(unsigned int key, unsigned int first) {
    unsigned int magnitude = (key & 0x7fff) - first;
    return magnitude < WINDOW ? magnitude + (key >> 15) * WINDOW : 2 * WINDOW;
}

// Blocks pass on what they found at the same time, each from another place on.
__device__ inline unsigned int turned(unsigned int i) { return (i + blockIdx.x * 416) % (2 * WINDOW); }

__device__ inline unsigned int key_at(unsigned int place, unsigned int first) {
    return place < WINDOW ? first + place : (first + place - WINDOW) | 0x8000;
}

template <int N> __device__ inline void
count_part(Part part, const float* weights, size_t kind, unsigned int* counts, unsigned int* here, unsigned int first, unsigned int* of_thread) {
    for_each<N, false>(part, [&](size_t i) { return load<N>(weights, i); }, [&](size_t, const Several<N, float>& w) {
        for (int n = 0; n < N; n++) {
            unsigned int bits = __float_as_uint(w.x[n]) & 0x7fffffff;
            *of_thread = bits > *of_thread ? bits : *of_thread;
            unsigned int key = key_of(w.x[n], kind), place = place_of(key, first);
            if (place < 2 * WINDOW) atomicAdd(&here[place], 1u);
            else atomicAdd(&counts[key], 1u);
        }
    });
}

// Of each palette: counts[key] += 1 for every weight; magnitude = the largest magnitude, as f32 bits (NaN above all).
EDKM_KERNEL edkm_count_keys(
    const float* weights, size_t kind, unsigned int* counts, unsigned int* magnitudes, size_t len, size_t all, size_t per, size_t first_key
) {
    __shared__ unsigned int here[2 * WINDOW];
    __shared__ unsigned int largest;
    unsigned int first = (unsigned int)first_key;
    Part part = part_of(blockIdx.x, len, all, per);
    counts += PALETTE(blockIdx.x) * KEYS;
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) here[i] = 0;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    unsigned int of_thread = 0;
    if (BY_FOURS && is_aligned(weights)) count_part<4>(part, weights, kind, counts, here, first, &of_thread);
    else count_part<1>(part, weights, kind, counts, here, first, &of_thread);
    atomicMax(&largest, of_thread);
    __syncthreads();
    for (unsigned int j = threadIdx.x; j < 2 * WINDOW; j += THREADS) {
        unsigned int i = turned(j);
        if (here[i] != 0) atomicAdd(&counts[key_at(i, first)], here[i]);
    }
    if (threadIdx.x == 0) atomicMax(&magnitudes[PALETTE(blockIdx.x)], largest);
}

template <int N> __device__ inline unsigned int largest_of_part(Part part, const float* x) {
    unsigned int largest = 0;
    for_each<N, false>(part, [&](size_t i) { return load<N>(x, i); }, [&](size_t, const Several<N, float>& numbers) {
        for (int n = 0; n < N; n++) {
            unsigned int bits = __float_as_uint(numbers.x[n]) & 0x7fffffff;
            largest = bits > largest ? bits : largest;
        }
    });
    return largest;
}

// Of each palette: the largest magnitude, as f32 bits (NaN above all).
EDKM_KERNEL edkm_largest_magnitude(const float* x, unsigned int* magnitudes, size_t len, size_t all, size_t per) {
    __shared__ unsigned int largest;
    size_t block = block_in_turn(false);
    Part part = part_of(block, len, all, per);
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    atomicMax(&largest, BY_FOURS && is_aligned(x) ? largest_of_part<4>(part, x) : largest_of_part<1>(part, x));
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(&magnitudes[PALETTE(block)], largest);
}

// upper and lower: halves of sums, since shared memory adds 32 bits at once.
template <int N> __device__ inline void sum_part(
    Part part, const float* weights, size_t kind, const float* addends, double units, unsigned long long* sums, int* upper, unsigned int* lower,
    unsigned int first
) {
    struct Both {
        Several<N, float> w, g;
    };
    for_each<N, true>(part, [&](size_t i) { return Both{load<N>(weights, i), load<N>(addends, i)}; }, [&](size_t, const Both& both) {
        Several<N, float> w = both.w, g = both.g;
        for (int n = 0; n < N; n++) {
            long long addend = __double2ll_rn((double)g.x[n] * units);
            unsigned int key = key_of(w.x[n], kind), place = place_of(key, first);
            if (place < 2 * WINDOW) {
                atomicAdd(&upper[place], (int)(addend >> HALF_BITS));
                atomicAdd(&lower[place], (unsigned int)addend & ((1u << HALF_BITS) - 1));
            } else {
                // two's complement: adding as unsigned is adding as signed
                atomicAdd(&sums[key], (unsigned long long)addend);
            }
        }
    });
}

// Of each palette: sums[key] += addend x units, rounded to a whole number. A block has at most MOST_OF_BLOCK weights.
EDKM_KERNEL edkm_sum_by_key(
    const float* weights, size_t kind, const float* addends, const unsigned int* magnitudes, size_t bits, unsigned long long* sums, size_t len, size_t all,
    size_t per, size_t first_key
) {
    __shared__ int upper[2 * WINDOW];
    __shared__ unsigned int lower[2 * WINDOW];
    unsigned int first = (unsigned int)first_key;
    double units = units_of(magnitudes[PALETTE(blockIdx.x)], bits);
    Part part = part_of(blockIdx.x, len, all, per);
    sums += PALETTE(blockIdx.x) * KEYS;
    for (unsigned int i = threadIdx.x; i < 2 * WINDOW; i += THREADS) {
        upper[i] = 0;
        lower[i] = 0;
    }
    __syncthreads();
    if (BY_FOURS && is_aligned(weights) && is_aligned(addends)) sum_part<4>(part, weights, kind, addends, units, sums, upper, lower, first);
    else sum_part<1>(part, weights, kind, addends, units, sums, upper, lower, first);
    __syncthreads();
    for (unsigned int j = threadIdx.x; j < 2 * WINDOW; j += THREADS) {
        unsigned int i = turned(j);
        long long found = (long long)upper[i] * (1ll << HALF_BITS) + (long long)lower[i];
        if (found != 0) atomicAdd(&sums[key_at(i, first)], (unsigned long long)found);
    }
}

template <int N> __device__ inline void look_up_part(Part part, const float* __restrict__ weights, size_t kind, const float* __restrict__ table, float* __restrict__ out) {
    for_each<N, false>(
        part,
        [&](size_t i) { return load<N>(weights, i); },
        [&](size_t i, Several<N, float> w) {
            for (int n = 0; n < N; n++) w.x[n] = table[key_of(w.x[n], kind)];
            store_streaming<N>(out, i, w);
        }
    );
}

// Of each palette: out[i] = table[key of weights[i]]
EDKM_KERNEL edkm_look_up(const float* __restrict__ weights, size_t kind, const float* __restrict__ tables, float* __restrict__ out, size_t len, size_t all, size_t per) {
    size_t block = block_in_turn(true);
    Part part = part_of(block, len, all, per);
    tables += PALETTE(block) * KEYS;
    if (BY_FOURS && is_aligned(weights) && is_aligned(out)) look_up_part<4>(part, weights, kind, tables, out);
    else look_up_part<1>(part, weights, kind, tables, out);
}

template <int N> __device__ inline void
multiply_add_part(Part part, const float* weights, size_t kind, const float* table, const float* grad, float* total) {
    struct Three {
        Several<N, float> w, g, sum;
    };
    for_each<N, false>(part, [&](size_t i) { return Three{load<N>(weights, i), load<N>(grad, i), load<N>(total, i)}; }, [&](size_t i, Three x) {
        Several<N, float> w = x.w, g = x.g, sum = x.sum;
        for (int n = 0; n < N; n++) {
            Several<2, float> pair = load<2>(table, 2 * (size_t)key_of(w.x[n], kind));
            sum.x[n] += g.x[n] * pair.x[0] + pair.x[1];
        }
        store_streaming<N>(total, i, sum);
    });
}

// Of each palette: total[i] += grad[i] slope + shift, with (slope, shift) = table[key of weights[i]]
EDKM_KERNEL edkm_multiply_add(
    const float* weights, size_t kind, const float* tables, const float* grad, float* total, size_t len, size_t all, size_t per
) {
    size_t block = block_in_turn(false);
    Part part = part_of(block, len, all, per);
    tables += PALETTE(block) * 2 * KEYS;
    if (BY_FOURS && is_aligned(weights) && is_aligned(grad) && is_aligned(total)) multiply_add_part<4>(part, weights, kind, tables, grad, total);
    else multiply_add_part<1>(part, weights, kind, tables, grad, total);
}
