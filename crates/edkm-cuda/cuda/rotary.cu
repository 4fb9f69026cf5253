// Rotary position embedding (arXiv 2104.09864): number i of a head turns with number i + D/2. A thread a pair.
//
// x [tokens, heads, 2 half], cosines and sines [seq, half]; token n stands at position n % seq.

struct Pair {
    size_t first;
    size_t angle;
};

__device__ inline Pair pair_of(size_t i, size_t heads, size_t half, size_t seq) {
    size_t within = i % half, head = i / half, token = head / heads;
    Pair pair;
    pair.first = head * 2 * half + within;
    pair.angle = token % seq * half + within;
    return pair;
}

EDKM_KERNEL edkm_rotary_forward(
    const float* x, const float* cosines, const float* sines, float* out, size_t heads, size_t half, size_t seq, size_t pairs
) {
    for (size_t i = FIRST; i < pairs; i += STRIDE) {
        Pair pair = pair_of(i, heads, half, seq);
        float a = x[pair.first], b = x[pair.first + half], cosine = cosines[pair.angle], sine = sines[pair.angle];
        out[pair.first] = a * cosine - b * sine;
        out[pair.first + half] = b * cosine + a * sine;
    }
}

// grad_x += grad_out turned by the opposite angle.
EDKM_KERNEL edkm_rotary_backward(
    const float* grad_out, const float* cosines, const float* sines, float* grad_x, size_t heads, size_t half, size_t seq, size_t pairs
) {
    for (size_t i = FIRST; i < pairs; i += STRIDE) {
        Pair pair = pair_of(i, heads, half, seq);
        float a = grad_out[pair.first], b = grad_out[pair.first + half], cosine = cosines[pair.angle], sine = sines[pair.angle];
        grad_x[pair.first] += a * cosine + b * sine;
        grad_x[pair.first + half] += b * cosine - a * sine;
    }
}

// x turned in place by the angles of each token's position; NaN for a position without angles.
EDKM_KERNEL edkm_rotary_at(
    float* x, const float* cosines, const float* sines, const unsigned int* positions, size_t heads, size_t half, size_t seq, size_t pairs
) {
    for (size_t i = FIRST; i < pairs; i += STRIDE) {
        size_t within = i % half, head = i / half, first = head * 2 * half + within, position = positions[head / heads];
        bool is_known = position < seq;
        float cosine = is_known ? cosines[position * half + within] : __int_as_float(0x7fc00000);
        float sine = is_known ? sines[position * half + within] : __int_as_float(0x7fc00000);
        float a = x[first], b = x[first + half];
        x[first] = a * cosine - b * sine;
        x[first + half] = b * cosine + a * sine;
    }
}
