// The weight's gradient of a grouped 3×3 convolution of f32 with padding 1, in f32 throughout. As grouped3x3_weight.cu,
// with multiply-adds: a thread sums 4 output by 4 input channels by a row of the kernel, over a share of the pixels.
//
// GROUP 4, 8, 16, 32; STRIDE 1, 2.

constexpr int CHANNELS = 32;
constexpr int THREADS = 192;
constexpr int DEPTH = GROUP / 4;     // chunks a group
constexpr int SHARES = 8 / DEPTH;    // of the pixels
constexpr int SUMS = 48;             // a thread
constexpr int OWNERS = 24 * DEPTH;   // threads with different sums

// A block: blockIdx.x 32 channels, y its share of n · strips. Shared memory, as much as the larger of: the rings of
// grouped3x3_weight.cu; OWNERS · SUMS floats.
KERNEL(grouped3x3_weight_f32)
(const float* x, const float* g, float* parts, int n, int channels, int x_h, int x_w, int g_h, int g_w, int strip_h,
 int strip_w, int rows) {
    SHARED(shared);
    int strips_across = (g_w + strip_w - 1) / strip_w, strips = (g_h + strip_h - 1) / strip_h * strips_across;
    int first_channel = blockIdx.x * CHANNELS;
    int ring_rows = 2 * rows * STRIDE + 3 - STRIDE, columns = (strip_w - 1) * STRIDE + 3, g_rows = 2 * rows;
    u8* ring = shared;
    u8* g_ring = ring + ring_rows * columns * PIXEL;
    int chunk = threadIdx.x % 8, ky = threadIdx.x / 8 % 3, deep = threadIdx.x / 24 % DEPTH, share = threadIdx.x / OWNERS;
    int in_chunk = chunk / DEPTH * DEPTH + deep;
    float sum[3][4][4];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i / 16][i / 4 % 4][i % 4] = 0;

    i64 units = (i64)n * strips;
    int last = units * (blockIdx.y + 1) / gridDim.y;
    for (int unit = units * blockIdx.y / gridDim.y; unit < last; unit++) {
        int image = unit / strips, strip = unit % strips;
        int first_row = strip / strips_across * strip_h, first_column = strip % strips_across * strip_w;
        int last_row = smaller(first_row + strip_h, g_h), wide = smaller(strip_w, g_w - first_column);
        Strip<float> xs = {x + (i64)image * x_h * x_w * channels, x_h, x_w, channels, first_channel,
                           first_row * STRIDE - 1, first_column * STRIDE - 1};
        Strip<float> gs = {g + (i64)image * g_h * g_w * channels, g_h, g_w, channels, first_channel, first_row,
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
            for (int p = share; p < count; p += SHARES) {
                int y = p / wide, column = p % wide;
                float to[4], from[4];
                load(to, (const float*)(g_ring + place<1>((down + y) % g_rows * strip_w + column, chunk)));
                int first = (top + y * STRIDE + ky) % ring_rows * columns + column * STRIDE;
#pragma unroll
                for (int kx = 0; kx < 3; kx++) {
                    load(from, (const float*)(ring + place<STRIDE>(first + kx, in_chunk)));
#pragma unroll
                    for (int i = 0; i < 4; i++) {
#pragma unroll
                        for (int j = 0; j < 4; j++) sum[kx][i][j] += to[i] * from[j];
                    }
                }
            }
            __syncthreads();
        }
    }
    copies_wait<0>();

    // The shares' sums, added one after another.
    float* sums = (float*)shared + threadIdx.x % OWNERS;
    for (int turn = 0; turn < SHARES; turn++) {
        __syncthreads();
        if (turn != share) continue;
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            float before = turn ? sums[i * OWNERS] : 0;
            sums[i * OWNERS] = before + sum[i / 16][i / 4 % 4][i % 4];
        }
    }
    __syncthreads();
    if (share) return;
    float* part = parts + (i64)blockIdx.y * channels * GROUP * 9;
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        int out = first_channel + chunk * 4 + i / 4 % 4, in = deep * 4 + i % 4;
        if (out < channels) part[((i64)out * GROUP + in) * 9 + ky * 3 + i / 16] = sums[i * OWNERS];
    }
}
