// What the kernels for the output and for the input's gradient share: which pixels are multiplied by which
// weights, and which windows each block computes.
//
// STRIDE 1, 2; GRADIENT 0: x is the input, y the output; 1: x is the output's gradient, y the input's.

// With stride 2 the gradient is computed from 2×2 windows, one product for each of a pixel's 4 possible
// phases.
constexpr bool PHASES = GRADIENT && STRIDE == 2;
constexpr int STEP = PHASES ? 1 : STRIDE;  // pixels of x from one window to the next
constexpr int WINDOW = PHASES ? 2 : 3;     // pixels per side
constexpr int SPREAD = PHASES ? 2 : 1;     // pixels of y per window and side
constexpr int BEFORE = PHASES ? 0 : 1;     // how far before the image the first window starts

// The kernel positions of a phase: which pixels of the window are multiplied by which weights.
__host__ __device__ constexpr int sides(int odd) { return odd ? 2 : 1; }
__host__ __device__ constexpr int taps(int phase) { return PHASES ? sides(phase / 2) * sides(phase % 2) : 9; }
__host__ __device__ constexpr int along(int odd, int i) { return PHASES ? (odd ? 1 - i : 0) : i; }
__host__ __device__ constexpr int weight_along(int odd, int i) { return PHASES ? (odd ? 2 * i : 1) : GRADIENT ? 2 - i : i; }
__host__ __device__ constexpr int columns_of(int phase) { return PHASES ? sides(phase % 2) : 3; }
__host__ __device__ constexpr int tap_row(int phase, int i) { return along(phase / 2, i / columns_of(phase)); }
__host__ __device__ constexpr int tap_column(int phase, int i) { return along(phase % 2, i % columns_of(phase)); }
__host__ __device__ constexpr int tap_weight(int phase, int i) {
    return weight_along(phase / 2, i / columns_of(phase)) * 3 + weight_along(phase % 2, i % columns_of(phase));
}

// Windows form a grid of grid_h by grid_w; a strip is `strip_h` by `strip_w` of it, and is computed `rows`
// rows at a time.
struct Sizes {
    int channels, x_h, x_w, y_h, y_w, grid_h, grid_w, strip_h, strip_w, rows;
};

// A block's part: blockIdx.x selects the channels (as many as a pixel in shared memory has), y a strip, z an
// image.
template <class E> struct Part {
    Segment windows;
    Strip<E> x;
    E* y;
    __device__ inline Part(const E* x, E* y, const Sizes& s)
        : windows(blockIdx.y, s.grid_h, s.grid_w, s.strip_h, s.strip_w),
          x{x + (i64)blockIdx.z * s.x_h * s.x_w * s.channels, s.x_h, s.x_w, s.channels, int(blockIdx.x * (PIXEL / sizeof(E))),
            windows.first_row * STEP - BEFORE, windows.first_column * STEP - BEFORE},
          y(y + (i64)blockIdx.z * s.y_h * s.y_w * s.channels) {}
};
