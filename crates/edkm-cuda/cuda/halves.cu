// Numbers as bf16 and back: on their way to the host they are half the bytes.

// The bits of the bf16 nearest to x, ties to even; a NaN stays one.
__device__ inline unsigned int bf16_of(float x) {
    unsigned int bits = __float_as_uint(x);
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : key_of(x, 0);
}

EDKM_KERNEL edkm_to_bf16(const float* x, unsigned short* halves, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) halves[i] = (unsigned short)bf16_of(x[i]);
}

EDKM_KERNEL edkm_from_bf16(const unsigned short* halves, float* x, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) x[i] = __uint_as_float((unsigned int)halves[i] << 16);
}
