// Matrices of plain numbers in the type in which they are stored. kind 0: bf16; 1: f16; 2: f32.

__device__ inline float number_at(const void* numbers, size_t i, size_t kind) {
    return kind == 2 ? static_cast<const float*>(numbers)[i] : float_of_half(static_cast<const unsigned short*>(numbers)[i], kind);
}

// out[i] = row ids[i] of numbers [rows, cols], or row first + i without ids; NaN for a row that is not there.
EDKM_KERNEL edkm_dense_rows(
    const void* numbers, const unsigned int* ids, float* out, size_t kind, size_t first, size_t rows, size_t cols, size_t len
) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        size_t row = ids == nullptr ? first + i / cols : ids[i / cols];
        out[i] = row < rows ? number_at(numbers, row * cols + i % cols, kind) : __int_as_float(0x7fc00000);
    }
}

// y[input, row] = the product of the row with x[input]. A block a row, whose numbers it reads again for each input.
EDKM_KERNEL edkm_dense_product(const void* numbers, const float* x, float* y, size_t kind, size_t rows, size_t cols, size_t inputs) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        for (size_t input = 0; input < inputs; input++) {
            float sum = 0.0f;
            for (size_t i = threadIdx.x; i < cols; i += THREADS) sum = fmaf(number_at(numbers, row * cols + i, kind), x[input * cols + i], sum);
            sum = block_sum(sum);
            if (threadIdx.x == 0) y[input * rows + row] = sum;
        }
    }
}
