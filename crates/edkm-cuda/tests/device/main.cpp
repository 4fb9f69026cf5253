// A device on the host: reads commands from standard input, holds memory, runs the kernels, and answers on standard output.
//
//   a BYTES                    -> ADDRESS          zeroed memory
//   f ADDRESS                                      frees it
//   w ADDRESS BYTES, bytes                         writes
//   r ADDRESS BYTES            -> bytes            reads
//   l NAME BLOCKS COUNT, arguments of 8 bytes      launches a kernel
//   p TA TB M N K A LDA B LDB BETA C LDC           a matrix product as cuBLAS has it: column-major
//
// Numbers are decimal text in one line; bytes follow the line. Memory stands between guards, and a write beyond an end stops the program.

#include "host.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#include "kernels.h"

Dim threadIdx, blockIdx, gridDim;

namespace {

const size_t STACK = 64 << 10;
const size_t GUARD = 256;
const unsigned char GUARD_BYTE = 0xa5;

[[noreturn]] void fail(const std::string& why) {
    std::fprintf(stderr, "simulator: %s\n", why.c_str());
    std::exit(1);
}

// The threads of one block.
ucontext_t scheduler, threads[THREADS];
std::vector<char> stacks(STACK* THREADS);
std::function<void()> body;
unsigned int running;
bool at_barrier;

void enter() { body(); }

// Runs all threads up to the next barrier or their end, in ascending or descending order. All must meet the same barriers.
bool run_phase(bool ascending) {
    unsigned int waiting = 0;
    for (unsigned int i = 0; i < THREADS; i++) {
        running = ascending ? i : THREADS - 1 - i;
        threadIdx.x = running;
        at_barrier = false;
        swapcontext(&scheduler, &threads[running]);
        waiting += at_barrier;
    }
    if (waiting != 0 && waiting != THREADS) fail("a barrier that only some threads of a block meet");
    return waiting != 0;
}

void run_grid(unsigned int blocks) {
    gridDim.x = blocks;
    for (unsigned int block = 0; block < blocks; block++) {
        blockIdx.x = block;
        for (unsigned int i = 0; i < THREADS; i++) {
            getcontext(&threads[i]);
            threads[i].uc_stack.ss_sp = &stacks[i * STACK];
            threads[i].uc_stack.ss_size = STACK;
            threads[i].uc_link = &scheduler;
            makecontext(&threads[i], enter, 0);
        }
        // The order changes from phase to phase and from block to block: what depends on it shows.
        for (bool ascending = block % 2 == 0; run_phase(ascending); ascending = !ascending) {
        }
    }
}

std::map<uint64_t, size_t> memory;

void check_guards() {
    for (auto& [address, len] : memory) {
        auto bytes = reinterpret_cast<unsigned char*>(address);
        for (size_t i = 0; i < GUARD; i++) {
            if (bytes[-(ptrdiff_t)GUARD + (ptrdiff_t)i] != GUARD_BYTE || bytes[len + i] != GUARD_BYTE) fail("a write outside of memory");
        }
    }
}

template <class T> T argument(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class... A, size_t... I>
void launch(void (*kernel)(A...), unsigned int blocks, const std::vector<uint64_t>& bits, std::index_sequence<I...>) {
    if (bits.size() != sizeof...(A)) fail("a kernel with another number of arguments");
    auto arguments = std::make_tuple(argument<A>(bits[I])...);
    body = [&] { std::apply(kernel, arguments); };
    run_grid(blocks);
    check_guards();
}

template <class... A> std::function<void(unsigned int, const std::vector<uint64_t>&)> entry(void (*kernel)(A...)) {
    return [kernel](unsigned int blocks, const std::vector<uint64_t>& bits) {
        launch(kernel, blocks, bits, std::index_sequence_for<A...>{});
    };
}

void product(bool ta, bool tb, size_t m, size_t n, size_t k, const float* a, size_t lda, const float* b, size_t ldb, float beta, float* c, size_t ldc) {
    for (size_t column = 0; column < n; column++) {
        for (size_t row = 0; row < m; row++) {
            double sum = 0.0;
            for (size_t i = 0; i < k; i++) sum += (double)(ta ? a[row * lda + i] : a[i * lda + row]) * (double)(tb ? b[i * ldb + column] : b[column * ldb + i]);
            float& to = c[column * ldc + row];
            to = (float)(sum + (beta == 0.0f ? 0.0 : (double)beta * (double)to));
        }
    }
}

}  // namespace

// The kernels wait here.
void __syncthreads() {
    unsigned int self = running;
    at_barrier = true;
    swapcontext(&threads[self], &scheduler);
}

int main() {
    std::map<std::string, std::function<void(unsigned int, const std::vector<uint64_t>&)>> kernels;
#define EDKM_ENTRY(name) kernels[#name] = entry(name);
#include "entries.h"
    char command;
    while (std::scanf(" %c", &command) == 1) {
        unsigned long long address = 0, len = 0;
        switch (command) {
        case 'a': {
            if (std::scanf("%llu", &len) != 1) fail("a command cut short");
            std::getchar();
            auto bytes = static_cast<unsigned char*>(std::malloc(len + 2 * GUARD));
            std::memset(bytes, GUARD_BYTE, len + 2 * GUARD);
            std::memset(bytes + GUARD, 0, len);
            memory[reinterpret_cast<uint64_t>(bytes + GUARD)] = len;
            std::printf("%llu\n", (unsigned long long)reinterpret_cast<uint64_t>(bytes + GUARD));
            break;
        }
        case 'f':
            if (std::scanf("%llu", &address) != 1) fail("a command cut short");
            std::getchar();
            if (memory.erase(address) != 1) fail("memory that is freed twice");
            std::free(reinterpret_cast<unsigned char*>(address) - GUARD);
            break;
        case 'w':
            if (std::scanf("%llu %llu", &address, &len) != 2) fail("a command cut short");
            std::getchar();
            if (std::fread(reinterpret_cast<void*>(address), 1, len, stdin) != len) fail("bytes cut short");
            check_guards();
            break;
        case 'r':
            if (std::scanf("%llu %llu", &address, &len) != 2) fail("a command cut short");
            std::getchar();
            std::fwrite(reinterpret_cast<void*>(address), 1, len, stdout);
            break;
        case 'l': {
            char name[128];
            unsigned long long blocks, count;
            if (std::scanf("%127s %llu %llu", name, &blocks, &count) != 3) fail("a command cut short");
            std::getchar();
            std::vector<uint64_t> bits(count);
            if (std::fread(bits.data(), 8, count, stdin) != count) fail("arguments cut short");
            auto kernel = kernels.find(name);
            if (kernel == kernels.end()) fail(std::string("no kernel ") + name);
            kernel->second((unsigned int)blocks, bits);
            break;
        }
        case 'p': {
            int ta, tb;
            unsigned long long m, n, k, a, lda, b, ldb, c, ldc;
            float beta;
            if (std::scanf("%d %d %llu %llu %llu %llu %llu %llu %llu %f %llu %llu", &ta, &tb, &m, &n, &k, &a, &lda, &b, &ldb, &beta, &c, &ldc) != 12)
                fail("a command cut short");
            std::getchar();
            product(ta, tb, m, n, k, reinterpret_cast<float*>(a), lda, reinterpret_cast<float*>(b), ldb, beta, reinterpret_cast<float*>(c), ldc);
            check_guards();
            break;
        }
        default:
            fail("an unknown command");
        }
        std::fflush(stdout);
    }
}
