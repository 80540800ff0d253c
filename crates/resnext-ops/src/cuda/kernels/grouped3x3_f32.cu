// Grouped 3×3 convolution of f32 with padding 1 and as many input as output channels a group, in f32 throughout:
// forward, and the input's gradient. As grouped3x3.cu, with multiply-adds in place of tensor cores: a thread computes 4
// channels of several pixels, and weights lie in shared memory.
//
// GROUP 4, 8, 16, 32; STRIDE 1, 2; GRADIENT 0: x is the input, y the output; 1: x is the output's gradient, y the
// input's.

constexpr int CHANNELS = 32;
constexpr int THREADS = 128, LANES = THREADS / CHUNKS, PIXELS = 4; // pixels a thread at a time
constexpr bool PHASES = GRADIENT && STRIDE == 2;
constexpr int STEP = PHASES ? 1 : STRIDE;
constexpr int WINDOW = PHASES ? 2 : 3;
constexpr int SPREAD = PHASES ? 2 : 1;
constexpr int BEFORE = PHASES ? 0 : 1;
constexpr int WEIGHTS = 9 * GROUP * CHANNELS; // tap, channel of x in its group, channel of y

// A block: blockIdx.x 32 channels, y a strip, z an image, as in grouped3x3.cu. Shared memory: weights, then the ring.
KERNEL(grouped3x3_f32)
(const float* x, const float* w, float* y, int channels, int x_h, int x_w, int y_h, int y_w, int grid_h, int grid_w,
 int strip_h, int strip_w, int rows) {
    SHARED(shared);
    int strips = (grid_w + strip_w - 1) / strip_w;
    int first_row = blockIdx.y / strips * strip_h, first_column = blockIdx.y % strips * strip_w;
    int last_row = smaller(first_row + strip_h, grid_h);
    int wide = smaller(strip_w, grid_w - first_column);
    int first_channel = blockIdx.x * CHANNELS;
    int ring_rows = 2 * rows * STEP + WINDOW - STEP, columns = (strip_w - 1) * STEP + WINDOW;
    float* weights = (float*)shared;
    u8* ring = shared + WEIGHTS * 4;
    Strip<float> strip = {x + (i64)blockIdx.z * x_h * x_w * channels, x_h, x_w, channels, first_channel,
                          first_row * STEP - BEFORE, first_column * STEP - BEFORE};
    float* image = y + (i64)blockIdx.z * y_h * y_w * channels;
    copy_rows<STEP, THREADS>(ring, ring_rows, strip, 0, (rows - 1) * STEP + WINDOW, columns);
    copies_commit();
    for (int i = threadIdx.x; i < WEIGHTS; i += THREADS) {
        int to = first_channel + i % CHANNELS, in = i / CHANNELS % GROUP, tap = i / CHANNELS / GROUP;
        int from = to / GROUP * GROUP + in;
        int row = GRADIENT ? from : to, column = GRADIENT ? to % GROUP : in;
        weights[i] = to < channels && from < channels ? w[((i64)row * GROUP + column) * 9 + tap] : 0;
    }
    int chunk = threadIdx.x % CHUNKS, lane = threadIdx.x / CHUNKS;
    int group_chunk = chunk * 4 / GROUP * (GROUP / 4);

    for (int row = first_row; row < last_row; row += rows) {
        int top = (row - first_row) * STEP;
        if (row + rows < last_row) {
            int have = top + (rows - 1) * STEP + WINDOW;
            copy_rows<STEP, THREADS>(ring, ring_rows, strip, have, have + rows * STEP, columns);
        }
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        int count = smaller(rows, last_row - row) * wide;
        for (int first = lane; first < count; first += LANES * PIXELS) {
#pragma unroll 1
            for (int phase = 0; phase < SPREAD * SPREAD; phase++) {
                float sum[PIXELS][4];
#pragma unroll
                for (int p = 0; p < PIXELS; p++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) sum[p][i] = 0;
                }
                int ys = PHASES ? 1 + phase / 2 : 3, xs = PHASES ? 1 + phase % 2 : 3;
#pragma unroll 1
                for (int tap = 0; tap < ys * xs; tap++) {
                    int ty = tap / xs, tx = tap % xs;
                    // Where the window is read, and by which weight, as in grouped3x3.cu.
                    int down = PHASES ? ys - 1 - ty : ty, right = PHASES ? xs - 1 - tx : tx;
                    int ky = PHASES ? (ys == 2 ? 2 * ty : 1) : GRADIENT ? 2 - ty : ty;
                    int kx = PHASES ? (xs == 2 ? 2 * tx : 1) : GRADIENT ? 2 - tx : tx;
                    const float* tap_weights = weights + (ky * 3 + kx) * GROUP * CHANNELS + chunk * 4;
                    int pixel[PIXELS];
#pragma unroll
                    for (int p = 0; p < PIXELS; p++) {
                        int at = smaller(first + p * LANES, count - 1);
                        pixel[p] = (top + at / wide * STEP + down) % ring_rows * columns + at % wide * STEP + right;
                    }
#pragma unroll
                    for (int deep = 0; deep < GROUP / 4; deep++) {
                        float k[4][4];
#pragma unroll
                        for (int i = 0; i < 4; i++) load(k[i], tap_weights + (deep * 4 + i) * CHANNELS);
#pragma unroll
                        for (int p = 0; p < PIXELS; p++) {
                            float v[4];
                            load(v, (const float*)(ring + place<STEP>(pixel[p], group_chunk + deep)));
#pragma unroll
                            for (int i = 0; i < 4; i++) {
#pragma unroll
                                for (int j = 0; j < 4; j++) sum[p][j] += v[i] * k[i][j];
                            }
                        }
                    }
                }
#pragma unroll
                for (int p = 0; p < PIXELS; p++) {
                    int at = first + p * LANES;
                    int py = (row + at / wide) * SPREAD + phase / 2;
                    int px = (first_column + at % wide) * SPREAD + phase % 2;
                    int channel = first_channel + chunk * 4;
                    if (at < count && py < y_h && px < y_w && channel < channels)
                        store(image + ((i64)py * y_w + px) * channels + channel, sum[p]);
                }
            }
        }
        __syncthreads();
    }
}
