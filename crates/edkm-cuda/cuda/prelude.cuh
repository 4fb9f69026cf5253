// What every kernel file stands on. It comes first in each translation unit (nvcc and the simulator include it, NVRTC gets it in front).
//
// Kernels follow three rules: gradients are added (+=), forward results overwrite; sums run in an order fixed by the shapes, never by the
// schedule of blocks (integers alone are added atomically: their sums do not depend on the order); no dynamic shared memory.
#ifndef EDKM_PRELUDE
#define EDKM_PRELUDE

#define EDKM_KERNEL extern "C" __global__ __launch_bounds__(THREADS, BLOCKS_TOGETHER) void

// Blocks that an SM is to hold at once, at least: it bounds the registers of a thread. A file that sets another number sets it back at its end.
#define BLOCKS_TOGETHER 1

// Threads of a block, in every launch.
#define THREADS 256

// The position of this thread in the grid, and the number of threads of the grid.
#define FIRST ((size_t)blockIdx.x * THREADS + threadIdx.x)
#define STRIDE ((size_t)gridDim.x * THREADS)

// N numbers that are read and written at once.
template <int N, class T> struct alignas(N * sizeof(T)) Several {
    T x[N];
};

template <int N, class T> __device__ inline Several<N, T> load(const T* from, size_t i) { return *reinterpret_cast<const Several<N, T>*>(from + i); }
template <int N, class T> __device__ inline void store(T* to, size_t i, Several<N, T> numbers) { *reinterpret_cast<Several<N, T>*>(to + i) = numbers; }
// The same for numbers that are not needed soon: they make room in the cache first.
template <int N> __device__ inline void store_streaming(float* to, size_t i, Several<N, float> numbers) {
    if constexpr (N == 4) __stcs(reinterpret_cast<float4*>(to + i), make_float4(numbers.x[0], numbers.x[1], numbers.x[2], numbers.x[3]));
    else for (int n = 0; n < N; n++) __stcs(to + i + n, numbers.x[n]);
}

__device__ inline bool is_aligned(const void* address) { return (reinterpret_cast<size_t>(address) & 15) == 0; }

// One shared array serves all reductions of a block: barriers on entry and exit.
__device__ inline float block_sum(float x) {
    __shared__ float partial[THREADS];
    __syncthreads();
    partial[threadIdx.x] = x;
    __syncthreads();
    for (unsigned int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    return partial[0];
}

__device__ inline double block_sum(double x) {
    __shared__ double partial[THREADS];
    __syncthreads();
    partial[threadIdx.x] = x;
    __syncthreads();
    for (unsigned int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    return partial[0];
}

// Adds up two numbers of each thread into the first of each row. Barriers on entry and exit.
__device__ inline void block_sums(unsigned long long (*rows)[THREADS]) {
    for (unsigned int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            rows[0][threadIdx.x] += rows[0][threadIdx.x + half];
            rows[1][threadIdx.x] += rows[1][threadIdx.x + half];
        }
    }
    __syncthreads();
}

// A NaN is passed on: fmaxf would drop it.
__device__ inline float larger(float a, float b) { return a > b || a != a ? a : b; }

__device__ inline float block_max(float x) {
    __shared__ float partial[THREADS];
    __syncthreads();
    partial[threadIdx.x] = x;
    __syncthreads();
    for (unsigned int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] = larger(partial[threadIdx.x], partial[threadIdx.x + half]);
        __syncthreads();
    }
    return partial[0];
}

__device__ inline float negative_infinity() { return __int_as_float(0xff800000); }

// A number as 16 bits, in clustering the key of a weight: rounded to nearest, ties to even. kind 0: bf16; 1: f16.
__device__ inline unsigned int key_of(float weight, size_t kind) {
    unsigned int bits = __float_as_uint(weight);
    if (kind == 0) return (bits + 0x7fff + (bits >> 16 & 1)) >> 16 & 0xffff;
    unsigned int sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    // 65520 and above round to infinity; NaN gets some key that is not finite
    if (magnitude >= 0x477ff000) return sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0);
    if (magnitude >= 0x38800000) {
        // Normal: the exponent moves from a bias of 127 to one of 15; 13 bits of the fraction go.
        magnitude -= 112u << 23;
        return sign | (magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13;
    }
    // Subnormal: multiples of 2^-24, rounded by the addition in f32.
    float shifted = __uint_as_float(magnitude) + 0.5f;
    return sign | (__float_as_uint(shifted) - 0x3f000000);
}

// A bijection that scatters: the last steps of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
__device__ inline unsigned long long scattered(unsigned long long x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

// The number of 16 bits, as key_of has them.
__device__ inline float float_of_half(unsigned int half, size_t kind) {
    if (kind == 0) return __uint_as_float(half << 16);
    unsigned int sign = (half & 0x8000) << 16, magnitude = (half & 0x7fff) << 13;
    // Infinity and NaN.
    if (magnitude >= 0x0f800000) return __uint_as_float(sign | magnitude | 0x7f800000);
    // Normal: the exponent moves from a bias of 15 to one of 127.
    if (magnitude >= 0x00800000) return __uint_as_float(sign | (magnitude + (112u << 23)));
    // Subnormal: what stands above 2^-14 in a float of that exponent.
    float x = __uint_as_float(0x38800000 | magnitude) - __uint_as_float(0x38800000);
    return __uint_as_float(sign | __float_as_uint(x));
}

// Number of 16-bit keys.
#define KEYS 65536

// The unit of a palette's sums is 1 / this, a power of two. With `bits` = UNIT_BITS addends stay below 2^33 units; it is less where so many addends come
// together that sums would not stay below 2^62. magnitude: of the largest addend, as f32 bits.
#define UNIT_BITS 33
__device__ inline double units_of(unsigned int magnitude, size_t bits) {
    int biased = (int)(magnitude >> 23);
    // the magnitude is below 2^(biased - 126)
    return exp2((double)((int)bits + 126 - (biased == 0 ? 1 : biased)));
}

#endif
