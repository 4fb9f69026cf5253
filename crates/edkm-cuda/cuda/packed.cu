// Products with a palettized matrix from its packed words (edkm-palette's layout): the words of 16 rows, a tile, stand side by side; a row's indices
// follow each other bit by bit. Sums are those of edkm-palette on every CPU, bit for bit: blocks of 256 columns, fused multiply-adds in the order of
// the columns, the blocks added in order, then the row's factor.

#define TILE_ROWS 16
// Columns that are summed by themselves.
#define BLOCK_COLUMNS 256
// Blocks that a tile's threads sum at once: 16 rows times so many are a block of threads.
#define BLOCKS_AT_ONCE (THREADS / TILE_ROWS)
// Numbers of a palette at most: 2^8 vectors of 8.
#define MOST_PALETTE 2048

// The sum over columns first..last of one row. `words` is the row's first word; the next ones are TILE_ROWS further each.
__device__ inline float sum_of_columns(
    const unsigned int* words, const float* palette, const float* x, size_t first, size_t last, unsigned int bits, size_t vector
) {
    size_t index = first / vector, end = last / vector;
    size_t word = index * bits / 32;
    unsigned int shift = (unsigned int)(index * bits % 32), low = words[word * TILE_ROWS];
    float sum = 0.0f;
    for (; index < end; index++) {
        unsigned int value = low >> shift;
        shift += bits;
        if (shift >= 32) {
            shift -= 32;
            // the next word is there if bits of it are needed, now or by a next index
            if (shift > 0 || index + 1 < end) low = words[++word * TILE_ROWS];
            if (shift > 0) value |= low << (bits - shift);
        }
        const float* numbers = palette + (value & ((1u << bits) - 1)) * vector;
        for (size_t i = 0; i < vector; i++) sum = fmaf(numbers[i], x[index * vector + i], sum);
    }
    return sum;
}

// y[input, row] = the product of the row with x[input]; a block a tile and input. palettes [groups, 2^bits, vector]; scales [rows] or null.
// A group takes group_slots of the tiles' row slots, of which group_rows are rows.
EDKM_KERNEL edkm_packed_product(
    const unsigned int* words, const float* palettes, const float* scales, const float* x, float* y, size_t rows, size_t cols, size_t bits,
    size_t vector, size_t group_rows, size_t group_slots, size_t words_per_row, size_t tiles, size_t blocks
) {
    __shared__ float palette_of_tile[MOST_PALETTE];
    __shared__ float sums[BLOCKS_AT_ONCE][TILE_ROWS];
    unsigned int lane = threadIdx.x % TILE_ROWS, part = threadIdx.x / TILE_ROWS;
    size_t palette_len = vector << bits;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t tile = block % tiles, input = block / tiles;
        size_t first_slot = tile * TILE_ROWS, slot = first_slot + lane;
        size_t group = slot / group_slots, row = group * group_rows + slot % group_slots;
        bool is_row = slot % group_slots < group_rows && row < rows;
        // one palette for all rows that are there: near at hand
        size_t last_slot = first_slot + TILE_ROWS - 1;
        size_t last_group = (rows - 1) / group_rows;
        size_t group_of_last = last_slot / group_slots < last_group ? last_slot / group_slots : last_group;
        bool is_shared = first_slot / group_slots == group_of_last;
        __syncthreads();
        if (is_shared) {
            const float* palette = palettes + group_of_last * palette_len;
            for (size_t i = threadIdx.x; i < palette_len; i += THREADS) palette_of_tile[i] = palette[i];
        }
        __syncthreads();
        const float* palette = is_shared ? palette_of_tile : palettes + group * palette_len;
        const unsigned int* words_of_row = words + tile * words_per_row * TILE_ROWS + lane;
        float total = 0.0f;
        for (size_t first = 0; first < cols; first += BLOCK_COLUMNS * BLOCKS_AT_ONCE) {
            size_t from = first + part * BLOCK_COLUMNS;
            size_t to = from + BLOCK_COLUMNS < cols ? from + BLOCK_COLUMNS : cols;
            if (is_row && from < cols) {
                sums[part][lane] = sum_of_columns(words_of_row, palette, x + input * cols, from, to, (unsigned int)bits, vector);
            }
            __syncthreads();
            if (is_row && part == 0) {
                for (size_t i = 0; i < BLOCKS_AT_ONCE && first + i * BLOCK_COLUMNS < cols; i++) total += sums[i][lane];
            }
            __syncthreads();
        }
        if (is_row && part == 0) y[input * rows + row] = scales == nullptr ? total : total * scales[row];
    }
}

// out[i] = row ids[i] of the matrix, or row first + i without ids; NaN for a row that is not there. A block 8 rows and 32 indices: the words of
// neighbouring rows stand side by side.
EDKM_KERNEL edkm_packed_rows(
    const unsigned int* words, const float* palettes, const float* scales, const unsigned int* ids, float* out, size_t first, size_t count, size_t rows,
    size_t cols, size_t bits, size_t vector, size_t group_rows, size_t group_slots, size_t words_per_row, size_t blocks
) {
    size_t indices = cols / vector, chunks = (indices + 31) / 32;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        size_t i = block / chunks * (THREADS / 32) + threadIdx.x / 32, index = block % chunks * 32 + threadIdx.x % 32;
        if (i >= count || index >= indices) continue;
        float* to = out + i * cols + index * vector;
        size_t row = ids == nullptr ? first + i : ids[i];
        if (row >= rows) {
            for (size_t n = 0; n < vector; n++) to[n] = __int_as_float(0x7fc00000);
            continue;
        }
        size_t group = row / group_rows, slot = group * group_slots + row % group_rows;
        const unsigned int* word = words + (slot / TILE_ROWS * words_per_row + index * bits / 32) * TILE_ROWS + slot % TILE_ROWS;
        unsigned int shift = (unsigned int)(index * bits % 32), value = word[0] >> shift;
        if (shift + bits > 32) value |= word[TILE_ROWS] << (32 - shift);
        const float* numbers = palettes + ((group << bits) + (value & ((1u << bits) - 1))) * vector;
        for (size_t n = 0; n < vector; n++) to[n] = scales == nullptr ? numbers[n] : numbers[n] * scales[row];
    }
}
