// The weight's gradient of a grouped 3×3 convolution of 16-bit elements with padding 1. Windows of rows of the input
// and of the output's gradient go down strips together, so every activation is read once; the tensor cores multiply
// 16 output by 8 input channels, pixels being summed over. What is computed between different groups is thrown away.
// A block sums its share of the strips; `sum_parts` adds the blocks' sums in order.
//
// ELEMENT bf16, f16; GROUP 4, 8, 16, 32; STRIDE 1, 2.

constexpr int CHANNELS = 64;
constexpr int THREADS = 256;
constexpr int TILES = GROUP == 32 ? 2 : 1; // times 8 input channels a warp
constexpr int SLABS = 9 * TILES, STEPS = (SLABS + 1) / 2;

// A block: blockIdx.x 64 channels, y its share of n · strips. Shared memory: the ring of 2·rows·STRIDE + 3 - STRIDE
// rows of (strip_w - 1)·STRIDE + 3 pixels of x, 2·rows rows of strip_w pixels of g, and a pixel of zeros.
KERNEL(grouped3x3_weight)
(const ELEMENT* x, const ELEMENT* g, float* parts, int n, int channels, int x_h, int x_w, int g_h, int g_w, int strip_h,
 int strip_w, int rows) {
    SHARED(shared);
    int strips_across = (g_w + strip_w - 1) / strip_w, strips = (g_h + strip_h - 1) / strip_h * strips_across;
    int first_channel = blockIdx.x * CHANNELS;
    int ring_rows = 2 * rows * STRIDE + 3 - STRIDE, columns = (strip_w - 1) * STRIDE + 3, g_rows = 2 * rows;
    u8* ring = shared;
    u8* g_ring = ring + ring_rows * columns * PIXEL;
    u8* zeros = g_ring + g_rows * strip_w * PIXEL;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int out_chunk = warp % 4 * 2; // of 16 output channels
    // Input channels that share groups with those: two chunks, or four of which each half of the warps takes two.
    int in_chunk = GROUP == 32 ? out_chunk / 4 * 4 + warp / 4 * 2 : out_chunk + warp / 4;

    if (threadIdx.x < CHUNKS) copy16(zeros + threadIdx.x * 16, nullptr);
    float c[SLABS][4];
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[slab][i] = 0;
    }

    i64 units = (i64)n * strips;
    int last = units * (blockIdx.y + 1) / gridDim.y;
    for (int unit = units * blockIdx.y / gridDim.y; unit < last; unit++) {
        int image = unit / strips, strip = unit % strips;
        int first_row = strip / strips_across * strip_h, first_column = strip % strips_across * strip_w;
        int last_row = smaller(first_row + strip_h, g_h), wide = smaller(strip_w, g_w - first_column);
        Strip<ELEMENT> xs = {x + (i64)image * x_h * x_w * channels, x_h, x_w, channels, first_channel,
                             first_row * STRIDE - 1, first_column * STRIDE - 1};
        Strip<ELEMENT> gs = {g + (i64)image * g_h * g_w * channels, g_h, g_w, channels, first_channel, first_row,
                             first_column};
        copy_rows<STRIDE, THREADS>(ring, ring_rows, xs, 0, (rows - 1) * STRIDE + 3, columns);
        copy_rows<1, THREADS>(g_ring, g_rows, gs, 0, rows, strip_w);
        copies_commit();
        for (int row = first_row; row < last_row; row += rows) {
            int down = row - first_row, top = down * STRIDE;
            if (row + rows < last_row) {
                int have = top + (rows - 1) * STRIDE + 3;
                copy_rows<STRIDE, THREADS>(ring, ring_rows, xs, have, have + rows * STRIDE, columns);
                copy_rows<1, THREADS>(g_ring, g_rows, gs, down + rows, down + 2 * rows, strip_w);
            }
            copies_commit();
            copies_wait<1>();
            __syncthreads();
            int count = smaller(rows, last_row - row) * wide;
            for (int first = 0; first < count; first += 16) {
                // This lane names a row of the matrices: 8 pixels, then 8 more for lanes with bit 4 set (g) or 3 (x).
                int g_pixel = first + lane / 16 * 8 + lane % 8, x_pixel = first + lane % 16;
                const u8* g_row = zeros;
                if (g_pixel < count) {
                    int at = (down + g_pixel / wide) % g_rows * strip_w + g_pixel % wide;
                    g_row = g_ring + place<1>(at, out_chunk + lane / 8 % 2);
                }
                u32 a[4];
                load_matrices_transposed(a, g_row);
                bool inside = x_pixel < count;
                int x_row = (top + x_pixel / wide * STRIDE) % ring_rows, x_column = x_pixel % wide * STRIDE;
#pragma unroll
                for (int step = 0; step < STEPS; step++) {
                    int low = 2 * step, high = 2 * step + 1 < SLABS ? 2 * step + 1 : 2 * step;
                    int tap = lane / 16 ? high / TILES : low / TILES, tile = lane / 16 ? high % TILES : low % TILES;
                    int at = x_row + tap / 3;
                    int pixel = (at >= ring_rows ? at - ring_rows : at) * columns + x_column + tap % 3;
                    u32 b[4];
                    load_matrices_transposed(b, inside ? ring + place<STRIDE>(pixel, in_chunk + tile) : zeros);
                    u32 b_low[2] = {b[0], b[1]}, b_high[2] = {b[2], b[3]};
                    multiply(c[low], a, b_low, ELEMENT());
                    if (high != low) multiply(c[high], a, b_high, ELEMENT());
                }
            }
            __syncthreads();
        }
    }
    copies_wait<0>();

    float* part = parts + (i64)blockIdx.y * channels * GROUP * 9;
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++) {
        int tap = slab / TILES, tile = slab % TILES;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int out = first_channel + out_chunk * 8 + lane / 4 + i / 2 * 8;
            int in = first_channel + (in_chunk + tile) * 8 + lane % 4 * 2 + i % 2;
            if (out < channels && in < channels && out / GROUP == in / GROUP)
                part[((i64)out * GROUP + in % GROUP) * 9 + tap] = c[slab][i];
        }
    }
}
