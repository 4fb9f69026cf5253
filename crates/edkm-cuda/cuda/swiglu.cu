// The gated activation (arXiv 2002.05202): silu(gate) up, with silu(z) = z sigmoid(z).

__device__ inline float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

EDKM_KERNEL edkm_swiglu_forward(const float* gate, const float* up, float* out, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

EDKM_KERNEL edkm_swiglu_backward(
    const float* gate, const float* up, const float* grad_out, float* grad_gate, float* grad_up, size_t len
) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        float z = gate[i], s = sigmoid(z), grad = grad_out[i];
        grad_gate[i] += grad * up[i] * s * (1.0f + z * (1.0f - s));
        grad_up[i] += grad * z * s;
    }
}
