// A stand-in for the CUDA driver, NVRTC and cuBLAS on a machine without a GPU: what the crates call of them, on the device of machine.h. Kernels of
// this crate run as they do in the simulator, compiled for the host; of dfdx's own there is `axpy_f32`, others are not found. Fresh memory holds
// NaN, so that what nobody has written shows. scripts/cuda-on-host.sh builds it.
//
// EDKM_STANDIN_STREAMS says when a stream does what it was given:
//   in-turn       at once
//   late-copies   streams other than the null stream not before somebody waits for it: the null stream runs far ahead of them
//   late-kernels  the null stream not before somebody waits for it: the others run far ahead of it
//   late          all streams not before somebody waits for them: the host runs far ahead
// So a wait that is missing shows: what comes late is NaN until it has come, and memory that is freed too early fails.

#include "machine.h"

#include <algorithm>
#include <deque>
#include <mutex>

namespace {

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500, NOT_READY = 600 };

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
bool is_in(const std::map<uint64_t, size_t>& all, uint64_t address, size_t len) {
    auto next = all.upper_bound(address);
    if (next == all.begin()) return false;
    auto [first, size] = *std::prev(next);
    return address + len <= first + size;
}
bool is_memory(uint64_t address, size_t len) { return is_in(memory, address, len); }

// What the pool has given and not taken back, at its most.
std::map<uint64_t, size_t> pooled;
uint64_t pool_peak = 0;
uint64_t pool_used() {
    uint64_t used = 0;
    for (auto& [address, len] : pooled) used += len;
    return used;
}
// What the pool holds, in use or not: told to keep what is freed, the most that it ever had.
bool pool_keeps = false;
uint64_t pool_most = 0;
uint64_t pool_reserved() { return pool_keeps ? pool_most : pool_used(); }
// What was given back in a stream that has not come so far.
uint64_t pool_pending = 0;

// Page-locked memory of the host.
std::map<uint64_t, size_t> locked;
bool is_locked(const void* address, size_t len) { return is_in(locked, reinterpret_cast<uint64_t>(address), len); }

// What was given to a stream, in order, and how much of it is done.
struct Stream {
    bool late;
    std::deque<std::function<void()>> waiting;
    uint64_t given = 0, done = 0;

    // Does what was given first, up to so much.
    void advance(uint64_t to) {
        while (done < to) {
            auto next = std::move(waiting.front());
            waiting.pop_front();
            next();
            done++;
        }
    }
    void drain() { advance(given); }
    void give(std::function<void()> work) {
        waiting.push_back(std::move(work));
        given++;
        if (!late) drain();
    }
};

bool streams_are(const char* how) {
    const char* wanted = std::getenv("EDKM_STANDIN_STREAMS");
    std::string all = " in-turn late-copies late-kernels late ";
    if (wanted != nullptr && all.find(" " + std::string(wanted) + " ") == std::string::npos) fail("EDKM_STANDIN_STREAMS is in-turn, late-copies, late-kernels or late");
    return wanted != nullptr && (std::string(wanted) == how || std::string(wanted) == "late");
}

Stream null_stream{streams_are("late-kernels"), {}};
std::vector<Stream*> streams{&null_stream};

Stream& stream_of(void* handle) { return handle == nullptr ? null_stream : *static_cast<Stream*>(handle); }

void drain_all() {
    for (auto stream : streams) stream->drain();
}

// Where a stream stood when the event was recorded.
struct Event {
    Stream* stream = nullptr;
    uint64_t at = 0;
    bool was_asked = false;
};

// A copy that a stream is to make. One from or to ordinary memory is made at once, behind what the stream was given.
int copy_later(void* handle, uint64_t device, const void* host, size_t len, void* to, const void* from) {
    Stream& stream = stream_of(handle);
    if (!is_memory(device, len)) return INVALID_VALUE;
    if (!is_locked(host, len)) {
        stream.drain();
        std::memmove(to, from, len);
        return OK;
    }
    // what was there is no longer to be had, and what comes is not yet
    if (stream.late) std::memset(to, 0xff, len);
    stream.give([=] {
        if (!is_memory(device, len)) fail("memory of the GPU that was freed before it was copied");
        if (!is_locked(host, len)) fail("page-locked memory that was freed before it was copied");
        std::memmove(to, from, len);
        check_guards();
    });
    return OK;
}

int copy(uint64_t device, size_t len, void* to, const void* from) {
    null_stream.drain();
    if (!is_memory(device, len)) return INVALID_VALUE;
    std::memmove(to, from, len);
    return OK;
}

size_t memory_bytes() {
    static const char* said = std::getenv("EDKM_STANDIN_MEMORY");
    return said == nullptr ? (size_t)1 << 40 : std::strtoull(said, nullptr, 10);
}

// Bytes that nobody uses.
size_t room() {
    size_t room = memory_bytes();
    for (auto& [address, len] : memory) room -= len;
    return room;
}

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

struct Blas {
    bool factors_on_device = false;
};

int handle;

}  // namespace

extern "C" {

int cuInit(unsigned int) { return OK; }
int cuDriverGetVersion(int* version) { return *version = 13000, OK; }
int cuDeviceGetCount(int* count) { return *count = 1, OK; }
int cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, OK) : INVALID_DEVICE; }
// compute capability 9.0, memory pools
int cuDeviceGetAttribute(int* value, int attribute, int) { return *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1, OK; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &handle, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void*) { return OK; }
int cuCtxGetCurrent(void** context) { return *context = &handle, OK; }
int cuCtxSynchronize() {
    IN_TURN;
    return drain_all(), OK;
}
int cuGetErrorName(int, const char** name) { return *name = "an error of the stand-in", OK; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the stand-in", OK; }
int cuStreamCreate(void** stream, unsigned int flags) {
    IN_TURN;
    if (flags != 1) fail("a stream that waits for the null stream");
    streams.push_back(new Stream{streams_are("late-copies"), {}});
    return *stream = streams.back(), OK;
}
int cuStreamSynchronize(void* stream) {
    IN_TURN;
    return stream_of(stream).drain(), OK;
}
int cuStreamDestroy_v2(void* stream) { return cuStreamSynchronize(stream); }
int cuStreamWaitEvent(void* stream, void* event, unsigned int) {
    IN_TURN;
    auto [other, at, was_asked] = *static_cast<Event*>(event);
    if (other == nullptr || other == &stream_of(stream)) return OK;
    stream_of(stream).give([other = other, at = at] { other->advance(at); });
    return OK;
}
int cuEventCreate(void** event, unsigned int) { return *event = new Event, OK; }
int cuEventRecord(void* event, void* stream) {
    IN_TURN;
    *static_cast<Event*>(event) = Event{&stream_of(stream), stream_of(stream).given, false};
    return OK;
}
int cuEventSynchronize(void* event) {
    IN_TURN;
    auto self = static_cast<Event*>(event);
    if (self->stream != nullptr) self->stream->advance(self->at);
    return OK;
}
// What is not done is done the second time that somebody asks.
int cuEventQuery(void* event) {
    IN_TURN;
    auto self = static_cast<Event*>(event);
    if (self->stream == nullptr || self->stream->done >= self->at) return OK;
    if (self->was_asked) return cuEventSynchronize(event);
    return self->was_asked = true, NOT_READY;
}
int cuEventDestroy_v2(void* event) {
    IN_TURN;
    return delete static_cast<Event*>(event), OK;
}
int cuMemHostAlloc(void** address, size_t len, unsigned int) {
    IN_TURN;
    *address = std::malloc(len);
    std::memset(*address, 0xff, len);
    locked[reinterpret_cast<uint64_t>(*address)] = len;
    return OK;
}
int cuMemFreeHost(void* address) {
    IN_TURN;
    if (locked.erase(reinterpret_cast<uint64_t>(address)) == 0) fail("page-locked memory that is freed twice");
    return std::free(address), OK;
}
int cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &handle, OK; }
// 4: how much is kept free, 5: what the pool holds, 7: what is used, 8: the most that was, which can be set to zero alone
int cuMemPoolSetAttribute(void*, int attribute, void* value) {
    IN_TURN;
    if (attribute == 4) return pool_keeps = *static_cast<uint64_t*>(value) == UINT64_MAX, OK;
    if (attribute != 8 || *static_cast<uint64_t*>(value) != 0) return INVALID_VALUE;
    return pool_peak = pool_used(), OK;
}
int cuMemPoolGetAttribute(void*, int attribute, void* value) {
    IN_TURN;
    if (attribute != 5 && attribute != 7 && attribute != 8) return INVALID_VALUE;
    return *static_cast<uint64_t*>(value) = attribute == 5 ? pool_reserved() : attribute == 7 ? pool_used() : pool_peak, OK;
}

// EDKM_STANDIN_MEMORY: bytes of the device, 1 TiB without it. What the pool holds is taken, in use or not.
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    IN_TURN;
    *total = memory_bytes();
    *free = room() - (pool_reserved() - std::min(pool_reserved(), pool_used() + pool_pending));
    return OK;
}
int cuMemAlloc_v2(uint64_t* address, size_t len) {
    IN_TURN;
    if (len > room()) return OUT_OF_MEMORY;
    // dfdx asks for an empty workspace
    *address = allocate(len, 0xff);
    return OK;
}
int cuMemAllocAsync(uint64_t* address, size_t len, void*) {
    IN_TURN;
    if (int failed = cuMemAlloc_v2(address, len)) return failed;
    pooled[*address] = len;
    pool_most = std::max(pool_most, pool_used());
    return pool_peak = std::max(pool_peak, pool_used()), OK;
}
int cuMemFree_v2(uint64_t address) {
    IN_TURN;
    drain_all();
    if (address != 0) release(address);
    return OK;
}
int cuMemFreeAsync(uint64_t address, void* stream) {
    IN_TURN;
    if (address == 0) return OK;
    // who asks for memory in the same stream may have this from now on
    size_t len = pooled[address];
    pooled.erase(address);
    pool_pending += len;
    stream_of(stream).give([=] {
        release(address);
        pool_pending -= len;
    });
    return OK;
}
int cuMemsetD8Async(uint64_t address, unsigned char byte, size_t len, void* stream) {
    IN_TURN;
    if (len == 0) return OK;
    if (!is_memory(address, len)) return INVALID_VALUE;
    stream_of(stream).give([=] { std::memset(pointer(address), byte, len); });
    return OK;
}
int cuMemsetD8_v2(uint64_t address, unsigned char byte, size_t len) { return cuMemsetD8Async(address, byte, len, nullptr); }
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t len) {
    IN_TURN;
    return copy(to, len, pointer(to), from);
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t len) {
    IN_TURN;
    return copy(from, len, to, pointer(from));
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t len, void* stream) {
    IN_TURN;
    return copy_later(stream, to, from, len, pointer(to), from);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t len, void* stream) {
    IN_TURN;
    return copy_later(stream, from, to, len, to, pointer(from));
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t len, void* stream) {
    IN_TURN;
    if (!is_memory(to, len) || !is_memory(from, len)) return INVALID_VALUE;
    stream_of(stream).give([=] { std::memmove(pointer(to), pointer(from), len); });
    return OK;
}
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t len) { return cuMemcpyDtoDAsync_v2(to, from, len, nullptr); }

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
    void* function, unsigned int grid, unsigned int, unsigned int, unsigned int threads, unsigned int, unsigned int, unsigned int, void* stream, void** arguments, void**
) {
    IN_TURN;
    auto kernel = static_cast<Kernel*>(function);
    bool is_axpy = kernel == &kernels()["axpy_f32"];
    if (!is_axpy && threads != THREADS) fail("a launch with another number of threads");
    // this crate's arguments are of 8 bytes each; dfdx's numbers are of 4
    std::vector<uint64_t> values(kernel->arguments);
    for (size_t i = 0; i < values.size(); i++) std::memcpy(&values[i], arguments[i], is_axpy && (i == 2 || i == 4) ? 4 : 8);
    stream_of(stream).give([=] {
        std::vector<const void*> from;
        for (auto& value : values) from.push_back(&value);
        kernel->run(grid, from);
    });
    return OK;
}

int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, OK; }
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

int cublasCreate_v2(void** blas) { return *blas = new Blas, OK; }
int cublasDestroy_v2(void* blas) { return delete static_cast<Blas*>(blas), OK; }
int cublasSetStream_v2(void*, void*) { return OK; }
int cublasSetPointerMode_v2(void* blas, int mode) { return static_cast<Blas*>(blas)->factors_on_device = mode == 1, OK; }
int cublasGemmEx(
    void* blas, int ta, int tb, int m, int n, int k, const float* alpha, const void* a, int type_a, int lda, const void* b, int type_b, int ldb,
    const float* beta, float* c, int type_c, int ldc, int compute, int
) {
    IN_TURN;
    // CUDA_R_32F is 0, CUDA_R_16F 2; CUBLAS_COMPUTE_32F 68, with TF32 77
    if (type_a != type_b || type_c != 0 || !((type_a == 0 && (compute == 68 || compute == 77)) || (type_a == 2 && compute == 68))) return INVALID_VALUE;
    Kind kind = type_a == 2 ? F16 : compute == 77 ? TF32 : F32;
    if (static_cast<Blas*>(blas)->factors_on_device) {
        if (!is_memory(reinterpret_cast<uint64_t>(alpha), 4) || !is_memory(reinterpret_cast<uint64_t>(beta), 4)) return INVALID_VALUE;
        null_stream.give([=] { product_of(kind, ta == 1, tb == 1, m, n, k, a, lda, b, ldb, *alpha, *beta, c, ldc); });
    } else {
        null_stream.give([=, alpha = *alpha, beta = *beta] { product_of(kind, ta == 1, tb == 1, m, n, k, a, lda, b, ldb, alpha, beta, c, ldc); });
    }
    return OK;
}
// dfdx's own products, which stand behind kernels of its that are not here: not supported
int cublasSgemm_v2(void*, int, int, int, int, int, const float*, const float*, int, const float*, int, const float*, float*, int) { return 15; }
int cublasSgemmStridedBatched(
    void*, int, int, int, int, int, const float*, const float*, int, long long, const float*, int, long long, const float*, float*, int, long long, int
) {
    return 15;
}
}
