// A hash of the bits of numbers, by which a content is recognised without leaving the device. It is a sum of 64-bit integers over the positions,
// so it does not depend on the order of the blocks.

// digest[0..2] += two hashes of each position and the bits that stand there.
EDKM_KERNEL edkm_digest(const float* x, unsigned long long* digest, size_t len) {
    __shared__ unsigned long long here[2][THREADS];
    unsigned long long low = 0, high = 0;
#pragma unroll 4
    for (size_t i = FIRST; i < len; i += STRIDE) {
        // a position's hash, then the bits: equal numbers at two positions must not be exchangeable
        unsigned long long place = scattered((unsigned long long)i + 0x9e3779b97f4a7c15ull);
        unsigned long long bits = __float_as_uint(x[i]);
        low += scattered(place ^ bits);
        high += scattered(place + (bits << 32 | 0x5bd1e995ull));
    }
    here[0][threadIdx.x] = low;
    here[1][threadIdx.x] = high;
    block_sums(here);
    if (threadIdx.x < 2) atomicAdd(&digest[threadIdx.x], here[threadIdx.x][0]);
}
