// Grouped 3×3 convolution of 16-bit elements with padding 1 and as many input as output channels a group: forward, and
// the input's gradient. Bound by memory: a block goes down a strip of 64 channels with a window of rows in shared
// memory, so every activation is read once. A warp's tensor cores compute 16 pixels by 8 channels; where groups are
// narrower than 8 channels the weights are a block-diagonal matrix with zeros between groups. Weights stay in registers.
//
// ELEMENT bf16, f16; WEIGHT float or ELEMENT; GROUP channels a group: 4, 8, 16, 32; STRIDE 1, 2;
// GRADIENT 0: x is the input, y the output; 1: x is the output's gradient, y the input's.

constexpr int CHANNELS = 64;
// With a stride the gradient comes from a 2×2 window for each of the 4 phases a pixel of y can be in.
constexpr bool PHASES = GRADIENT && STRIDE == 2;
constexpr int STEP = PHASES ? 1 : STRIDE;  // pixels of x from one window to the next
constexpr int WINDOW = PHASES ? 2 : 3;     // pixels a side
constexpr int SPREAD = PHASES ? 2 : 1;     // pixels of y a window makes, a side
constexpr int BEFORE = PHASES ? 0 : 1;     // where the first window starts before the image
constexpr int TILES = GROUP >= 16 ? 2 : 1; // times 8 channels a warp, which read the same of x
constexpr int THREADS = 256 / TILES;
constexpr int DEPTH = GROUP < 8 ? 1 : GROUP / 8; // chunks of x that a channel of y is computed from

// A phase's taps: which pixels of the window are multiplied by which weights.
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
// A step of the tensor cores takes two slabs: 8 channels at a tap each.
__host__ __device__ constexpr int slabs(int phase) { return taps(phase) * DEPTH; }
__host__ __device__ constexpr int steps(int phase) { return (slabs(phase) + 1) / 2; }
__host__ __device__ constexpr int first_step(int phase) { return phase == 0 ? 0 : first_step(phase - 1) + steps(phase - 1); }
constexpr int STEPS = first_step(SPREAD * SPREAD);

// The weight from channel `from` of x to channel `to` of y at a tap of the kernel; both count in the whole tensor.
__device__ inline float weight(const WEIGHT* w, int channels, int from, int to, int tap) {
    if (from / GROUP != to / GROUP || from >= channels || to >= channels) return 0;
    int out = GRADIENT ? from : to, in = GRADIENT ? to : from;
    return to_float(w[((i64)out * GROUP + in % GROUP) * 9 + tap]);
}

template <int phase>
__device__ inline void phase_weights(u32 (&b)[TILES][STEPS][2], const WEIGHT* w, int channels, int first) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        int chunk = warp * TILES + tile;
        int to = first + chunk * 8 + lane / 4;
#pragma unroll
        for (int slab = 0; slab < 2 * steps(phase); slab++) {
            int from = first + (chunk / DEPTH * DEPTH + slab % DEPTH) * 8 + lane % 4 * 2;
            bool any = slab < slabs(phase);
            int tap = any ? tap_weight(phase, slab / DEPTH) : 0;
            float low = any ? weight(w, channels, from, to, tap) : 0;
            float high = any ? weight(w, channels, from + 1, to, tap) : 0;
            b[tile][first_step(phase) + slab / 2][slab % 2] = pair<ELEMENT>(low, high);
        }
    }
}

// 16 windows of x, which start at `row` and `column` (this lane's), by this warp's channels.
template <int phase>
__device__ inline void phase_product(float (&c)[TILES][4], const u32 (&b)[TILES][STEPS][2], const u8* ring,
                                     int ring_rows, int columns, int row, int column) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int chunk = warp * TILES / DEPTH * DEPTH;
    int second = lane / 16; // lanes 16 up name the rows of a step's second slab
    int zeros = ring_rows * columns;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[tile][i] = 0;
    }
#pragma unroll
    for (int step = 0; step < steps(phase); step++) {
        int low = 2 * step, high = 2 * step + 1 < slabs(phase) ? 2 * step + 1 : 2 * step;
        int down = second ? tap_row(phase, high / DEPTH) : tap_row(phase, low / DEPTH);
        int right = second ? tap_column(phase, high / DEPTH) : tap_column(phase, low / DEPTH);
        int deep = second ? high % DEPTH : low % DEPTH;
        bool none = row < 0 || (second && 2 * step + 1 >= slabs(phase));
        int at = row + down;
        int pixel = none ? zeros : (at >= ring_rows ? at - ring_rows : at) * columns + column + right;
        u32 a[4];
        load_matrices(a, ring + place<STEP>(pixel, chunk + deep));
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) multiply(c[tile], a, b[tile][first_step(phase) + step], ELEMENT());
    }
}

// Puts pixels g and g + 8 of a tile where they are written to memory from.
__device__ inline void put(u8* stage, const float (&c)[TILES][4], int low, int high) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        int chunk = warp * TILES + tile;
        if (low >= 0) *(u32*)(stage + place<1>(low, chunk) + lane % 4 * 4) = pair<ELEMENT>(c[tile][0], c[tile][1]);
        if (high >= 0) *(u32*)(stage + place<1>(high, chunk) + lane % 4 * 4) = pair<ELEMENT>(c[tile][2], c[tile][3]);
    }
}

template <int phase>
__device__ inline void one_phase(u8* stage, const u32 (&b)[TILES][STEPS][2], const u8* ring, int ring_rows, int columns,
                                 int top, int wide, int count, int tile) {
    int lane = threadIdx.x % 32;
    int mine = tile * 16 + lane % 16;
    bool inside = mine < count;
    int row = inside ? (top + mine / wide * STEP) % ring_rows : -1, column = inside ? mine % wide * STEP : 0;
    float c[TILES][4];
    phase_product<phase>(c, b, ring, ring_rows, columns, row, column);
    int staged[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int p = tile * 16 + half * 8 + lane / 4;
        int y = p / wide * SPREAD + phase / 2, x = p % wide * SPREAD + phase % 2;
        staged[half] = p < count ? y * wide * SPREAD + x : -1;
    }
    put(stage, c, staged[0], staged[1]);
}

// A block: blockIdx.x 64 channels, y a strip (segment of rows by columns), z an image. Windows lie in a grid of
// grid_h by grid_w; a strip is `strip_h` by `strip_w` of it, and goes down `rows` at a time. Shared memory: the ring
// of 2·rows·STEP + WINDOW - STEP rows of (strip_w - 1)·STEP + WINDOW pixels, a pixel of zeros, and the pixels of y that
// are made at a time.
KERNEL(grouped3x3)
(const ELEMENT* x, const WEIGHT* w, ELEMENT* y, int channels, int x_h, int x_w, int y_h, int y_w, int grid_h, int grid_w,
 int strip_h, int strip_w, int rows) {
    SHARED(shared);
    int strips = (grid_w + strip_w - 1) / strip_w;
    int first_row = blockIdx.y / strips * strip_h, first_column = blockIdx.y % strips * strip_w;
    int last_row = smaller(first_row + strip_h, grid_h);
    int wide = smaller(strip_w, grid_w - first_column);
    int first_channel = blockIdx.x * CHANNELS;
    int ring_rows = 2 * rows * STEP + WINDOW - STEP, columns = (strip_w - 1) * STEP + WINDOW;
    u8* ring = shared;
    u8* stage = ring + (ring_rows * columns + 1) * PIXEL;
    Strip<ELEMENT> strip = {x + (i64)blockIdx.z * x_h * x_w * channels, x_h, x_w, channels, first_channel,
                            first_row * STEP - BEFORE, first_column * STEP - BEFORE};
    ELEMENT* image = y + (i64)blockIdx.z * y_h * y_w * channels;

    if (threadIdx.x < CHUNKS) copy16(ring + ring_rows * columns * PIXEL + threadIdx.x * 16, nullptr);
    copy_rows<STEP, THREADS>(ring, ring_rows, strip, 0, (rows - 1) * STEP + WINDOW, columns);
    copies_commit();
    u32 b[TILES][STEPS][2];
    phase_weights<0>(b, w, channels, first_channel);
    if constexpr (PHASES) {
        phase_weights<1>(b, w, channels, first_channel);
        phase_weights<2>(b, w, channels, first_channel);
        phase_weights<3>(b, w, channels, first_channel);
    }

    for (int row = first_row; row < last_row; row += rows) {
        int top = (row - first_row) * STEP; // in the strip
        if (row + rows < last_row) {
            int have = top + (rows - 1) * STEP + WINDOW;
            copy_rows<STEP, THREADS>(ring, ring_rows, strip, have, have + rows * STEP, columns);
        }
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        int high = smaller(rows, last_row - row), count = high * wide;
        for (int tile = 0; tile * 16 < count; tile++) {
            one_phase<0>(stage, b, ring, ring_rows, columns, top, wide, count, tile);
            if constexpr (PHASES) {
                one_phase<1>(stage, b, ring, ring_rows, columns, top, wide, count, tile);
                one_phase<2>(stage, b, ring, ring_rows, columns, top, wide, count, tile);
                one_phase<3>(stage, b, ring, ring_rows, columns, top, wide, count, tile);
            }
        }
        __syncthreads();
        int pixels = count * SPREAD * SPREAD;
        for (int i = threadIdx.x; i < pixels * CHUNKS; i += THREADS) {
            int chunk = i % CHUNKS, p = i / CHUNKS;
            int py = row * SPREAD + p / (wide * SPREAD), px = first_column * SPREAD + p % (wide * SPREAD);
            int channel = first_channel + chunk * 8;
            if (py < y_h && px < y_w && channel < channels) {
                i64 at = ((i64)py * y_w + px) * channels + channel;
                *(Vector<u32, 4>*)(image + at) = *(Vector<u32, 4>*)(stage + place<1>(p, chunk));
            }
        }
    }
}
