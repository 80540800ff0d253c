// The weight's gradient of a grouped 3×3 convolution of f32 with padding 1, in f32 throughout. Like
// grouped3x3_weight.cu, with FMA instructions: a thread sums 4 output channels by 4 input channels by a
// kernel row, over a share of the pixels.
//
// The definitions of grouped3x3_weight.cuh.

constexpr int CHANNELS = PIXEL / sizeof(float);
constexpr int THREADS = 192;
constexpr int DEPTH = GROUP / 4;     // chunks per group
constexpr int SHARES = 8 / DEPTH;    // shares of the pixels
constexpr int SUMS = 48;             // per thread
constexpr int OWNERS = 24 * DEPTH;   // threads with different sums

// Shared memory: the windows' rings, later OWNERS · SUMS floats, whichever is larger.
KERNEL(grouped3x3_weight_f32)
(const float* x, const float* g, float* parts, Sizes s) {
    SHARED(shared);
    int chunk = threadIdx.x % 8, ky = threadIdx.x / 8 % 3, deep = threadIdx.x / 24 % DEPTH, share = threadIdx.x / OWNERS;
    int in_chunk = chunk / DEPTH * DEPTH + deep;
    float sum[3][4][4];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i / 16][i / 4 % 4][i % 4] = 0;

    over_share<THREADS>(x, g, s, shared, [&](auto& x, auto& g, int down, int wide, int count) {
        for (int p = share; p < count; p += SHARES) {
            int y = down + p / wide, column = p % wide;
            float to[4], from[4];
            load(to, (const float*)(g.ring + place<1>(y % g.ring_rows * g.columns + column, chunk)));
            int first = (y * STRIDE + ky) % x.ring_rows * x.columns + column * STRIDE;
#pragma unroll
            for (int kx = 0; kx < 3; kx++) {
                load(from, (const float*)(x.ring + place<STRIDE>(first + kx, in_chunk)));
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) sum[kx][i][j] += to[i] * from[j];
                }
            }
        }
    });

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
    float* part = own_part(parts, s);
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        int out = blockIdx.x * CHANNELS + chunk * 4 + i / 4 % 4, in = deep * 4 + i % 4;
        if (out < s.channels) part[((i64)out * GROUP + in) * 9 + ky * 3 + i / 16] = sums[i * OWNERS];
    }
}
