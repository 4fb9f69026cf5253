// Rows of a table by index.

// out[n] = table[ids[n]]
EDKM_KERNEL edkm_gather_rows(const float* table, const unsigned int* ids, float* out, size_t width, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) out[i] = table[ids[i / width] * width + i % width];
}

// to[ids[n]] += from[n]; the ids differ from each other.
EDKM_KERNEL edkm_scatter_rows(float* to, const unsigned int* ids, const float* from, size_t width, size_t len) {
    for (size_t i = FIRST; i < len; i += STRIDE) to[ids[i / width] * width + i % width] += from[i];
}

// grad_table[segment_ids[s]] += grad_out[n] for the tokens n = order[starts[s] .. starts[s + 1]], in that order: the tokens of one row of
// the table are one segment. A thread a number of the table's rows that occur.
EDKM_KERNEL edkm_scatter_segments(
    float* grad_table, const unsigned int* segment_ids, const unsigned int* starts, const unsigned int* order, const float* grad_out,
    size_t width, size_t len
) {
    for (size_t i = FIRST; i < len; i += STRIDE) {
        size_t segment = i / width, column = i % width;
        size_t row = segment_ids[segment];
        float sum = grad_table[row * width + column];
        for (unsigned int n = starts[segment]; n < starts[segment + 1]; n++) sum += grad_out[(size_t)order[n] * width + column];
        grad_table[row * width + column] = sum;
    }
}
