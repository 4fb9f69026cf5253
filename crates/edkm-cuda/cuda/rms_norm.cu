// Root-mean-square normalisation (arXiv 1910.07467): y = x r w with r = 1 / sqrt(mean(x^2) + eps), row by row. A block a row.

__device__ inline float inverse_rms(const float* x, size_t width, float eps) {
    float squares = 0.0f;
    for (size_t i = threadIdx.x; i < width; i += THREADS) squares = fmaf(x[i], x[i], squares);
    return 1.0f / sqrtf(block_sum(squares) / (float)width + eps);
}

EDKM_KERNEL edkm_rms_norm_forward(const float* x, const float* weight, float eps, float* out, size_t rows, size_t width) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* x_row = x + row * width;
        float inverse = inverse_rms(x_row, width, eps);
        for (size_t i = threadIdx.x; i < width; i += THREADS) out[row * width + i] = x_row[i] * inverse * weight[i];
    }
}

// dx += r w g - x r^3 mean(w g x); writes r of each row for the weight's gradient.
EDKM_KERNEL edkm_rms_norm_backward(
    const float* x, const float* weight, float eps, const float* grad_out, float* grad_x, float* inverse_of_row, size_t rows, size_t width
) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* x_row = x + row * width;
        const float* grad = grad_out + row * width;
        float inverse = inverse_rms(x_row, width, eps);
        float along = 0.0f;
        for (size_t i = threadIdx.x; i < width; i += THREADS) along += grad[i] * weight[i] * x_row[i];
        along = block_sum(along) / (float)width * inverse * inverse * inverse;
        for (size_t i = threadIdx.x; i < width; i += THREADS) {
            grad_x[row * width + i] += grad[i] * inverse * weight[i] - x_row[i] * along;
        }
        if (threadIdx.x == 0) inverse_of_row[row] = inverse;
    }
}

// partial[piece, column] = the sum over the piece's rows of g x r; a thread a column and piece.
EDKM_KERNEL edkm_rms_norm_weight_pieces(
    const float* x, const float* grad_out, const float* inverse_of_row, float* partial, size_t rows, size_t width, size_t rows_in_piece,
    size_t pieces
) {
    for (size_t i = FIRST; i < pieces * width; i += STRIDE) {
        size_t piece = i / width, column = i % width;
        size_t last = (piece + 1) * rows_in_piece < rows ? (piece + 1) * rows_in_piece : rows;
        float sum = 0.0f;
        for (size_t row = piece * rows_in_piece; row < last; row++) {
            sum += grad_out[row * width + column] * x[row * width + column] * inverse_of_row[row];
        }
        partial[i] = sum;
    }
}
