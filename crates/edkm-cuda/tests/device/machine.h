// A device on the host: memory, kernels a block at a time, products. Memory stands between guards, and a write beyond an end stops the program.
#ifndef EDKM_MACHINE
#define EDKM_MACHINE

// the checked longjmp knows one stack alone
#undef _FORTIFY_SOURCE

#include "host.h"

#include <csetjmp>

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

// The threads of one block: coroutines that run one block after the other. They change places by jumps, which do not ask the kernel for anything.
ucontext_t threads[THREADS];
std::jmp_buf scheduler, places[THREADS];
bool begun[THREADS];
std::vector<char> stacks(STACK* THREADS);
std::function<void()> body;
unsigned int running;
bool at_barrier;

// Goes on with the scheduler until this thread's turn comes again.
void leave() {
    if (_setjmp(places[running]) == 0) _longjmp(scheduler, 1);
}

void enter() {
    for (;;) {
        body();
        leave();
    }
}

// Goes on with a thread until it leaves.
void resume(unsigned int thread) {
    running = thread;
    if (_setjmp(scheduler) != 0) return;
    if (begun[thread]) _longjmp(places[thread], 1);
    begun[thread] = true;
    getcontext(&threads[thread]);
    threads[thread].uc_stack.ss_sp = &stacks[thread * STACK];
    threads[thread].uc_stack.ss_size = STACK;
    makecontext(&threads[thread], enter, 0);
    setcontext(&threads[thread]);
}

// Runs all threads up to the next barrier or their end, in ascending or descending order. All must meet the same barriers.
bool run_phase(bool ascending) {
    unsigned int waiting = 0;
    for (unsigned int i = 0; i < THREADS; i++) {
        threadIdx.x = ascending ? i : THREADS - 1 - i;
        at_barrier = false;
        resume(threadIdx.x);
        waiting += at_barrier;
    }
    if (waiting != 0 && waiting != THREADS) fail("a barrier that only some threads of a block meet");
    return waiting != 0;
}

void run_grid(unsigned int blocks) {
    gridDim.x = blocks;
    for (unsigned int block = 0; block < blocks; block++) {
        blockIdx.x = block;
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

// What a kernel is called by: so many blocks, and a pointer to each argument.
using Entry = std::function<void(unsigned int, const std::vector<const void*>&)>;

template <class T> T argument(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class... A, size_t... I>
void launch(void (*kernel)(A...), unsigned int blocks, const std::vector<const void*>& from, std::index_sequence<I...>) {
    auto arguments = std::make_tuple(argument<A>(from[I])...);
    body = [&] { std::apply(kernel, arguments); };
    run_grid(blocks);
    check_guards();
}

template <class... A> Entry entry(void (*kernel)(A...)) {
    return [kernel](unsigned int blocks, const std::vector<const void*>& from) {
        if (from.size() != sizeof...(A)) fail("a kernel with another number of arguments");
        launch(kernel, blocks, from, std::index_sequence_for<A...>{});
    };
}

template <class... A> size_t count_arguments(void (*)(A...)) { return sizeof...(A); }

struct Kernel {
    size_t arguments;
    Entry run;
};

// All kernels by name.
std::map<std::string, Kernel> all_kernels() {
    std::map<std::string, Kernel> kernels;
#define EDKM_ENTRY(name) kernels[#name] = Kernel{count_arguments(name), entry(name)};
#include "entries.h"
    return kernels;
}

// Memory of so many bytes, each of them `filling`, between guards.
uint64_t allocate(size_t len, unsigned char filling) {
    auto bytes = static_cast<unsigned char*>(std::malloc(len + 2 * GUARD));
    std::memset(bytes, GUARD_BYTE, len + 2 * GUARD);
    std::memset(bytes + GUARD, filling, len);
    auto address = reinterpret_cast<uint64_t>(bytes + GUARD);
    memory[address] = len;
    return address;
}

void release(uint64_t address) {
    auto found = memory.find(address);
    if (found == memory.end()) fail("memory that is freed twice");
    // what reads it later shall notice
    std::memset(reinterpret_cast<void*>(address), 0xff, found->second);
    memory.erase(found);
    std::free(reinterpret_cast<unsigned char*>(address) - GUARD);
}

// As tensor cores read an f32: 10 bits of fraction, rounded to nearest.
float to_tf32(float x) {
    unsigned int bits = __float_as_uint(x);
    return std::isfinite(x) ? __uint_as_float((bits + 0x1000) & ~0x1fffu) : x;
}

float from_half(unsigned short half) {
    int exponent = half >> 10 & 31, fraction = half & 0x3ff;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent == 0 ? std::ldexp((float)fraction, -24) : std::ldexp((float)(fraction | 0x400), exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

// C = alpha op(A) op(B) + beta C, operands read by `read`.
template <class T, class Read>
void product(bool ta, bool tb, size_t m, size_t n, size_t k, const T* a, size_t lda, const T* b, size_t ldb, float alpha, float beta, float* c, size_t ldc, Read read) {
    for (size_t column = 0; column < n; column++) {
        for (size_t row = 0; row < m; row++) {
            double sum = 0.0;
            for (size_t i = 0; i < k; i++) sum += (double)read(ta ? a[row * lda + i] : a[i * lda + row]) * (double)read(tb ? b[i * ldb + column] : b[column * ldb + i]);
            float& to = c[column * ldc + row];
            to = (float)((double)alpha * sum + (beta == 0.0f ? 0.0 : (double)beta * (double)to));
        }
    }
}

enum Kind { F32, TF32, F16 };

// The same of operands of a kind that is known when it runs.
void product_of(
    Kind kind, bool ta, bool tb, size_t m, size_t n, size_t k, const void* a, size_t lda, const void* b, size_t ldb, float alpha, float beta, float* c, size_t ldc
) {
    auto floats = [](const void* x) { return static_cast<const float*>(x); };
    auto halves = [](const void* x) { return static_cast<const unsigned short*>(x); };
    if (kind == F16) product(ta, tb, m, n, k, halves(a), lda, halves(b), ldb, alpha, beta, c, ldc, from_half);
    else if (kind == TF32) product(ta, tb, m, n, k, floats(a), lda, floats(b), ldb, alpha, beta, c, ldc, to_tf32);
    else product(ta, tb, m, n, k, floats(a), lda, floats(b), ldb, alpha, beta, c, ldc, [](float x) { return x; });
    check_guards();
}

}  // namespace

// The kernels wait here.
void __syncthreads() {
    at_barrier = true;
    leave();
}

#endif
