// Tiles of rows times rows, for attention: 64 queries and 64 keys. Stands behind prelude.cuh in each translation unit.
//
// A thread holds 4 x 4 scores in registers, and of sums 4 rows x 4 columns of a half of a head. Operands pass through shared memory in stages: 64 rows x 32
// columns of a head where rows are multiplied by rows, 32 rows x 64 columns where they are summed. They come from anything with `dim` numbers a row and
// `four(row, column)`, which gives four of them, zeros beyond the end.
#ifndef EDKM_TILES
#define EDKM_TILES

#define TILE 64
#define STEP 32
#define MOST_DIM 128
#define HALVES (MOST_DIM / TILE)
// Four numbers more a row: rows begin at 16 bytes, and a column does not lie in one bank.
#define PITCH(columns) ((columns) + 4)
#define FULL_PITCH PITCH(TILE)
// Numbers of a stage of either shape, and of a tile of scores.
#define STAGE (TILE * PITCH(STEP))
#define SCORES (TILE * FULL_PITCH)
// Rows of the grid of threads that share a tile; a thread has the rows ROW + i, and the columns COLUMN + ROW_LANES j of scores or 4 COLUMN + j of sums.
#define ROW_LANES 16
#define ROW (threadIdx.x / ROW_LANES * 4)
#define COLUMN (threadIdx.x % ROW_LANES)

// HEIGHT rows from `first` on, WIDTH columns from `column` on, into a stage; zeros beyond the rows and the head.
template <int HEIGHT, int WIDTH, class Source> __device__ inline void load_stage(float* stage, const Source& rows, size_t first, unsigned int column) {
    for (unsigned int i = threadIdx.x; i < HEIGHT * WIDTH / 4; i += THREADS) {
        unsigned int row = i / (WIDTH / 4), at = i % (WIDTH / 4) * 4;
        store<4>(stage, row * PITCH(WIDTH) + at, rows.four(first + row, column + at));
    }
}

// products[i][j] += row ROW + i of a . row COLUMN + ROW_LANES j of b, over the columns of two stages.
__device__ inline void multiply_stages(float (&products)[4][4], const float* a, const float* b) {
    _Pragma("unroll 1") for (unsigned int c = 0; c < STEP; c += 4) {
        Several<4, float> x[4], y[4];
        for (int i = 0; i < 4; i++) x[i] = load<4>(a, (ROW + i) * PITCH(STEP) + c);
        for (int j = 0; j < 4; j++) y[j] = load<4>(b, (COLUMN + ROW_LANES * j) * PITCH(STEP) + c);
        for (int n = 0; n < 4; n++) {
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) products[i][j] = fmaf(x[i].x[n], y[j].x[n], products[i][j]);
            }
        }
    }
}

// products[i][j] = row `first_a` + ROW + i of a . row `first_b` + COLUMN + ROW_LANES j of b, by way of two stages.
template <class A, class B>
__device__ inline void multiply_rows(float (&products)[4][4], const A& a, size_t first_a, const B& b, size_t first_b, float* stages) {
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) products[i][j] = 0.0f;
    }
    for (unsigned int column = 0; column < a.dim; column += STEP) {
        __syncthreads();
        load_stage<TILE, STEP>(stages, a, first_a, column);
        load_stage<TILE, STEP>(stages + STAGE, b, first_b, column);
        __syncthreads();
        multiply_stages(products, stages, stages + STAGE);
    }
}

// The scores' layout in registers into a tile.
__device__ inline void store_tile(float* tile, const float (&scores)[4][4]) {
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) tile[(ROW + i) * FULL_PITCH + COLUMN + ROW_LANES * j] = scores[i][j];
    }
}

// All rows of a tile of one half of a head, in two stages.
template <class Source> __device__ inline void load_half(float* stages, const Source& rows, size_t first, unsigned int half) {
    load_stage<STEP, TILE>(stages, rows, first, half * TILE);
    load_stage<STEP, TILE>(stages + STAGE, rows, first + STEP, half * TILE);
}

// sums[i][j] += the sum over the 64 rows r in two stages of weights[ROW + i][r] row r [4 COLUMN + j].
__device__ inline void add_rows(float (&sums)[4][4], const float* weights, const float* stages) {
    for (unsigned int stage = 0; stage < TILE / STEP; stage++) {
        _Pragma("unroll 1") for (unsigned int r = 0; r < STEP; r += 4) {
            Several<4, float> x[4], y[4];
            for (int i = 0; i < 4; i++) x[i] = load<4>(weights, (ROW + i) * FULL_PITCH + stage * STEP + r);
            for (int n = 0; n < 4; n++) y[n] = load<4>(stages, stage * STAGE + (r + n) * FULL_PITCH + 4 * COLUMN);
            for (int n = 0; n < 4; n++) {
                for (int i = 0; i < 4; i++) {
                    for (int j = 0; j < 4; j++) sums[i][j] = fmaf(x[i].x[n], y[n].x[j], sums[i][j]);
                }
            }
        }
    }
}

// Row ROW + i of the numbers that the ROW_LANES threads of a row put in `of_lanes`.
__device__ inline const float* lanes_of_row(const float* of_lanes, int i) { return of_lanes + (ROW + i) * PITCH(ROW_LANES); }

#endif
