// A stand-in for Metal's standard library with which a C++17 compiler accepts grouped.metal without its
// [[attributes]]. A threadgroup's threads are fibers that take turns between barriers.

#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define device
#define threadgroup
#define constant const
#define kernel static
#define __HAVE_BFLOAT__ 1

typedef unsigned int uint;
struct uint3 {
    uint x, y, z;
};

// IEEE half precision, converted through the bits of a float.
struct half {
    uint16_t bits;
    half() = default;
    explicit half(float value) {
        uint32_t b;
        std::memcpy(&b, &value, 4);
        const uint32_t sign = b >> 16 & 0x8000;
        b &= 0x7fffffff;
        if (b > 0x7f800000) {
            bits = uint16_t(sign | 0x7e00); // NaN
        } else if (b >= 0x477ff000) {
            bits = uint16_t(sign | 0x7c00); // rounds to infinity
        } else if (b < 0x38800000) {
            // Subnormal: adding a constant rounds it.
            float f, magic = 0.5f;
            std::memcpy(&f, &b, 4);
            f += magic;
            std::memcpy(&b, &f, 4);
            bits = uint16_t(sign | (b - 0x3f000000));
        } else {
            b += 0xc8000fff + (b >> 13 & 1); // rebias the exponent, round to even
            bits = uint16_t(sign | b >> 13);
        }
    }
    explicit operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000) << 16;
        const uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
        float magnitude;
        if (exponent == 31) {
            const uint32_t b = 0x7f800000 | fraction << 13;
            std::memcpy(&magnitude, &b, 4);
        } else if (exponent == 0) {
            magnitude = float(fraction) / 16777216.0f;
        } else {
            const uint32_t b = (exponent + 112) << 23 | fraction << 13;
            std::memcpy(&magnitude, &b, 4);
        }
        return sign ? -magnitude : magnitude;
    }
};

struct bfloat {
    uint16_t bits;
    bfloat() = default;
    explicit bfloat(float value) {
        uint32_t b;
        std::memcpy(&b, &value, 4);
        const bool nan = (b & 0x7fffffff) > 0x7f800000;
        bits = nan ? uint16_t(b >> 16 | 64) : uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16);
    }
    explicit operator float() const {
        const uint32_t b = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &b, 4);
        return value;
    }
};

namespace emulator {

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false, waits = false;
};

static ucontext_t scheduler;
static Fiber* running = nullptr;
static std::function<void(uint3)> body;
static uint3 place;

static void enter() {
    body(place);
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

// Runs one threadgroup, with threads in order or, if `backwards`, from the last to the first.
static void run_threadgroup(uint3 threads, bool backwards) {
    const uint count = threads.x * threads.y * threads.z;
    static std::vector<Fiber> fibers;
    fibers.resize(count);
    for (auto& fiber : fibers) {
        fiber.stack.resize(1 << 16);
        fiber.done = fiber.waits = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    for (uint left = count; left > 0;) {
        uint waiting = 0;
        for (uint i = 0; i < count; i++) {
            const uint at = backwards ? count - 1 - i : i;
            Fiber& fiber = fibers[at];
            if (fiber.done) {
                continue;
            }
            running = &fiber;
            fiber.waits = false;
            place = {at % threads.x, at / threads.x % threads.y, at / threads.x / threads.y};
            swapcontext(&scheduler, &fiber.context);
            left -= fiber.done;
            waiting += fiber.waits;
        }
        // On a GPU, behaviour is undefined if some threads never reach a barrier.
        if (waiting > 0 && left < count) {
            std::fprintf(stderr, "a barrier was not reached by all threads\n");
            std::exit(3);
        }
    }
}

} // namespace emulator

namespace metal {
using std::min;
enum class mem_flags { mem_threadgroup };
inline void threadgroup_barrier(mem_flags) {
    emulator::running->waits = true;
    swapcontext(&emulator::running->context, &emulator::scheduler);
}
} // namespace metal
