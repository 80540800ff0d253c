// Any convolution against sums in f64: dense, grouped, depthwise, strided, dilated, padded or not.
#include "harness.h"

struct Case {
    int batch, groups, group_in, group_out, h, w, kernel_h, kernel_w, stride, padding, dilation;
};
static const std::vector<Case> CASES = {
    {2, 1, 3, 70, 9, 8, 7, 7, 2, 3, 1}, // a stem
    {1, 1, 67, 66, 3, 5, 1, 1, 1, 0, 1},
    {3, 4, 5, 3, 6, 7, 3, 3, 1, 1, 1},
    {2, 9, 1, 1, 8, 9, 3, 3, 2, 1, 1},  // depthwise
    {1, 2, 16, 80, 7, 7, 3, 3, 1, 0, 2},
    {2, 3, 4, 2, 5, 6, 2, 3, 3, 2, 1},
    {1, 1, 8, 8, 5, 5, 1, 1, 2, 0, 1},  // skips pixels
    {2, 2, 64, 64, 4, 4, 3, 3, 1, 1, 1},
};

namespace sums {
#define OUTPUT float
#include "../../src/devices/cuda/kernels/sum_parts.cu"
}

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define ELEMENT float
#define WEIGHT float
#include "conv_directions.inc"
#undef ELEMENT
#define ELEMENT bf16
#include "conv_directions.inc"
#undef ELEMENT
#undef WEIGHT
#define ELEMENT f16
#define WEIGHT f16
#include "conv_directions.inc"

int main() {
    for (auto check : all_checks()) check();
    return verdict();
}
