// Grouped 3×3 against sums in f64, in all element types, group sizes, strides and directions.
#include "harness.h"
#include "../../src/devices/cuda/kernels/window.cuh"

struct Case {
    int n, groups, h, w, strip_h, strip_w, rows;
};
static const std::vector<Case> CASES = {
    {1, 2, 5, 6, 5, 6, 1},   // one strip
    {2, 3, 7, 7, 7, 7, 7},   // all rows at once
    {3, 18, 9, 5, 4, 3, 2},  // strips that do not divide the image, more than 64 channels
    {1, 16, 12, 21, 6, 20, 3},
    {1, 2, 1, 1, 1, 1, 1},
};

// E as the tensor cores multiply it.
template <class E, bool tf32> double multiplied(double x) {
    return tf32 ? __uint_as_float(to_tf32((float)x)) : to_float(rounded<E>((float)x));
}

template <class E, class W, bool tf32> struct Tensors {
    int n, channels, group, stride, h, w, oh, ow;
    Buffer<E> x, g;
    Buffer<W> weight;
    Tensors(const Case& c, int group, int stride)
        : n(c.n), channels(c.groups * group), group(group), stride(stride), h(c.h), w(c.w), oh((h - 1) / stride + 1),
          ow((w - 1) / stride + 1), x(size_t(n) * h * w * channels), g(size_t(n) * oh * ow * channels),
          weight(size_t(channels) * group * 9) {
        x.fill(1), g.fill(2), weight.fill(3);
    }
    double weight_at(int out, int in, int tap) const {
        return multiplied<E, tf32>(weight[(size_t(out) * group + in % group) * 9 + tap]);
    }
    double x_at(size_t index) const { return multiplied<E, tf32>(x[index]); }
    double g_at(size_t index) const { return multiplied<E, tf32>(g[index]); }
    size_t at(int i, int y, int x, int c, int high, int wide) const {
        return ((size_t(i) * high + y) * wide + x) * channels + c;
    }
    Terms forward(size_t index) const {
        int c = index % channels, px = index / channels % ow, py = index / channels / ow % oh,
            i = index / channels / ow / oh;
        Terms t;
        for (int tap = 0; tap < 9; tap++)
            for (int k = 0; k < group; k++) {
                int sy = py * stride + tap / 3 - 1, sx = px * stride + tap % 3 - 1, in = c / group * group + k;
                if (sy >= 0 && sy < h && sx >= 0 && sx < w) t.add(x_at(at(i, sy, sx, in, h, w)), weight_at(c, in, tap));
            }
        return t;
    }
    Terms gradient(size_t index) const {
        int c = index % channels, px = index / channels % w, py = index / channels / w % h, i = index / channels / w / h;
        Terms t;
        for (int tap = 0; tap < 9; tap++)
            for (int k = 0; k < group; k++) {
                int sy = py + 1 - tap / 3, sx = px + 1 - tap % 3, out = c / group * group + k;
                if (sy % stride || sx % stride || sy < 0 || sx < 0) continue;
                sy /= stride, sx /= stride;
                if (sy < oh && sx < ow) t.add(g_at(at(i, sy, sx, out, oh, ow)), weight_at(out, c, tap));
            }
        return t;
    }
    Terms weight_gradient(size_t index) const {
        int tap = index % 9, k = index / 9 % group, out = index / 9 / group, in = out / group * group + k;
        Terms t;
        for (int i = 0; i < n; i++)
            for (int py = 0; py < oh; py++)
                for (int px = 0; px < ow; px++) {
                    int sy = py * stride + tap / 3 - 1, sx = px * stride + tap % 3 - 1;
                    if (sy >= 0 && sy < h && sx >= 0 && sx < w)
                        t.add(g_at(at(i, py, px, out, oh, ow)), x_at(at(i, sy, sx, in, h, w)));
                }
        return t;
    }
    std::string name(const char* what) const {
        char text[200];
        snprintf(text, sizeof text, "%s %s, weights %s, d=%d, stride %d, %d×%d×%d×%d", what,
                 tf32 ? "tf32" : name_of(E()), name_of(W()), group, stride, n, channels, h, w);
        return text;
    }
};

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

#define JOIN_(a, b, c, d, e, f) a##_##b##_##c##_##d##_##e##_##f
#define JOIN(a, b, c, d, e, f) JOIN_(a, b, c, d, e, f)
#define OUTPUT float
namespace sums {
#include "../../src/devices/cuda/kernels/sum_parts.cu"
}
// The arithmetic: FMA in f32, tensor cores with f32 as TF32, or tensor cores with 16-bit elements. SIXTEEN_BITS, 0 or 1,
// chooses between the first two and the last, so that two programs are compiled and run at the same time.
#if !SIXTEEN_BITS
#define BY fma
#define FMA 1
#define TF32 0
#define ELEMENT float
#define WEIGHT float
#include "grouped_sizes.inc"
#undef BY
#undef FMA
#undef TF32
#define BY tf32
#define FMA 0
#define TF32 1
#include "grouped_sizes.inc"
#else
#define FMA 0
#define WEIGHT float
#define BY cores
#define TF32 0
#define ELEMENT bf16
#include "grouped_sizes.inc"
#undef ELEMENT
#define ELEMENT f16
#undef WEIGHT
#define WEIGHT f16
#include "grouped_sizes.inc"
#endif

int main() {
    for (auto check : all_checks()) check();
    return verdict();
}
