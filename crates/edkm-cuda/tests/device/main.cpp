// A device on the host: reads commands from standard input, holds memory, runs the kernels, and answers on standard output.
//
//   a BYTES                    -> ADDRESS          zeroed memory
//   u BYTES                    -> ADDRESS          memory that is not (of bytes 0xff: NaN as a float)
//   f ADDRESS                                      frees it
//   w ADDRESS BYTES, bytes                         writes
//   r ADDRESS BYTES            -> bytes            reads
//   l NAME BLOCKS COUNT, arguments of 8 bytes      launches a kernel
//   p KIND TA TB M N K A LDA B LDB SCALES BETA C LDC   a matrix product as cuBLAS has it, column-major, of KIND 0 f32, 1 TF32, 2 f16;
//                                                  alpha and beta stand at SCALES if that is not 0
//
// Numbers are decimal text in one line; bytes follow the line.

#include "machine.h"

int main() {
    auto kernels = all_kernels();
    char command;
    while (std::scanf(" %c", &command) == 1) {
        unsigned long long address = 0, len = 0;
        switch (command) {
        case 'a': {
            if (std::scanf("%llu", &len) != 1) fail("a command cut short");
            std::getchar();
            std::printf("%llu\n", (unsigned long long)allocate(len, 0));
            break;
        }
        case 'u': {
            if (std::scanf("%llu", &len) != 1) fail("a command cut short");
            std::getchar();
            std::printf("%llu\n", (unsigned long long)allocate(len, 0xff));
            break;
        }
        case 'f':
            if (std::scanf("%llu", &address) != 1) fail("a command cut short");
            std::getchar();
            release(address);
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
            std::vector<const void*> arguments;
            for (auto& bit : bits) arguments.push_back(&bit);
            kernel->second.run((unsigned int)blocks, arguments);
            break;
        }
        case 'p': {
            int kind, ta, tb;
            unsigned long long m, n, k, a, lda, b, ldb, scales, c, ldc;
            float beta;
            if (std::scanf("%d %d %d %llu %llu %llu %llu %llu %llu %llu %llu %f %llu %llu", &kind, &ta, &tb, &m, &n, &k, &a, &lda, &b, &ldb, &scales, &beta, &c, &ldc) != 14)
                fail("a command cut short");
            std::getchar();
            const float one[2] = {1.0f, beta}, *factors = scales == 0 ? one : reinterpret_cast<float*>(scales);
            product_of(
                (Kind)kind, ta, tb, m, n, k, reinterpret_cast<void*>(a), lda, reinterpret_cast<void*>(b), ldb, factors[0], factors[1], reinterpret_cast<float*>(c), ldc
            );
            break;
        }
        default:
            fail("an unknown command");
        }
        std::fflush(stdout);
    }
}
