// A factor for each row, its root mean square, by which rows of different spread share palettes. A block a row.

// The factor, rounded to bf16; 1 where that is no normal number, as for a row of zeros. A whole block's; sums in f64.
__device__ inline float row_scale(const float* row, size_t width) {
    double squares = 0.0;
    for (size_t i = threadIdx.x; i < width; i += THREADS) squares += (double)row[i] * (double)row[i];
    float root = float_of_half(key_of((float)sqrt(block_sum(squares) / (double)width), 0), 0);
    unsigned int exponent = __float_as_uint(root) >> 23 & 0xff;
    return exponent == 0 || exponent == 255 ? 1.0f : root;
}

// out = x / scale, row by row; writes the factors.
EDKM_KERNEL edkm_divide_rows(const float* x, float* scales, float* out, size_t rows, size_t width) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* x_row = x + row * width;
        float scale = row_scale(x_row, width);
        for (size_t i = threadIdx.x; i < width; i += THREADS) out[row * width + i] = x_row[i] / scale;
        if (threadIdx.x == 0) scales[row] = scale;
    }
}

EDKM_KERNEL edkm_multiply_rows(float* x, const float* scales, size_t rows, size_t width) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        for (size_t i = threadIdx.x; i < width; i += THREADS) x[row * width + i] *= scales[row];
    }
}

// Through W~ = s V~, given g = dL/dW~ and V~, in whose place dL/dV~ = s g is written: products[row] = dL/ds as far as V stays = sum(g V~).
EDKM_KERNEL edkm_rows_backward(const float* grad, const float* scales, float* clustered, double* products, size_t rows, size_t width) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* grad_row = grad + row * width;
        float* clustered_row = clustered + row * width;
        double sum = 0.0;
        for (size_t i = threadIdx.x; i < width; i += THREADS) {
            sum += (double)grad_row[i] * (double)clustered_row[i];
            clustered_row[i] = grad_row[i] * scales[row];
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) products[row] = sum;
    }
}

// Through V = W / s and s, given g = dL/dV, V and dL/ds as far as V stays: total += g / s + V (dL/ds - sum(g V) / s) / width, as ds/dw = v / width.
EDKM_KERNEL edkm_add_through_rows(
    const float* grad, const float* divided, const float* scales, const double* products, float* total, size_t rows, size_t width
) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* grad_row = grad + row * width;
        const float* divided_row = divided + row * width;
        double through = 0.0;
        for (size_t i = threadIdx.x; i < width; i += THREADS) through += (double)grad_row[i] * (double)divided_row[i];
        float scale = scales[row];
        float share = (float)((products[row] - block_sum(through) / (double)scale) / (double)width);
        for (size_t i = threadIdx.x; i < width; i += THREADS) total[row * width + i] += grad_row[i] / scale + share * divided_row[i];
    }
}
