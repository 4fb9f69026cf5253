// AdamW (arXiv 1711.05101), one pass over a parameter, and the norm that clipping needs.

// What a step is computed with, as edkm_kernels::adamw::Factors.
struct Factors {
    float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, keep, step_size, inverse_root_correction2, eps;
};

// The step of one number, in place.
__device__ inline void adamw_step(const Factors& f, float* parameter, float gradient, float* m, float* v) {
    float grad = gradient * f.gradient_scale;
    *m = fmaf(f.beta1, *m, f.one_minus_beta1 * grad);
    *v = fmaf(f.beta2, *v, f.one_minus_beta2 * grad * grad);
    float direction = *m / fmaf(sqrtf(*v), f.inverse_root_correction2, f.eps);
    *parameter = fmaf(f.keep, *parameter, -(f.step_size * direction));
}

EDKM_KERNEL edkm_adamw_update(
    float* parameter, const float* gradient, float* first, float* second, float gradient_scale, float beta1, float one_minus_beta1,
    float beta2, float one_minus_beta2, float keep, float step_size, float inverse_root_correction2, float eps, size_t len
) {
    Factors f = {gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, keep, step_size, inverse_root_correction2, eps};
    for (size_t i = FIRST; i < len; i += STRIDE) {
        float number = parameter[i], m = first[i], v = second[i];
        adamw_step(f, &number, gradient[i], &m, &v);
        parameter[i] = number;
        first[i] = m;
        second[i] = v;
    }
}

// partial[block] = the sum of the squares of the block's numbers; the host adds the blocks in order.
EDKM_KERNEL edkm_sum_of_squares(const float* x, double* partial, size_t len) {
    double sum = 0.0;
    for (size_t i = FIRST; i < len; i += STRIDE) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Moments of 8 bits each, as edkm_kernels::adamw::eight_bit, bit for bit: codes are floats without the lower 20 bits of their fraction, and are rounded
// up or down at random.

// Numbers that share their scales; a warp treats them.
#define CODE_BLOCK 256
#define LANES 32
#define CODE_BLOCKS (THREADS / LANES)
#define DROPPED 20
// The floats of code 0, as bits: 2^-15 and 2^-31.
#define FIRST_ZERO 0x38000000u
#define SECOND_LEAST 0x30000000u

// 32 random bits of a number (lowbias32).
__device__ inline unsigned int hash_of(unsigned int x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

__device__ inline float float_of_code(unsigned int code, unsigned int least) { return __uint_as_float(least + (code << DROPPED)); }

__device__ inline unsigned int code_of_float(float x, unsigned int least, unsigned int random, unsigned int most) {
    unsigned int code = (__float_as_uint(x) + (random << (DROPPED - 16)) - least) >> DROPPED;
    return code < most ? code : most;
}

// The exponent of a block's scale, or 0 for a block of zeros. largest: the bits of its largest magnitude.
__device__ inline unsigned int exponent_of_scale(unsigned int largest) {
    largest >>= 23;
    return largest < 32 ? 0 : largest + 1 < 253 ? largest + 1 : 253;
}

__device__ inline float scale_of_exponent(unsigned int exponent) { return __uint_as_float(exponent << 23); }
__device__ inline float inverse_of_scale(unsigned int exponent) { return exponent == 0 ? 0.0f : __uint_as_float((254 - exponent) << 23); }

EDKM_KERNEL edkm_adamw_eight_bit(
    float* parameter, const float* gradient, unsigned char* first, unsigned char* second, float* scales, float gradient_scale, float beta1,
    float one_minus_beta1, float beta2, float one_minus_beta2, float keep, float step_size, float inverse_root_correction2, float eps, size_t seed, size_t len
) {
    __shared__ unsigned int largest[2][CODE_BLOCKS];
    Factors f = {gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, keep, step_size, inverse_root_correction2, eps};
    size_t all = CODE_BLOCK * CODE_BLOCKS;
    unsigned int block = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    for (size_t start = blockIdx.x * all; start < len; start += gridDim.x * all) {
        size_t begin = start + block * CODE_BLOCK + lane, place = 2 * (start / CODE_BLOCK + block);
        float m[CODE_BLOCK / LANES], v[CODE_BLOCK / LANES];
        unsigned int largest_m = 0, largest_v = 0;
        __syncthreads();
        if (lane < 2) largest[lane][block] = 0;
        __syncthreads();
        if (begin < len) {
            float scale_m = scales[place], scale_v = scales[place + 1];
            for (int n = 0; n < CODE_BLOCK / LANES; n++) {
                size_t i = begin + n * LANES;
                if (i < len) {
                    unsigned int code_m = first[i], code_v = second[i];
                    float magnitude = float_of_code(code_m & 0x7f, FIRST_ZERO) - __uint_as_float(FIRST_ZERO);
                    m[n] = scale_m * __uint_as_float(__float_as_uint(magnitude) | (code_m & 0x80) << 24);
                    v[n] = scale_v * float_of_code(code_v, SECOND_LEAST);
                    float number = parameter[i];
                    adamw_step(f, &number, gradient[i], &m[n], &v[n]);
                    parameter[i] = number;
                    unsigned int bits_m = __float_as_uint(m[n]) & 0x7fffffff, bits_v = __float_as_uint(v[n]) & 0x7fffffff;
                    largest_m = bits_m > largest_m ? bits_m : largest_m;
                    largest_v = bits_v > largest_v ? bits_v : largest_v;
                }
            }
            atomicMax(&largest[0][block], largest_m);
            atomicMax(&largest[1][block], largest_v);
        }
        __syncthreads();
        if (begin < len) {
            unsigned int exponent_m = exponent_of_scale(largest[0][block]), exponent_v = exponent_of_scale(largest[1][block]);
            float inverse_m = inverse_of_scale(exponent_m), inverse_v = inverse_of_scale(exponent_v);
            if (lane == 0) {
                scales[place] = scale_of_exponent(exponent_m);
                scales[place + 1] = scale_of_exponent(exponent_v);
            }
            for (int n = 0; n < CODE_BLOCK / LANES; n++) {
                size_t i = begin + n * LANES;
                if (i < len) {
                    unsigned int random = hash_of((unsigned int)i + (unsigned int)seed);
                    float magnitude = fmaf(fabsf(m[n]), inverse_m, __uint_as_float(FIRST_ZERO));
                    unsigned int code = code_of_float(magnitude, FIRST_ZERO, random >> 16, 0x7f);
                    float scaled = v[n] * inverse_v, least = __uint_as_float(SECOND_LEAST);
                    first[i] = (unsigned char)(code | (__float_as_uint(m[n]) >> 24 & 0x80));
                    second[i] = (unsigned char)code_of_float(scaled > least ? scaled : least, SECOND_LEAST, random & 0xffff, 0xff);
                }
            }
        }
    }
}
#undef CODE_BLOCK
#undef LANES
#undef CODE_BLOCKS
#undef DROPPED
#undef FIRST_ZERO
#undef SECOND_LEAST
