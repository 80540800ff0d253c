// What the checks share: seeded tensors in guarded memory, and the comparison of results.
#pragma once
#include "emulator.h"
#include "../../src/devices/cuda/kernels/common.cuh"
#include <cmath>

inline const char* name_of(float) { return "f32"; }
inline const char* name_of(bf16) { return "bf16"; }
inline const char* name_of(f16) { return "f16"; }
inline double rounding(float) { return 0x1p-24; }
inline double rounding(bf16) { return 0x1p-8; }
inline double rounding(f16) { return 0x1p-11; }

template <class E> struct Buffer {
    size_t length;
    emulator::Memory memory;
    explicit Buffer(size_t length) : length(length), memory(length * sizeof(E)) {}
    E* get() const { return (E*)memory.get(); }
    double operator[](size_t i) const { return to_float(get()[i]); }
    Buffer& fill(unsigned seed, double low = -1, double high = 1) {
        std::mt19937 random(seed);
        std::uniform_real_distribution<double> any(low, high);
        for (size_t i = 0; i < length; i++) from_float((float)any(random), get()[i]);
        return *this;
    }
};

static int checks, failures;

// Checks register themselves here when they are included.
inline std::vector<void (*)()>& all_checks() {
    static std::vector<void (*)()> all;
    return all;
}

// An element of a result as a sum in f64, and the sum of its terms' magnitudes, which bounds the rounding error in f32.
struct Terms {
    double sum = 0, size = 0;
    void add(double a, double b) { sum += a * b, size += std::fabs(a * b); }
};

// Compares with sums in f64.
template <class E, class Expected> void compare(const std::string& what, const Buffer<E>& got, Expected expected_terms) {
    got.memory.check();
    double worst = 0, wanted = 0;
    size_t at = 0;
    for (size_t i = 0; i < got.length; i++) {
        Terms expected = expected_terms(i);
        double bound = 1.01 * rounding(E()) * std::fabs(expected.sum) + 32 * 0x1p-24 * expected.size + 1e-30;
        double error = std::fabs(got[i] - expected.sum) / bound;
        if (!(error <= worst)) worst = std::isnan(error) ? 1e300 : error, at = i, wanted = expected.sum;
    }
    checks++;
    if (worst > 1) {
        failures++;
        printf("FAILED %s: element %zu is %g, expected %g\n", what.c_str(), at, got[at], wanted);
    }
}

template <class E, class Value, class Size>
void compare(const std::string& what, const Buffer<E>& got, Value value, Size size) {
    compare(what, got, [&](size_t i) { return Terms{value(i), size(i)}; });
}

inline int verdict() {
    printf("%d passed, %d failed\n", checks - failures, failures);
    return failures != 0;
}
