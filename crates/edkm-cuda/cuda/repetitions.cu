// The repetitions of a clustering and their gradient, on counts and sums by 16-bit key: what edkm-cluster does for the CPU on sorted distinct values.
//
// Axes: P palettes, K clusters, T repetitions at most. PARTS blocks share the keys of a palette; the last of them to end adds up what all found, in the
// order of the parts. All in f64, as on the CPU; terms of a softmax are not left out however small.
//
// A *record* is what is known of a palette: a head, the centroids before and after each repetition [T + 1, K], log2 of each cluster's mass [T, K].

#define PARTS 128
#define MOST_CLUSTERS 256
#define WARP 32
// Keys of a thread: its place in groups of WARP keys, which go round the parts, then round the warps of a block. Keys that occur stand in rows.
#define KEYS_OF_THREAD (KEYS / PARTS / THREADS)
// Clusters that are done together; there are as many as fill them, those beyond the palette's far from everything.
#define AT_ONCE 8
#define FAR 1e300
// Blocks that share the keys of a palette where there is nothing to add up.
#define TABLE_PARTS (KEYS / THREADS)

#define HEAD 8
// Until the gap is known: below zero, if it is relative to its square.
#define HEAD_TAU 0
// The repetitions end where no centroid moves by as much; until the gap is known, as much of it.
#define HEAD_LIMIT 1
// The cluster that stays at zero; -1: none.
#define HEAD_PINNED 2
// Repetitions that were done.
#define HEAD_DONE 3
// 1: some cluster has hardly any weight, which is not done here.
#define HEAD_STARVED 4
#define HEAD_STOPPED 5

__device__ inline size_t record_len(size_t clusters, size_t repetitions) { return HEAD + (2 * repetitions + 1) * clusters; }

__device__ inline double* centroids_of(double* record, size_t clusters, size_t t) { return record + HEAD + t * clusters; }

__device__ inline double* log_mass_of(double* record, size_t clusters, size_t repetitions, size_t t) {
    return record + HEAD + (repetitions + 1 + t) * clusters;
}

// A key's number.
__device__ inline double value_of(unsigned int key, size_t kind) {
    if (kind == 0) return (double)__uint_as_float(key << 16);
    unsigned int exponent = key >> 10 & 31, fraction = key & 0x3ff, sign = (key & 0x8000) << 16;
    if (exponent == 0) {
        double magnitude = (double)fraction * 5.9604644775390625e-8; // 2^-24
        return sign ? -magnitude : magnitude;
    }
    return (double)__uint_as_float(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
}

// Whether weights with this key are clustered.
__device__ inline bool takes_part(unsigned int key, size_t keep_zero) { return keep_zero == 0 || (key & 0x7fff) != 0; }

__device__ inline unsigned int key_of_thread(unsigned int j) {
    return ((j * (THREADS / WARP) + threadIdx.x / WARP) * PARTS + blockIdx.x % PARTS) * WARP + threadIdx.x % WARP;
}

// 2^x for x <= 0 to the last digits, 0 below the normal numbers. No branches: calls with several x run side by side.
__device__ inline double exp2_below(double x) {
    double whole = x + 6755399441055744.0; // 1.5 x 2^52: rounds to an integer, which stands in the lowest bits
    double r = x - (whole - 6755399441055744.0);
    // sum of (r ln 2)^n / n!; the first that is left out is below 2^-52
    double p = 2.5678435993488205e-11;
    p = fma(p, r, 4.4455382718708115e-10);
    p = fma(p, r, 7.0549116208011235e-09);
    p = fma(p, r, 1.0178086009239701e-07);
    p = fma(p, r, 1.3215486790144308e-06);
    p = fma(p, r, 1.5252733804059840e-05);
    p = fma(p, r, 1.5403530393381608e-04);
    p = fma(p, r, 1.3333558146428443e-03);
    p = fma(p, r, 9.6181291076284770e-03);
    p = fma(p, r, 5.5504108664821580e-02);
    p = fma(p, r, 2.4022650695910072e-01);
    p = fma(p, r, 6.9314718055994530e-01);
    p = fma(p, r, 1.0);
    // the exponent moves by the integer
    double scaled = __longlong_as_double(__double_as_longlong(p) + (__double_as_longlong(whole) << 52));
    return x < -1021.0 ? 0.0 : scaled;
}

// The row of the attention map of one value: A_k = 2^(nearest - z_k^2) share.
struct Row {
    double nearest;
    double share;
};

__device__ inline double square(double u, double c, double scale) {
    double z = (u - c) * scale;
    return z * z;
}

// centroids_k: as many as fill the clusters that are done together. exps: 2^(nearest - z_k^2) of the last of them.
__device__ inline Row row_of(double u, const double* centroids_k, size_t clusters, double scale, double (&exps)[AT_ONCE]) {
    Row row;
    row.nearest = square(u, centroids_k[0], scale);
    double sum = 0.0;
    for (size_t first = 0; first < clusters; first += AT_ONCE) {
#pragma unroll
        for (size_t i = 0; i < AT_ONCE; i++) {
            double s = square(u, centroids_k[first + i], scale);
            row.nearest = s < row.nearest ? s : row.nearest;
        }
    }
    for (size_t first = 0; first < clusters; first += AT_ONCE) {
#pragma unroll
        for (size_t i = 0; i < AT_ONCE; i++) exps[i] = exp2_below(row.nearest - square(u, centroids_k[first + i], scale));
#pragma unroll
        for (size_t i = 0; i < AT_ONCE; i++) sum += exps[i];
    }
    row.share = 1.0 / sum;
    return row;
}

// The attention to the clusters from `first` on that are done together. exps: those of `row_of`, which are all there are where clusters are few.
__device__ inline void attention(
    double (&a)[AT_ONCE], const double (&exps)[AT_ONCE], Row row, double u, const double* centroids_k, size_t first, size_t clusters, double scale
) {
    if (clusters <= AT_ONCE) {
#pragma unroll
        for (size_t i = 0; i < AT_ONCE; i++) a[i] = exps[i] * row.share;
    } else {
#pragma unroll
        for (size_t i = 0; i < AT_ONCE; i++) a[i] = exp2_below(row.nearest - square(u, centroids_k[first + i], scale)) * row.share;
    }
}

// sqrt(log2(e) / tau): the square of a scaled distance is a binary exponent.
__device__ inline double scale_of(double tau) { return sqrt(1.4426950408889634 / tau); }

// Copies a palette's numbers and fills up what is done together.
__device__ inline void load_clusters(double* to_k, const double* from_k, size_t clusters, double beyond) {
    for (size_t k = threadIdx.x; k < (clusters + AT_ONCE - 1) / AT_ONCE * AT_ONCE; k += THREADS) to_k[k] = k < clusters ? from_k[k] : beyond;
}

// Adds up rows of numbers [ROWS, THREADS] over the threads, in an order of its own: the sum of row r is returned to thread r. Spoils them.
template <int ROWS> __device__ inline double row_sums(double (*numbers)[THREADS]) {
    constexpr unsigned int LANES = THREADS / ROWS;
    unsigned int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    __syncthreads();
    double sum = 0.0;
#pragma unroll
    for (unsigned int i = 0; i < THREADS / LANES; i++) sum += numbers[row][lane + i * LANES];
    __syncthreads();
    numbers[row][lane] = sum;
    __syncthreads();
    sum = 0.0;
    if (threadIdx.x < ROWS) {
#pragma unroll
        for (unsigned int i = 0; i < LANES; i++) sum += numbers[threadIdx.x][i];
    }
    __syncthreads();
    return sum;
}

// Whether this block is the last of its palette to come here, and so sees what the others have written.
__device__ inline bool is_last_part(unsigned int* tickets) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&tickets[blockIdx.x / PARTS], 1u) == PARTS - 1;
        // for the next launch
        if (last) tickets[blockIdx.x / PARTS] = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

// sums[i] = the sum of numbers[part][i] over the parts, in an order that follows from `len` alone. between: scratch.
__device__ inline void add_parts(const double* numbers, unsigned int len, double* sums, double* between) {
    for (unsigned int base = 0; base < len; base += THREADS) {
        unsigned int width = len - base < THREADS ? len - base : THREADS, slices = THREADS / width;
        unsigned int i = threadIdx.x % width, slice = threadIdx.x / width;
        double sum = 0.0;
        if (slice < slices) {
#pragma unroll 8
            for (unsigned int part = slice; part < PARTS; part += slices) sum += numbers[part * len + base + i];
        }
        between[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < width) {
            sum = 0.0;
            for (slice = 0; slice < slices; slice++) sum += between[slice * width + threadIdx.x];
            sums[base + threadIdx.x] = sum;
        }
        __syncthreads();
    }
}

// digest += two numbers for each key that occurs, by palette, key and count: what a matrix that did not change is recognised by.
__device__ inline void add_digest(const unsigned int* counts, size_t first_palette, unsigned long long* digest) {
    __shared__ unsigned long long sums[2][THREADS];
    size_t palette = blockIdx.x / PARTS;
    counts += palette * KEYS;
    unsigned int count_j[KEYS_OF_THREAD];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) count_j[j] = counts[key_of_thread(j)];
    unsigned long long a = 0, b = 0;
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
        unsigned long long count = count_j[j];
        unsigned long long of_key = scattered(((unsigned long long)(first_palette + palette) << 16 | key_of_thread(j)) + 0x9e3779b97f4a7c15ull);
        if (count != 0) {
            a += scattered(of_key ^ count);
            b += scattered(of_key + count * 0xd6e8feb86659fd93ull);
        }
    }
    sums[0][threadIdx.x] = a;
    sums[1][threadIdx.x] = b;
    block_sums(sums);
    if (threadIdx.x < 2) atomicAdd(&digest[threadIdx.x], sums[threadIdx.x][0]);
}

EDKM_KERNEL edkm_digest_counts(const unsigned int* counts, size_t first_palette, unsigned long long* digest) { add_digest(counts, first_palette, digest); }

// Begins the records from the first of two starts [P, 2, HEAD + K] if the matrix has the expected digest, else from the second. A block a palette.
EDKM_KERNEL edkm_choose_start(
    const unsigned long long* digest, size_t expected_a, size_t expected_b, const double* starts, double* records, size_t clusters, size_t repetitions
) {
    bool known = digest[0] == expected_a && digest[1] == expected_b;
    const double* start = starts + (2 * (size_t)blockIdx.x + (known ? 0 : 1)) * (HEAD + clusters);
    double* record = records + blockIdx.x * record_len(clusters, repetitions);
    for (size_t i = threadIdx.x; i < HEAD + clusters; i += THREADS) record[i] = start[i];
}

// A start that comes with the launch: what is set of a head, and as many centroids as are done together.
#define SET_OF_HEAD (HEAD_PINNED + 1)
#define NUMBERS_OF_START(x) \
    double x##_tau, double x##_limit, double x##_pinned, double x##_0, double x##_1, double x##_2, double x##_3, double x##_4, double x##_5, double x##_6, double x##_7
#define AS_ARRAY(x) {x##_tau, x##_limit, x##_pinned, x##_0, x##_1, x##_2, x##_3, x##_4, x##_5, x##_6, x##_7}

// edkm_digest_counts and edkm_choose_start of a matrix with one palette and few clusters: the last block to end begins the record.
EDKM_KERNEL edkm_begin_palette(
    const unsigned int* counts, unsigned long long* digest, unsigned int* tickets, size_t expected_a, size_t expected_b, double* record, size_t clusters,
    NUMBERS_OF_START(known), NUMBERS_OF_START(other)
) {
    add_digest(counts, 0, digest);
    if (!is_last_part(tickets)) return;
    const double starts[2][SET_OF_HEAD + AT_ONCE] = {AS_ARRAY(known), AS_ARRAY(other)};
    const double* start = starts[digest[0] == expected_a && digest[1] == expected_b ? 0 : 1];
    size_t i = threadIdx.x;
    if (i < HEAD) record[i] = i < SET_OF_HEAD ? start[i] : 0.0;
    else if (i < HEAD + clusters) record[i] = start[SET_OF_HEAD + i - HEAD];
}

#undef SET_OF_HEAD
#undef NUMBERS_OF_START
#undef AS_ARRAY

// Finds the gap between the centroids where the weights are, as edkm-cluster's scalar/gap.rs does and with the same bits, and what refers to it.
EDKM_KERNEL edkm_set_temperature(
    const unsigned int* counts, size_t kind, size_t keep_zero, double* records, size_t clusters, size_t repetitions, double* partials, unsigned int* tickets
) {
    __shared__ double centroids_k[MOST_CLUSTERS];
    __shared__ unsigned long long mass_k[MOST_CLUSTERS];
    size_t palette = blockIdx.x / PARTS;
    double* record = records + palette * record_len(clusters, repetitions);
    counts += palette * KEYS;
    partials += palette * PARTS * clusters;
    load_clusters(centroids_k, centroids_of(record, clusters, 0), clusters, FAR);
    for (size_t k = threadIdx.x; k < clusters; k += THREADS) mass_k[k] = 0;
    unsigned int count_j[KEYS_OF_THREAD];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) count_j[j] = takes_part(key_of_thread(j), keep_zero) ? counts[key_of_thread(j)] : 0;
    __syncthreads();
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
        if (count_j[j] == 0) continue;
        double u = value_of(key_of_thread(j), kind), least = fabs(u - centroids_k[0]);
        size_t nearest = 0;
        for (size_t k = 1; k < clusters; k++) {
            double distance = fabs(u - centroids_k[k]);
            if (distance < least) {
                least = distance;
                nearest = k;
            }
        }
        // whole numbers: in any order the same
        atomicAdd(&mass_k[nearest], (unsigned long long)count_j[j]);
    }
    __syncthreads();
    for (size_t k = threadIdx.x; k < clusters; k += THREADS) partials[blockIdx.x % PARTS * clusters + k] = (double)mass_k[k];
    if (!is_last_part(tickets)) return;

    __shared__ double sums_k[MOST_CLUSTERS];
    __shared__ double product_k[MOST_CLUSTERS];
    __shared__ double between[THREADS];
    add_parts(partials, (unsigned int)clusters, sums_k, between);
    for (size_t k = threadIdx.x; k < clusters; k += THREADS) {
        double to_nearest = FAR;
        for (size_t other = 0; other < clusters; other++) {
            double distance = fabs(centroids_k[other] - centroids_k[k]);
            if (distance > 0.0 && distance < to_nearest) to_nearest = distance;
        }
        product_k[k] = to_nearest < FAR ? sums_k[k] * to_nearest : 0.0;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    double mass = 0.0, sum = 0.0;
    for (size_t k = 0; k < clusters; k++) {
        mass += sums_k[k];
        sum += product_k[k];
    }
    double gap = mass > 0.0 ? sum / mass : 0.0, tau = record[HEAD_TAU];
    if (tau < 0.0) record[HEAD_TAU] = gap == 0.0 ? 1.0 : -tau * gap * gap;
    record[HEAD_LIMIT] *= gap;
}

// Repetition t: S_k = sum_u n_u A_uk, N_k = sum_u n_u A_uk u, c_k = N_k / S_k.
EDKM_KERNEL edkm_move_centroids(
    const unsigned int* counts, size_t kind, size_t keep_zero, double* records, size_t clusters, size_t repetitions, size_t t, size_t len, double* partials,
    unsigned int* tickets
) {
    __shared__ double before_k[MOST_CLUSTERS];
    // masses, then sums
    __shared__ double found[2 * AT_ONCE][THREADS];
    size_t palette = blockIdx.x / PARTS;
    double* record = records + palette * record_len(clusters, repetitions);
    if (record[HEAD_STOPPED] != 0.0) return;
    counts += palette * KEYS;
    partials += palette * PARTS * 2 * clusters;
    load_clusters(before_k, centroids_of(record, clusters, t), clusters, FAR);
    double scale = scale_of(record[HEAD_TAU]);
    unsigned int count_j[KEYS_OF_THREAD];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) count_j[j] = takes_part(key_of_thread(j), keep_zero) ? counts[key_of_thread(j)] : 0;
    __syncthreads();

    Row row_j[KEYS_OF_THREAD];
    double exps_j[KEYS_OF_THREAD][AT_ONCE];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
        row_j[j].nearest = row_j[j].share = 0.0;
        if (count_j[j] != 0) {
            row_j[j] = row_of(value_of(key_of_thread(j), kind), before_k, clusters, scale, exps_j[j]);
            row_j[j].share *= (double)count_j[j];
        }
    }
    for (size_t first = 0; first < clusters; first += AT_ONCE) {
        double mass_i[AT_ONCE] = {}, sum_i[AT_ONCE] = {};
#pragma unroll
        for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
            if (count_j[j] == 0) continue;
            double u = value_of(key_of_thread(j), kind), a[AT_ONCE];
            attention(a, exps_j[j], row_j[j], u, before_k, first, clusters, scale);
#pragma unroll
            for (unsigned int i = 0; i < AT_ONCE; i++) {
                mass_i[i] += a[i];
                sum_i[i] += a[i] * u;
            }
        }
#pragma unroll
        for (unsigned int i = 0; i < AT_ONCE; i++) {
            found[i][threadIdx.x] = mass_i[i];
            found[AT_ONCE + i][threadIdx.x] = sum_i[i];
        }
        double sum = row_sums<2 * AT_ONCE>(found);
        size_t k = first + threadIdx.x % AT_ONCE;
        if (threadIdx.x < 2 * AT_ONCE && k < clusters) partials[(blockIdx.x % PARTS * 2 + threadIdx.x / AT_ONCE) * clusters + k] = sum;
    }
    if (!is_last_part(tickets)) return;

    // masses, then sums
    __shared__ double sums_k[2 * MOST_CLUSTERS];
    __shared__ double moved[THREADS];
    __shared__ bool starved;
    if (threadIdx.x == 0) starved = false;
    add_parts(partials, 2 * (unsigned int)clusters, sums_k, found[0]);
    size_t k = threadIdx.x;
    moved[k] = 0.0;
    if (k < clusters) {
        double mass = sums_k[k], log_mass = log2(mass);
        double after = (double)k == record[HEAD_PINNED] ? before_k[k] : sums_k[clusters + k] / mass;
        centroids_of(record, clusters, t + 1)[k] = after;
        log_mass_of(record, clusters, repetitions, t)[k] = log_mass;
        moved[k] = fabs(after - before_k[k]);
        // as edkm-cluster's is_starved, for a palette whose weights all take part
        if (!(log_mass >= log2((double)len) - 42.0)) starved = true;
    }
    for (unsigned int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half && moved[threadIdx.x + half] > moved[threadIdx.x]) moved[threadIdx.x] = moved[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        record[HEAD_DONE] = (double)(t + 1);
        record[HEAD_STARVED] = starved ? 1.0 : 0.0;
        record[HEAD_STOPPED] = starved || moved[0] < record[HEAD_LIMIT] ? 1.0 : 0.0;
    }
}

// Tables [P, KEYS] of the clustered value of each finite key: w~ = sum_k A_k c_k, by the assignment of the last repetition and its centroids.
EDKM_KERNEL edkm_clustered_table(size_t kind, size_t keep_zero, double* records, size_t clusters, size_t repetitions, float* tables) {
    __shared__ double before_k[MOST_CLUSTERS];
    __shared__ double after_k[MOST_CLUSTERS];
    size_t palette = blockIdx.x / TABLE_PARTS;
    unsigned int key = blockIdx.x % TABLE_PARTS * THREADS + threadIdx.x;
    double* record = records + palette * record_len(clusters, repetitions);
    // nothing to cluster: the host's
    if (record[HEAD_DONE] == 0.0) return;
    size_t last = (size_t)record[HEAD_DONE] - 1;
    load_clusters(before_k, centroids_of(record, clusters, last), clusters, FAR);
    load_clusters(after_k, centroids_of(record, clusters, last + 1), clusters, 0.0);
    double u = value_of(key, kind), clustered = 0.0, scale = scale_of(record[HEAD_TAU]);
    __syncthreads();
    if (takes_part(key, keep_zero)) {
        double exps[AT_ONCE], a[AT_ONCE];
        Row row = row_of(u, before_k, clusters, scale, exps);
        for (size_t first = 0; first < clusters; first += AT_ONCE) {
            attention(a, exps, row, u, before_k, first, clusters, scale);
#pragma unroll
            for (size_t i = 0; i < AT_ONCE; i++) clustered += a[i] * after_k[first + i];
        }
    }
    tables[palette * KEYS + key] = (float)clustered;
}

// The sum of upstream gradients of a key.
__device__ inline double upstream_of(const long long* sums, unsigned int key, unsigned int magnitude, double units) {
    // not finite: NaN
    return magnitude >= 0x7f800000 ? (double)__uint_as_float(0x7fc00000) : (double)sums[key] / units;
}

// The slope of each key that occurs, into the first of each pair of tables [P, KEYS, 2], and dL/dc of the last centroids, [P, K]: what w~ = sum_k A_k c_k
// passes on. Axes and formulas as in edkm-cluster's scalar/gradient.rs.
EDKM_KERNEL edkm_clustered_backward(
    const unsigned int* counts, const long long* sums, const unsigned int* magnitudes, size_t bits, size_t kind, size_t keep_zero, double* records,
    size_t clusters, size_t repetitions, float* tables, double* grads, double* partials, unsigned int* tickets
) {
    __shared__ double before_k[MOST_CLUSTERS];
    __shared__ double after_k[MOST_CLUSTERS];
    __shared__ double found[AT_ONCE][THREADS];
    size_t palette = blockIdx.x / PARTS;
    double* record = records + palette * record_len(clusters, repetitions);
    size_t last = (size_t)record[HEAD_DONE] - 1;
    counts += palette * KEYS;
    sums += palette * KEYS;
    tables += palette * 2 * KEYS;
    partials += palette * PARTS * clusters;
    load_clusters(before_k, centroids_of(record, clusters, last), clusters, FAR);
    load_clusters(after_k, centroids_of(record, clusters, last + 1), clusters, 0.0);
    double tau = record[HEAD_TAU], scale = scale_of(tau), units = units_of(magnitudes[palette], bits);
    bool occurs_j[KEYS_OF_THREAD];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) occurs_j[j] = takes_part(key_of_thread(j), keep_zero) && counts[key_of_thread(j)] != 0;
    __syncthreads();

    double upstream_j[KEYS_OF_THREAD];
    Row row_j[KEYS_OF_THREAD];
    double exps_j[KEYS_OF_THREAD][AT_ONCE];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
        unsigned int key = key_of_thread(j);
        upstream_j[j] = row_j[j].nearest = row_j[j].share = 0.0;
        if (!occurs_j[j]) continue;
        double u = value_of(key, kind), clustered = 0.0, slope = 0.0, a[AT_ONCE];
        upstream_j[j] = upstream_of(sums, key, magnitudes[palette], units);
        row_j[j] = row_of(u, before_k, clusters, scale, exps_j[j]);
        for (size_t first = 0; first < clusters; first += AT_ONCE) {
            attention(a, exps_j[j], row_j[j], u, before_k, first, clusters, scale);
#pragma unroll
            for (size_t i = 0; i < AT_ONCE; i++) clustered += a[i] * after_k[first + i];
        }
        for (size_t first = 0; first < clusters; first += AT_ONCE) {
            attention(a, exps_j[j], row_j[j], u, before_k, first, clusters, scale);
#pragma unroll
            for (size_t i = 0; i < AT_ONCE; i++) slope += a[i] * (after_k[first + i] - clustered) * (before_k[first + i] - u);
        }
        tables[2 * key] = (float)(slope * (2.0 / tau));
    }
    for (size_t first = 0; first < clusters; first += AT_ONCE) {
        double grad_i[AT_ONCE] = {};
#pragma unroll
        for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
            if (!occurs_j[j]) continue;
            double a[AT_ONCE];
            attention(a, exps_j[j], row_j[j], value_of(key_of_thread(j), kind), before_k, first, clusters, scale);
#pragma unroll
            for (unsigned int i = 0; i < AT_ONCE; i++) grad_i[i] += a[i] * upstream_j[j];
        }
#pragma unroll
        for (unsigned int i = 0; i < AT_ONCE; i++) found[i][threadIdx.x] = grad_i[i];
        double grad = row_sums<AT_ONCE>(found);
        if (threadIdx.x < AT_ONCE && first + threadIdx.x < clusters) partials[blockIdx.x % PARTS * clusters + first + threadIdx.x] = grad;
    }
    if (!is_last_part(tickets)) return;
    add_parts(partials, (unsigned int)clusters, grads + palette * clusters, found[0]);
}

// Takes dL/dc of the centroids that repetition t produced, [P, K], back to those that it started from, and adds to the shift of each key that occurs,
// [P, KEYS]; with t = 0 also into the second of each pair of tables [P, KEYS, 2].
EDKM_KERNEL edkm_repetition_backward(
    const unsigned int* counts, const long long* sums, const unsigned int* magnitudes, size_t bits, size_t kind, size_t keep_zero, double* records,
    size_t clusters, size_t repetitions, size_t t, double* shifts, float* tables, double* grads, double* partials, unsigned int* tickets
) {
    __shared__ double before_k[MOST_CLUSTERS];
    __shared__ double after_k[MOST_CLUSTERS];
    // dL/dN_k = dL/dc_k / S_k
    __shared__ double sum_grad_k[MOST_CLUSTERS];
    __shared__ double found[AT_ONCE][THREADS];
    size_t palette = blockIdx.x / PARTS;
    double* record = records + palette * record_len(clusters, repetitions);
    size_t done = (size_t)record[HEAD_DONE];
    if (t >= done) return;
    bool is_last = t + 1 == done;
    counts += palette * KEYS;
    sums += palette * KEYS;
    shifts += palette * KEYS;
    tables += palette * 2 * KEYS;
    grads += palette * clusters;
    partials += palette * PARTS * clusters;
    load_clusters(before_k, centroids_of(record, clusters, t), clusters, FAR);
    load_clusters(after_k, centroids_of(record, clusters, t + 1), clusters, 0.0);
    for (size_t k = threadIdx.x; k < (clusters + AT_ONCE - 1) / AT_ONCE * AT_ONCE; k += THREADS) {
        bool moves = k < clusters && (double)k != record[HEAD_PINNED];
        sum_grad_k[k] = moves ? grads[k] * exp2(-log_mass_of(record, clusters, repetitions, t)[k]) : 0.0;
    }
    double tau = record[HEAD_TAU], scale = scale_of(tau), units = units_of(magnitudes[palette], bits);
    // of each key: n_u, the upstream gradient if this is the last repetition, its row, and means over it
    double count_j[KEYS_OF_THREAD], upstream_j[KEYS_OF_THREAD], mean_j[KEYS_OF_THREAD], clustered_j[KEYS_OF_THREAD];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) count_j[j] = takes_part(key_of_thread(j), keep_zero) ? (double)counts[key_of_thread(j)] : 0.0;
    __syncthreads();

    Row row_j[KEYS_OF_THREAD];
    double exps_j[KEYS_OF_THREAD][AT_ONCE];
#pragma unroll
    for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
        unsigned int key = key_of_thread(j);
        upstream_j[j] = mean_j[j] = clustered_j[j] = row_j[j].nearest = row_j[j].share = 0.0;
        if (count_j[j] == 0.0) continue;
        if (is_last) upstream_j[j] = upstream_of(sums, key, magnitudes[palette], units);
        double u = value_of(key, kind), direct = 0.0, mean = 0.0, clustered = 0.0, through_distance = 0.0, a[AT_ONCE];
        row_j[j] = row_of(u, before_k, clusters, scale, exps_j[j]);
        for (size_t first = 0; first < clusters; first += AT_ONCE) {
            attention(a, exps_j[j], row_j[j], u, before_k, first, clusters, scale);
#pragma unroll
            for (size_t i = 0; i < AT_ONCE; i++) {
                size_t k = first + i;
                double share = a[i] * sum_grad_k[k];
                direct += share;
                mean += share * (u - after_k[k]);
                clustered += a[i] * after_k[k];
            }
        }
        for (size_t first = 0; first < clusters; first += AT_ONCE) {
            attention(a, exps_j[j], row_j[j], u, before_k, first, clusters, scale);
#pragma unroll
            for (size_t i = 0; i < AT_ONCE; i++) {
                size_t k = first + i;
                through_distance += a[i] * ((u - after_k[k]) * sum_grad_k[k] - mean) * (u - before_k[k]);
            }
        }
        double shift = (is_last ? 0.0 : shifts[key]) + direct - through_distance * (2.0 / tau);
        shifts[key] = shift;
        if (t == 0) tables[2 * key + 1] = (float)shift;
        mean_j[j] = mean;
        clustered_j[j] = clustered;
    }
    // what follows serves the repetition before
    if (t == 0) return;
    for (size_t first = 0; first < clusters; first += AT_ONCE) {
        double grad_i[AT_ONCE] = {};
#pragma unroll
        for (unsigned int j = 0; j < KEYS_OF_THREAD; j++) {
            if (count_j[j] == 0.0) continue;
            double u = value_of(key_of_thread(j), kind), a[AT_ONCE];
            attention(a, exps_j[j], row_j[j], u, before_k, first, clusters, scale);
#pragma unroll
            for (unsigned int i = 0; i < AT_ONCE; i++) {
                size_t k = first + i;
                double through_exponent = a[i] * ((u - after_k[k]) * sum_grad_k[k] - mean_j[j]) * count_j[j];
                double through_outputs = a[i] * (after_k[k] - clustered_j[j]) * upstream_j[j];
                grad_i[i] += (through_exponent + through_outputs) * (u - before_k[k]) * (2.0 / tau);
            }
        }
#pragma unroll
        for (unsigned int i = 0; i < AT_ONCE; i++) found[i][threadIdx.x] = grad_i[i];
        double grad = row_sums<AT_ONCE>(found);
        if (threadIdx.x < AT_ONCE && first + threadIdx.x < clusters) partials[blockIdx.x % PARTS * clusters + first + threadIdx.x] = grad;
    }
    if (!is_last_part(tickets)) return;
    add_parts(partials, (unsigned int)clusters, grads, found[0]);
}
