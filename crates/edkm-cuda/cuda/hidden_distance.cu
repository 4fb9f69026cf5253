// How far hidden states are from another model's, each token's relative to its own length. A block a row.

// out = (x - y) / |y|^2 and of_row = |x - y|^2 / |y|^2; 0 where |y|^2 is below the least normal number.
EDKM_KERNEL edkm_hidden_distance(const float* x, const float* y, float* out, float* of_row, size_t rows, size_t width) {
    const float least_normal = 1.17549435e-38f;
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* x_row = x + row * width;
        const float* y_row = y + row * width;
        float squares = 0.0f, distance = 0.0f;
        for (size_t i = threadIdx.x; i < width; i += THREADS) {
            float difference = x_row[i] - y_row[i];
            squares = fmaf(y_row[i], y_row[i], squares);
            distance = fmaf(difference, difference, distance);
        }
        squares = block_sum(squares);
        distance = block_sum(distance);
        float inverse = squares >= least_normal ? 1.0f / squares : 0.0f;
        for (size_t i = threadIdx.x; i < width; i += THREADS) out[row * width + i] = (x_row[i] - y_row[i]) * inverse;
        if (threadIdx.x == 0) of_row[row] = distance * inverse;
    }
}
