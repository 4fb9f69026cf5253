// Kernels that treat each number on its own, and sums over rows.

EDKM_KERNEL edkm_add(const float* x, const float* y, float* out, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) out[i] = x[i] + y[i];
}

EDKM_KERNEL edkm_add_assign(float* to, const float* from, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) to[i] += from[i];
}

// to += factor * times[0] * from
EDKM_KERNEL edkm_add_times(float* to, const float* from, float factor, const float* times, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) to[i] += factor * times[0] * from[i];
}

EDKM_KERNEL edkm_scale(float* x, float factor, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) x[i] *= factor;
}

// y[row, column] += bias[column]
EDKM_KERNEL edkm_add_to_rows(float* y, const float* bias, size_t width, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) y[i] += bias[i % width];
}

// partial[piece, column] = the sum over the piece's rows of x[row, column]; a thread a column and piece.
EDKM_KERNEL edkm_sum_pieces(const float* x, float* partial, size_t rows, size_t width, size_t rows_in_piece, size_t pieces) {
    for (size_t i = FIRST; i < pieces * width; i += STRIDE) {
        size_t piece = i / width, column = i % width;
        size_t last = (piece + 1) * rows_in_piece < rows ? (piece + 1) * rows_in_piece : rows;
        float sum = 0.0f;
        for (size_t row = piece * rows_in_piece; row < last; row++) sum += x[row * width + column];
        partial[i] = sum;
    }
}

// to[column] += the sum of the pieces, in order.
EDKM_KERNEL edkm_add_pieces(const float* partial, float* to, size_t width, size_t pieces) {
    for (size_t column = FIRST; column < width; column += STRIDE) {
        float sum = 0.0f;
        for (size_t piece = 0; piece < pieces; piece++) sum += partial[piece * width + column];
        to[column] += sum;
    }
}
