// Grouped 3×3 convolution of f32 with padding 1 and as many input as output channels per group, in f32
// throughout: forward, and the input's gradient. Like grouped3x3.cu, with FMA instructions in place of tensor
// cores: a thread computes 4 channels of several pixels, and weights are in shared memory.
//
// GROUP 4, 8, 16, 32; and the definitions of grouped3x3.cuh.

constexpr int CHANNELS = PIXEL / sizeof(float);
constexpr int THREADS = 128, LANES = THREADS / CHUNKS, PIXELS = 4; // pixels per thread at a time
constexpr int WEIGHTS = 9 * GROUP * CHANNELS; // kernel position, channel of x in its group, channel of y

// Shared memory: weights, then the window's ring.
KERNEL(grouped3x3_f32)
(const float* x, const float* w, float* y, Sizes s) {
    SHARED(shared);
    Part<float> part(x, y, s);
    Segment own = part.windows;
    int first_channel = part.x.first_channel;
    float* weights = (float*)shared;
    Window<STEP, WINDOW, THREADS, float> window(shared + WEIGHTS * 4, part.x, s.rows, s.strip_w);
    window.start();
    copies_commit();
    for (int i = threadIdx.x; i < WEIGHTS; i += THREADS) {
        int to = first_channel + i % CHANNELS, in = i / CHANNELS % GROUP, tap = i / CHANNELS / GROUP;
        int from = to / GROUP * GROUP + in;
        int row = GRADIENT ? from : to, column = GRADIENT ? to % GROUP : in;
        weights[i] = to < s.channels && from < s.channels ? w[((i64)row * GROUP + column) * 9 + tap] : 0;
    }
    int chunk = threadIdx.x % CHUNKS, lane = threadIdx.x / CHUNKS;
    int group_chunk = chunk * 4 / GROUP * (GROUP / 4), channel = first_channel + chunk * 4;

    for (int row = own.first_row; row < own.last_row; row += s.rows) {
        int down = row - own.first_row, top = down * STEP;
        if (row + s.rows < own.last_row) window.start_next(down);
        next_rows();
        int count = smaller(s.rows, own.last_row - row) * own.wide;
        for (int first = lane; first < count; first += LANES * PIXELS) {
#pragma unroll 1
            for (int phase = 0; phase < SPREAD * SPREAD; phase++) {
                float sum[PIXELS][4];
#pragma unroll
                for (int p = 0; p < PIXELS; p++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) sum[p][i] = 0;
                }
#pragma unroll 1
                for (int tap = 0; tap < taps(phase); tap++) {
                    const float* tap_weights = weights + tap_weight(phase, tap) * GROUP * CHANNELS + chunk * 4;
                    int pixel[PIXELS];
#pragma unroll
                    for (int p = 0; p < PIXELS; p++) {
                        int at = smaller(first + p * LANES, count - 1);
                        int y = (top + at / own.wide * STEP + tap_row(phase, tap)) % window.ring_rows;
                        pixel[p] = y * window.columns + at % own.wide * STEP + tap_column(phase, tap);
                    }
#pragma unroll
                    for (int deep = 0; deep < GROUP / 4; deep++) {
                        float k[4][4];
#pragma unroll
                        for (int i = 0; i < 4; i++) load(k[i], tap_weights + (deep * 4 + i) * CHANNELS);
#pragma unroll
                        for (int p = 0; p < PIXELS; p++) {
                            float v[4];
                            load(v, (const float*)(window.ring + place<STEP>(pixel[p], group_chunk + deep)));
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
                    int py = (row + at / own.wide) * SPREAD + phase / 2;
                    int px = (own.first_column + at % own.wide) * SPREAD + phase % 2;
                    if (at < count && py < s.y_h && px < s.y_w && channel < s.channels)
                        store(part.y + ((i64)py * s.y_w + px) * s.channels + channel, sum[p]);
                }
            }
        }
        __syncthreads();
    }
}
