// The weight's gradient of a grouped 3×3 convolution with padding 1, by tensor cores, which multiply 16
// output by 8 input channels and sum over pixels. Products between different groups are discarded.
//
// ELEMENT bf16, f16, or float, which is multiplied as TF32; and the definitions of
// grouped3x3_weight.cuh.

constexpr int CHANNELS = PIXEL / sizeof(ELEMENT);
constexpr int OUTS = CHANNELS / 16;
constexpr int THREADS = 2 * OUTS * 32;     // two warps per 16 output channels share the input channels
constexpr int TILES = GROUP == 32 ? 2 : 1; // of 8 input channels per warp
constexpr int SLABS = 9 * TILES, STEPS = (SLABS + 1) / 2;

// The first of this warp's output channels, and of its input channels.
__device__ inline int first_out() { return threadIdx.x / 32 % OUTS * 16; }
__device__ inline int first_in() { return first_out() / (8 * TILES * 2) * (8 * TILES * 2) + threadIdx.x / 32 / OUTS * 8 * TILES; }

// c += gᵀ · x over 16 pixels from `first` on, for 16-bit elements: matrices of pixels by channels, which are
// transposed on their way to registers. Each lane addresses a row: 8 pixels, then 8 more for lanes with bit 4
// set (g) or 3 (x).
template <class X, class G>
__device__ inline void pixels(float (&c)[SLABS][4], const X& x, const G& g, const u8* zeros, int down, int wide, int count,
                              int first) {
    int lane = threadIdx.x % 32;
    int g_pixel = first + lane / 16 * 8 + lane % 8, x_pixel = first + lane % 16;
    const u8* g_row = zeros;
    if (g_pixel < count) {
        int at = (down + g_pixel / wide) % g.ring_rows * g.columns + g_pixel % wide;
        g_row = g.ring + place<1>(at, first_out() / 8 + lane / 8 % 2);
    }
    u32 a[4];
    load_matrices_transposed(a, g_row);
    bool inside = x_pixel < count;
    int x_row = (down + x_pixel / wide) * STRIDE % x.ring_rows, x_column = x_pixel % wide * STRIDE;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        int low = 2 * step, high = 2 * step + 1 < SLABS ? 2 * step + 1 : 2 * step;
        int tap = lane / 16 ? high / TILES : low / TILES, tile = lane / 16 ? high % TILES : low % TILES;
        int pixel = x.pixel(x_row + tap / 3, x_column + tap % 3);
        u32 b[4];
        load_matrices_transposed(b, inside ? x.ring + place<STRIDE>(pixel, first_in() / 8 + tile) : zeros);
        u32 b_low[2] = {b[0], b[1]}, b_high[2] = {b[2], b[3]};
        multiply(c[low], a, b_low, ELEMENT());
        if (high != low) multiply(c[high], a, b_high, ELEMENT());
    }
}

// A channel of an f32 pixel, as an operand.
template <int step> __device__ inline u32 tf32_at(const u8* ring, int pixel, int channel) {
    return to_tf32(*(const float*)(ring + place<step>(pixel, channel / 4) + channel % 4 * 4));
}

// The same over 8 pixels of f32, whose elements lanes load one by one. Pixels may be summed in any order: in
// this one a warp's lanes access different banks.
template <class X, class G>
__device__ inline void pixels_f32(float (&c)[SLABS][4], const X& x, const G& g, int down, int wide, int count, int first) {
    int row = threadIdx.x % 32 / 4, x_row[2], x_column[2];
    bool inside[2];
    u32 a[4];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        int p = first + threadIdx.x % 4 * 2 + k, y = down + p / wide, column = p % wide;
        int at = y % g.ring_rows * g.columns + column;
        inside[k] = p < count, x_row[k] = y * STRIDE % x.ring_rows, x_column[k] = column * STRIDE;
        a[2 * k] = inside[k] ? tf32_at<1>(g.ring, at, first_out() + row) : 0;
        a[2 * k + 1] = inside[k] ? tf32_at<1>(g.ring, at, first_out() + row + 8) : 0;
    }
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++) {
        u32 b[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int pixel = x.pixel(x_row[k] + slab / TILES / 3, x_column[k] + slab / TILES % 3);
            b[k] = inside[k] ? tf32_at<STRIDE>(x.ring, pixel, first_in() + slab % TILES * 8 + row) : 0;
        }
        multiply(c[slab], a, b, ELEMENT());
    }
}

// Shared memory: a pixel of zeros, then the windows' rings.
KERNEL(grouped3x3_weight)
(const ELEMENT* x, const ELEMENT* g, float* parts, Sizes s) {
    SHARED(shared);
    if (threadIdx.x < CHUNKS) copy16(shared + threadIdx.x * 16, nullptr);
    float c[SLABS][4];
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[slab][i] = 0;
    }
    over_share<THREADS>(x, g, s, shared + PIXEL, [&](auto& x, auto& g, int down, int wide, int count) {
        if constexpr (sizeof(ELEMENT) == 2) {
            for (int first = 0; first < count; first += 16) pixels(c, x, g, shared, down, wide, count, first);
        } else {
            for (int first = 0; first < count; first += 8) pixels_f32(c, x, g, down, wide, count, first);
        }
    });

    int lane = threadIdx.x % 32, first_channel = blockIdx.x * CHANNELS;
    float* part = own_part(parts, s);
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int out = first_channel + first_out() + lane / 4 + i / 2 * 8;
            int in = first_channel + first_in() + slab % TILES * 8 + lane % 4 * 2 + i % 2;
            if (out < s.channels && in < s.channels && out / GROUP == in / GROUP)
                part[((i64)out * GROUP + in % GROUP) * 9 + slab / TILES] = c[slab][i];
        }
    }
}
