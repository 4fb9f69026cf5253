// What CUDA C has beyond C++, for one block at a time on the host. Threads of a block are coroutines that change places at barriers; a
// `__shared__` variable is a static one, since blocks run one after the other.
#ifndef EDKM_HOST
#define EDKM_HOST

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct Dim {
    unsigned int x;
};
extern Dim threadIdx, blockIdx, gridDim;

void __syncthreads();
// blocks run one after the other
inline void __threadfence() {}

template <class T> T atomicAdd(T* to, T x) {
    T before = *to;
    *to += x;
    return before;
}

inline unsigned int atomicOr(unsigned int* to, unsigned int x) {
    unsigned int before = *to;
    *to |= x;
    return before;
}

inline unsigned int atomicMax(unsigned int* to, unsigned int x) {
    unsigned int before = *to;
    if (x > before) *to = x;
    return before;
}

struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> void __stcs(T* to, T x) { std::memcpy(to, &x, sizeof x); }

inline float __uint_as_float(unsigned int bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline float __int_as_float(int bits) { return __uint_as_float((unsigned int)bits); }
inline unsigned int __float_as_uint(float x) {
    unsigned int bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline long long __double2ll_rn(double x) { return std::llrint(x); }

#endif
