// Batch norm, pooling, element-wise operations, cross-entropy and the optimizer's step against f64.
#include "harness.h"
#include <memory>

static dim3 blocks(size_t count, unsigned threads) { return dim3{unsigned((count + threads - 1) / threads)}; }

#define JOIN_(a, b, c, d) a##_##b##_##c##_##d
#define JOIN(a, b, c, d) JOIN_(a, b, c, d)
#define NORM_(a, b) norm_##a##_##b
#define NORM(a, b) NORM_(a, b)

#define ELEMENT float
#define PARAMETER float
#define WIDTH 1
#define POSITION u32
#include "others_kernels.inc"
#undef WIDTH
#undef POSITION
#define WIDTH 4
#define POSITION u8
#include "others_kernels.inc"
#undef WIDTH
#undef ELEMENT
#define ELEMENT bf16
#define WIDTH 8
#include "others_kernels.inc"
#undef ELEMENT
#undef PARAMETER
#define ELEMENT f16
#define PARAMETER f16
#include "others_kernels.inc"

namespace optimizer {
#include "../../src/devices/cuda/kernels/sgd.cu"

static void check() {
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        std::vector<size_t> lengths = {5000, 1, 4096, 8193};
        std::vector<std::unique_ptr<Buffer<float>>> all;
        std::vector<std::vector<double>> before;
        emulator::Memory table(sizeof(Parameter) * lengths.size());
        Parameter* parameters = (Parameter*)table.get();
        i64 first = 0;
        for (size_t p = 0; p < lengths.size(); p++) {
            for (int i = 0; i < 4; i++) {
                all.push_back(std::make_unique<Buffer<float>>(lengths[p]));
                all.back()->fill(10 * p + i);
                before.emplace_back();
                for (size_t k = 0; k < lengths[p]; k++) before.back().push_back((*all.back())[k]);
            }
            float* average = p == 1 ? nullptr : all[4 * p + 3]->get();
            const float* gradient = p == 2 ? nullptr : all[4 * p + 2]->get();
            parameters[p] = {all[4 * p]->get(), all[4 * p + 1]->get(), gradient, average, i64(lengths[p]), first};
            first += (lengths[p] + BLOCK - 1) / BLOCK;
        }
        double lr = 0.1f, momentum = 0.9f, decay = 5e-4f, keep = 0.99f;
        emulator::launch(dim3{unsigned(first)}, THREADS, 0,
                         [&] { sgd(parameters, lengths.size(), lr, momentum, decay, keep, nesterov); });
        for (size_t p = 0; p < lengths.size(); p++) {
            auto buffer = [&](size_t i) { return p == 2 ? before[4 * p + 1][i] : momentum * before[4 * p + 1][i] + before[4 * p + 2][i] + decay * before[4 * p][i]; };
            auto value = [&](size_t i) {
                if (p == 2) return before[4 * p][i];
                double g = before[4 * p + 2][i] + decay * before[4 * p][i];
                return before[4 * p][i] - lr * (nesterov ? g + momentum * buffer(i) : buffer(i));
            };
            auto average = [&](size_t i) { return p == 1 ? before[4 * p + 3][i] : keep * before[4 * p + 3][i] + (1 - keep) * value(i); };
            auto four = [](size_t) { return 4.0; };
            compare("sgd's momentum", *all[4 * p + 1], buffer, four);
            compare("sgd's value", *all[4 * p], value, four);
            compare("sgd's average", *all[4 * p + 3], average, four);
        }
    }
}
static bool registered = (all_checks().push_back(check), true);
}

int main() {
    for (auto check : all_checks()) check();
    return verdict();
}
