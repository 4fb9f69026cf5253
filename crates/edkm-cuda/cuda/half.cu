// Operands of products on tensor cores: rounded to f16, multiplied by a power of two before, so that the largest magnitude lies in [2^14, 2^15). The
// range of f16 then ends 2^28 below the largest number (normal) or 2^39 (the least).

// The exponent that operands are multiplied by, given their largest magnitude as f32 bits. 0 where it is 0 or not finite.
__device__ inline int half_exponent(unsigned int magnitude) {
    int biased = (int)(magnitude >> 23);
    if (magnitude == 0 || biased == 255) return 0;
    // as an f32 factor: at most 2^126
    return 141 - biased < 126 ? 141 - biased : 126;
}

// half[i] = x[i] 2^exponent, rounded to f16: nearest, ties to even.
EDKM_KERNEL edkm_to_half(const float* x, const unsigned int* magnitude, unsigned short* half, size_t len) {
    float factor = __uint_as_float((unsigned int)(half_exponent(magnitude[0]) + 127) << 23);
    for (size_t i = FIRST; i < len; i += STRIDE) half[i] = (unsigned short)key_of(x[i] * factor, 1);
}

// scales = what takes both exponents off the product, and beta. The first thread does it.
EDKM_KERNEL edkm_half_scales(const unsigned int* magnitude_a, const unsigned int* magnitude_b, float beta, float* scales) {
    if (FIRST != 0) return;
    int exponent = -half_exponent(magnitude_a[0]) - half_exponent(magnitude_b[0]);
    // what underflows here is a product below all normal numbers
    scales[0] = exponent < -126 ? 0.0f : __uint_as_float((unsigned int)((exponent < 127 ? exponent : 127) + 127) << 23);
    scales[1] = beta;
}
