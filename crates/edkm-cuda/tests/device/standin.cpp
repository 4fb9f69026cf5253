// A stand-in for the CUDA driver, NVRTC and cuBLAS on a machine without a GPU: what the crates call of them, on the device of machine.h. Kernels of
// this crate run as they do in the simulator, compiled for the host; of dfdx's own there is `axpy_f32`, others are not found. Fresh memory holds
// NaN, so that what nobody has written shows. scripts/cuda-on-host.sh builds it.

#include "machine.h"

#include <mutex>

namespace {

enum { OK = 0, INVALID_VALUE = 1, INVALID_DEVICE = 101, NOT_FOUND = 500 };

// One call at a time, on whatever thread.
std::recursive_mutex turn;
#define IN_TURN std::lock_guard<std::recursive_mutex> lock(turn)

// dfdx's a <- a alpha + b beta.
void axpy_f32(size_t len, float* a, float alpha, const float* b, float beta) {
    for (size_t i = 0; i < len; i++) a[i] = a[i] * alpha + b[i] * beta;
}

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all = [] {
        auto all = all_kernels();
        all["axpy_f32"] = Kernel{5, [](unsigned int, const std::vector<const void*>& from) {
            axpy_f32(argument<size_t>(from[0]), argument<float*>(from[1]), argument<float>(from[2]), argument<const float*>(from[3]), argument<float>(from[4]));
            check_guards();
        }};
        return all;
    }();
    return all;
}

// Whether so many bytes from there on were allocated, in one piece.
bool is_memory(uint64_t address, size_t len) {
    auto next = memory.upper_bound(address);
    if (next == memory.begin()) return false;
    auto [first, size] = *std::prev(next);
    return address + len <= first + size;
}

int copy(uint64_t device, size_t len, void* to, const void* from) {
    IN_TURN;
    if (!is_memory(device, len)) return INVALID_VALUE;
    std::memmove(to, from, len);
    return OK;
}

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

int handle;

}  // namespace

extern "C" {

int cuInit(unsigned int) { return OK; }
int cuDeviceGetCount(int* count) { return *count = 1, OK; }
int cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, OK) : INVALID_DEVICE; }
// compute capability 9.0, memory pools
int cuDeviceGetAttribute(int* value, int attribute, int) { return *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1, OK; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &handle, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void*) { return OK; }
int cuCtxGetCurrent(void** context) { return *context = &handle, OK; }
int cuCtxSynchronize() { return OK; }
int cuGetErrorName(int, const char** name) { return *name = "an error of the stand-in", OK; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the stand-in", OK; }
int cuStreamCreate(void** stream, unsigned int) { return *stream = &handle, OK; }
int cuStreamSynchronize(void*) { return OK; }
int cuStreamDestroy_v2(void*) { return OK; }
int cuStreamWaitEvent(void*, void*, unsigned int) { return OK; }
int cuEventCreate(void** event, unsigned int) { return *event = &handle, OK; }
int cuEventRecord(void*, void*) { return OK; }
int cuEventDestroy_v2(void*) { return OK; }
int cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &handle, OK; }
int cuMemPoolSetAttribute(void*, int attribute, void*) { return attribute == 4 ? OK : INVALID_VALUE; }

int cuMemAlloc_v2(uint64_t* address, size_t len) {
    IN_TURN;
    // dfdx asks for an empty workspace
    *address = allocate(len, 0xff);
    return OK;
}
int cuMemAllocAsync(uint64_t* address, size_t len, void*) { return cuMemAlloc_v2(address, len); }
int cuMemFree_v2(uint64_t address) {
    IN_TURN;
    if (address != 0) release(address);
    return OK;
}
int cuMemFreeAsync(uint64_t address, void*) { return cuMemFree_v2(address); }
int cuMemsetD8_v2(uint64_t address, unsigned char byte, size_t len) {
    IN_TURN;
    if (len == 0) return OK;
    if (!is_memory(address, len)) return INVALID_VALUE;
    std::memset(pointer(address), byte, len);
    return OK;
}
int cuMemsetD8Async(uint64_t address, unsigned char byte, size_t len, void*) { return cuMemsetD8_v2(address, byte, len); }
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t len) { return copy(to, len, pointer(to), from); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t len, void*) { return cuMemcpyHtoD_v2(to, from, len); }
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t len) { return copy(from, len, to, pointer(from)); }
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t len, void*) { return cuMemcpyDtoH_v2(to, from, len); }
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t len) {
    IN_TURN;
    return is_memory(to, len) ? copy(from, len, pointer(to), pointer(from)) : INVALID_VALUE;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t len, void*) { return cuMemcpyDtoD_v2(to, from, len); }

// All kernels are here whatever is loaded.
int cuModuleLoadData(void** module, const void*) { return *module = &handle, OK; }
int cuModuleLoad(void** module, const char*) { return *module = &handle, OK; }
int cuModuleUnload(void*) { return OK; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    IN_TURN;
    auto kernel = kernels().find(name);
    if (kernel == kernels().end()) return NOT_FOUND;
    *function = &kernel->second;
    return OK;
}
int cuLaunchKernel(
    void* function, unsigned int grid, unsigned int, unsigned int, unsigned int threads, unsigned int, unsigned int, unsigned int, void*, void** arguments, void**
) {
    IN_TURN;
    auto kernel = static_cast<Kernel*>(function);
    if (kernel->arguments != 5 && threads != THREADS) fail("a launch with another number of threads");
    kernel->run(grid, std::vector<const void*>(arguments, arguments + kernel->arguments));
    return OK;
}

int nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*, const char* const*) {
    // what is compiled must be what stands here
    if (std::string(source).find("edkm_digest") == std::string::npos) return INVALID_VALUE;
    return *program = &handle, OK;
}
int nvrtcCompileProgram(void*, int, const char* const*) { return OK; }
int nvrtcDestroyProgram(void**) { return OK; }
int nvrtcGetPTXSize(void*, size_t* len) { return *len = 8, OK; }
int nvrtcGetPTX(void*, char* text) { return std::strcpy(text, "standin"), OK; }
int nvrtcGetProgramLogSize(void*, size_t* len) { return *len = 1, OK; }
int nvrtcGetProgramLog(void*, char* text) { return *text = 0, OK; }

int cublasCreate_v2(void** blas) { return *blas = &handle, OK; }
int cublasDestroy_v2(void*) { return OK; }
int cublasSetStream_v2(void*, void*) { return OK; }
int cublasSetMathMode(void*, int) { return OK; }
int cublasSgemm_v2(
    void*, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc
) {
    IN_TURN;
    if (*alpha != 1.0f) return INVALID_VALUE;
    product(ta == 1, tb == 1, m, n, k, a, lda, b, ldb, *beta, c, ldc);
    check_guards();
    return OK;
}
}
