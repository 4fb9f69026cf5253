// AdamW (arXiv 1711.05101), one pass over a parameter, and the norm that clipping needs.

EDKM_KERNEL edkm_adamw_update(
    float* parameter, const float* gradient, float* first, float* second, float gradient_scale, float beta1, float one_minus_beta1,
    float beta2, float one_minus_beta2, float keep, float step_size, float inverse_root_correction2, float eps, size_t len
) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        float grad = gradient[i] * gradient_scale;
        float m = fmaf(beta1, first[i], one_minus_beta1 * grad);
        float v = fmaf(beta2, second[i], one_minus_beta2 * grad * grad);
        float direction = m / fmaf(sqrtf(v), inverse_root_correction2, eps);
        parameter[i] = fmaf(keep, parameter[i], -(step_size * direction));
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
