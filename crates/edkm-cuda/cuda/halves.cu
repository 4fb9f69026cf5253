// Numbers as 16 bits and back. kind 0: bf16; 1: f16.

// The bits of the 16-bit number nearest to x, ties to even; a NaN stays one.
__device__ inline unsigned int half_of(float x, size_t kind) {
    unsigned int bits = __float_as_uint(x);
    return kind == 0 && (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : key_of(x, kind);
}

EDKM_KERNEL edkm_round_to_half(const float* x, unsigned short* halves, size_t kind, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) halves[i] = (unsigned short)half_of(x[i], kind);
}

EDKM_KERNEL edkm_widen_half(const unsigned short* halves, float* x, size_t kind, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) x[i] = float_of_half(halves[i], kind);
}
