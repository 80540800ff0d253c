// Runs CUDA kernels on a CPU: the functions of src/devices/cuda/kernels/device.cuh. A block's threads are
// fibers, which run between barriers in random order, or one warp as far ahead of the others as it can: a
// missing barrier shows as a wrong result. Shared memory is initialised with NaN and ends at an inaccessible
// page; asynchronous copies happen as late as allowed, or at once.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#define __device__
#define __host__
#define __launch_bounds__(...)
#define KERNEL(name) static void name
#define SHARED(name) unsigned char* name = emulator::shared_memory

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

[[noreturn]] inline void fail(const std::string& what) {
    fprintf(stderr, "emulator: %s (block %u %u %u, thread %u)\n", what.c_str(), blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x);
    fflush(stderr);
    _exit(1);
}

// Memory that ends at an inaccessible page, and starts behind bytes that must not change.
class Memory {
    unsigned char *pages, *data;
    size_t length, all;
    static constexpr size_t PAGE = 4096;

public:
    explicit Memory(size_t bytes) : length((bytes + 15) / 16 * 16) {
        all = (length + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
        pages = (unsigned char*)mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) fail("no memory");
        mprotect(pages + all - PAGE, PAGE, PROT_NONE);
        mprotect(pages, PAGE, PROT_NONE);
        data = pages + all - PAGE - length;
        memset(pages + PAGE, 0xA5, data - pages - PAGE);
        poison();
    }
    Memory(const Memory&) = delete;
    ~Memory() { munmap(pages, all); }
    void poison() { memset(data, 0xFF, length); }
    void check() const {
        for (unsigned char* p = pages + PAGE; p < data; p++)
            if (*p != 0xA5) fail("written before a buffer's start");
    }
    unsigned char* get() const { return data; }
};

static unsigned char* shared_memory;
static std::mt19937 random(1);

enum State { READY, BARRIER, TOGETHER, DONE };
struct Copy {
    void* to;
    const void* from;
};
struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started = false;
    State state = READY;
    const char* operation = nullptr; // the warp-wide operation it waits for
    const void* input = nullptr;
    void* output = nullptr;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    std::vector<char> stack;
};
static std::vector<Fiber> fibers;
static unsigned current;
static jmp_buf scheduler;
static std::function<void()> body;

inline void pause(State state) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
    if (!_setjmp(fiber.at)) _longjmp(scheduler, 1);
}

inline void enter() {
    body();
    if (!fibers[current].open.empty()) fail("copies are not committed");
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}

// Waits until all lanes of the warp have reached the same operation, which the last one performs for all.
inline void together(const char* operation, const void* input, void* output,
                     void (*all)(const void* const* inputs, void* const* outputs)) {
    Fiber& mine = fibers[current];
    mine.operation = operation, mine.input = input, mine.output = output;
    unsigned first = current / 32 * 32, waiting = 0;
    for (unsigned lane = first; lane < first + 32; lane++) waiting += fibers[lane].state == TOGETHER;
    if (waiting < 31) return pause(TOGETHER);
    const void* inputs[32];
    void* outputs[32];
    for (unsigned lane = 0; lane < 32; lane++) {
        Fiber& fiber = fibers[first + lane];
        if (strcmp(fiber.operation, operation)) fail(std::string("a warp's lanes disagree: ") + operation);
        inputs[lane] = fiber.input, outputs[lane] = fiber.output, fiber.state = READY;
    }
    all(inputs, outputs);
}

template <class F> void launch(dim3 grid, unsigned threads, size_t shared_bytes, F kernel) {
    if (threads % 32) fail("threads do not fill warps");
    body = kernel;
    gridDim = grid, blockDim = dim3{threads, 1, 1};
    Memory shared(shared_bytes);
    fibers.resize(threads);
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                shared.poison();
                shared_memory = shared.get();
                for (Fiber& fiber : fibers) {
                    fiber.started = false, fiber.state = READY;
                    fiber.groups.clear(), fiber.open.clear();
                    fiber.stack.resize(1 << 17);
                }
                // Either all take turns, or one warp runs as far ahead of the next as it can.
                std::vector<unsigned> ready, order(threads / 32);
                std::iota(order.begin(), order.end(), 0);
                std::shuffle(order.begin(), order.end(), random);
                bool ahead = random() % 2;
                for (;;) {
                    ready.clear();
                    unsigned at_barrier = 0, done = 0;
                    for (unsigned i = 0; i < threads; i++) {
                        if (fibers[i].state == READY) ready.push_back(i);
                        at_barrier += fibers[i].state == BARRIER, done += fibers[i].state == DONE;
                    }
                    if (done == threads) break;
                    if (ready.empty()) {
                        if (at_barrier < threads) fail("some threads wait for others that never come");
                        for (Fiber& fiber : fibers) fiber.state = READY;
                        continue;
                    }
                    if (ahead) {
                        for (unsigned warp : order) {
                            auto others = [&](unsigned i) { return i / 32 != warp; };
                            auto end = std::partition(ready.begin(), ready.end(), std::not_fn(others));
                            if (end == ready.begin()) continue;
                            ready.erase(end, ready.end());
                            break;
                        }
                    }
                    std::shuffle(ready.begin(), ready.end(), random);
                    for (unsigned next : ready) {
                        if (fibers[next].state != READY) continue;
                        current = next;
                        threadIdx.x = next;
                        Fiber& fiber = fibers[next];
                        if (_setjmp(scheduler)) continue;
                        if (fiber.started) _longjmp(fiber.at, 1);
                        fiber.started = true;
                        getcontext(&fiber.start);
                        fiber.start.uc_stack.ss_sp = fiber.stack.data();
                        fiber.start.uc_stack.ss_size = fiber.stack.size();
                        fiber.start.uc_link = nullptr;
                        makecontext(&fiber.start, enter, 0);
                        setcontext(&fiber.start);
                    }
                }
                shared.check();
            }
}

// A kernel with its arguments, as the driver receives them.
template <class... A, size_t... I> void call(void (*kernel)(A...), void** p, std::index_sequence<I...>) {
    kernel(*(A*)p[I]...);
}
template <class... A> void call(void (*kernel)(A...), void** p) { call(kernel, p, std::index_sequence_for<A...>()); }

inline void aligned(const void* p) {
    if ((uintptr_t)p % 16) fail("an address is not a multiple of 16");
}

} // namespace emulator

inline void __syncthreads() { emulator::pause(emulator::BARRIER); }

struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __int_as_float(int bits) { return __uint_as_float(bits); }
inline float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
inline float to_float(f16 x) {
    _Float16 y;
    memcpy(&y, &x.bits, 2);
    return (float)y;
}
inline void from_float(float x, bf16& y) {
    unsigned bits = __float_as_uint(x);
    y.bits = x != x ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline void from_float(float x, f16& y) {
    _Float16 z = (_Float16)x;
    memcpy(&y.bits, &z, 2);
}
// Rounds to nearest, ties away from zero; infinities and NaN stay.
inline unsigned to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7F800000) == 0x7F800000 ? bits : (bits + 0x1000) & ~0x1FFFu;
}

inline void copy16(void* to, const void* from) {
    emulator::aligned(to), emulator::aligned(from);
    if (emulator::random() % 2) {
        from ? memcpy(to, from, 16) : memset(to, 0, 16);
    } else {
        emulator::fibers[emulator::current].open.push_back({to, from});
    }
}
inline void copies_commit() {
    emulator::Fiber& fiber = emulator::fibers[emulator::current];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}
template <int N> void copies_wait() {
    emulator::Fiber& fiber = emulator::fibers[emulator::current];
    while (fiber.groups.size() > N) {
        for (emulator::Copy copy : fiber.groups.front())
            copy.from ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
        fiber.groups.erase(fiber.groups.begin());
    }
}

namespace emulator {
template <bool transposed> void matrices(const void* const* rows, void* const* to) {
    for (int i = 0; i < 4; i++)
        for (int lane = 0; lane < 32; lane++) {
            unsigned short element[2];
            for (int j = 0; j < 2; j++) {
                int row = lane / 4, column = lane % 4 * 2 + j;
                if (transposed) std::swap(row, column);
                aligned(rows[8 * i + row]);
                element[j] = ((const unsigned short*)rows[8 * i + row])[column];
            }
            ((unsigned*)to[lane])[i] = element[0] | (unsigned)element[1] << 16;
        }
}
struct Product {
    const unsigned *a, *b;
};
template <class E> float element(unsigned both, int which) {
    E x;
    x.bits = which ? both >> 16 : both & 0xFFFF;
    return to_float(x);
}
template <> inline float element<float>(unsigned bits, int) {
    if (bits & 0x1FFF && (bits & 0x7F800000) != 0x7F800000) fail("an operand is not rounded to TF32");
    return __uint_as_float(bits);
}
// The operands of a warp's matrix product, as lanes hold them.
template <class E> struct Operands {
    static constexpr int DEPTH = sizeof(E) == 2 ? 16 : 8;
    float a[16][DEPTH], b[DEPTH][8];
    Operands(const void* const* inputs) {
        constexpr int EACH = DEPTH / 8; // elements per register
        for (int lane = 0; lane < 32; lane++) {
            const Product& in = *(const Product*)inputs[lane];
            int g = lane / 4, t = lane % 4;
            for (int j = 0; j < EACH; j++)
                for (int half = 0; half < 2; half++) {
                    int k = t * EACH + half * DEPTH / 2 + j;
                    a[g][k] = element<E>(in.a[2 * half], j), a[g + 8][k] = element<E>(in.a[2 * half + 1], j);
                    b[k][g] = element<E>(in.b[half], j);
                }
        }
    }
};
template <class E> void product(const void* const* inputs, void* const* outputs) {
    Operands<E> in(inputs);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            float sum = 0;
            for (int k = 0; k < in.DEPTH; k++) sum += in.a[lane / 4 + i / 2 * 8][k] * in.b[k][lane % 4 * 2 + i % 2];
            ((float*)outputs[lane])[i] += sum;
        }
}
} // namespace emulator

inline void load_matrices(unsigned (&to)[4], const void* row) {
    emulator::together("load_matrices", row, to, emulator::matrices<false>);
}
inline void load_matrices_transposed(unsigned (&to)[4], const void* row) {
    emulator::together("load_matrices_transposed", row, to, emulator::matrices<true>);
}
template <class E> void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], E) {
    emulator::Product in{a, b};
    emulator::together("multiply", &in, c, emulator::product<E>);
}
