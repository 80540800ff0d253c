// Grouped 3×3 convolution by tensor cores, with padding 1 and as many input as output channels per group:
// forward, and the input's gradient. It is bound by memory: a block moves down a strip, 128 bytes of channels
// wide, with a window of rows in shared memory, so every element is read once. A warp computes 16 pixels by 8
// channels; where groups are narrower than 8 channels the weights are a block-diagonal matrix with zeros
// between groups. Weights stay in registers.
//
// ELEMENT bf16, f16, or float, which is multiplied as TF32; WEIGHT float or ELEMENT; GROUP channels per
// group: 4, 8, 16, 32; and the definitions of grouped3x3.cuh.

constexpr int CHANNELS = PIXEL / sizeof(ELEMENT);
constexpr int PER_CHUNK = 16 / sizeof(ELEMENT), PER_REGISTER = 4 / sizeof(ELEMENT);
constexpr int TILES = sizeof(ELEMENT) == 2 && GROUP >= 16 ? 2 : 1; // of 8 channels per warp, which read the same of x
constexpr int THREADS = CHANNELS / 8 / TILES * 32;
constexpr int DEPTH = (GROUP < 8 ? 8 : GROUP) / PER_CHUNK; // chunks of x that a channel of y depends on

// A step of the tensor cores takes two slabs, each a chunk at a kernel position.
__host__ __device__ constexpr int slabs(int phase) { return taps(phase) * DEPTH; }
__host__ __device__ constexpr int steps(int phase) { return (slabs(phase) + 1) / 2; }
__host__ __device__ constexpr int first_step(int phase) { return phase == 0 ? 0 : first_step(phase - 1) + steps(phase - 1); }
constexpr int STEPS = first_step(SPREAD * SPREAD);

// The first of this warp's channels, and the first of the chunks that they depend on.
__device__ inline int first_to() { return threadIdx.x / 32 * TILES * 8; }
__device__ inline int first_from() { return first_to() / PER_CHUNK / DEPTH * DEPTH; }

// The weight from channel `from` of x to channel `to` of y at a kernel position; both are indices in the
// whole tensor.
__device__ inline float weight(const WEIGHT* w, int channels, int from, int to, int tap) {
    if (from / GROUP != to / GROUP || from >= channels || to >= channels) return 0;
    int out = GRADIENT ? from : to, in = GRADIENT ? to : from;
    return to_float(w[((i64)out * GROUP + in % GROUP) * 9 + tap]);
}

template <int phase>
__device__ inline void phase_weights(u32 (&b)[TILES][STEPS][2], const WEIGHT* w, int channels, int first) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        int to = first + first_to() + tile * 8 + lane / 4;
#pragma unroll
        for (int slab = 0; slab < 2 * steps(phase); slab++) {
            int from = first + (first_from() + slab % DEPTH) * PER_CHUNK + lane % 4 * PER_REGISTER;
            bool any = slab < slabs(phase);
            int tap = any ? tap_weight(phase, slab / DEPTH) : 0;
            float values[PER_REGISTER];
#pragma unroll
            for (int i = 0; i < PER_REGISTER; i++) values[i] = any ? weight(w, channels, from + i, to, tap) : 0;
            b[tile][first_step(phase) + slab / 2][slab % 2] = operand<ELEMENT>(values);
        }
    }
}

// Multiplies 16 windows of x, of which this lane's starts at `row` and `column`, by this warp's weights.
template <int phase, class X>
__device__ inline void phase_product(float (&c)[TILES][4], const u32 (&b)[TILES][STEPS][2], const X& x, int row,
                                     int column) {
    int second = threadIdx.x % 32 / 16; // lanes from 16 on address the rows of a step's second slab
    int zeros = x.ring_rows * x.columns;
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
        int pixel = none ? zeros : x.pixel(row + down, column + right);
        u32 a[4];
        load_matrices(a, x.ring + place<STEP>(pixel, first_from() + deep));
        as_operands<ELEMENT>(a);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) multiply(c[tile], a, b[tile][first_step(phase) + step], ELEMENT());
    }
}

// Stages two neighbouring channels of a pixel in shared memory, from where they are written.
__device__ inline void put(u8* stage, int pixel, int channel, float first, float second) {
    if (pixel < 0) return;
    float both[2] = {first, second};
    store((ELEMENT*)(stage + place<1>(pixel, channel / PER_CHUNK)) + channel % PER_CHUNK, both);
}

template <int phase, class X>
__device__ inline void one_phase(u8* stage, const u32 (&b)[TILES][STEPS][2], const X& window, int top, int wide, int count,
                                 int tile) {
    int lane = threadIdx.x % 32;
    int mine = tile * 16 + lane % 16;
    bool inside = mine < count;
    int row = inside ? (top + mine / wide * STEP) % window.ring_rows : -1, column = inside ? mine % wide * STEP : 0;
    float c[TILES][4];
    phase_product<phase>(c, b, window, row, column);
    int staged[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int p = tile * 16 + half * 8 + lane / 4;
        int y = p / wide * SPREAD + phase / 2, x = p % wide * SPREAD + phase % 2;
        staged[half] = p < count ? y * wide * SPREAD + x : -1;
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        int channel = first_to() + i * 8 + lane % 4 * 2;
        put(stage, staged[0], channel, c[i][0], c[i][1]);
        put(stage, staged[1], channel, c[i][2], c[i][3]);
    }
}

// Shared memory: the window's ring, a pixel of zeros, and the pixels of y that are computed at a time.
KERNEL(grouped3x3)
(const ELEMENT* x, const WEIGHT* w, ELEMENT* y, Sizes s) {
    SHARED(shared);
    Part<ELEMENT> part(x, y, s);
    Segment own = part.windows;
    int first_channel = part.x.first_channel;
    Window<STEP, WINDOW, THREADS, ELEMENT> window(shared, part.x, s.rows, s.strip_w);
    u8* stage = window.end() + PIXEL;

    if (threadIdx.x < CHUNKS) copy16(window.end() + threadIdx.x * 16, nullptr);
    window.start();
    copies_commit();
    u32 b[TILES][STEPS][2];
    phase_weights<0>(b, w, s.channels, first_channel);
    if constexpr (PHASES) {
        phase_weights<1>(b, w, s.channels, first_channel);
        phase_weights<2>(b, w, s.channels, first_channel);
        phase_weights<3>(b, w, s.channels, first_channel);
    }

    for (int row = own.first_row; row < own.last_row; row += s.rows) {
        int down = row - own.first_row, top = down * STEP; // in the strip
        if (row + s.rows < own.last_row) window.start_next(down);
        next_rows();
        int count = smaller(s.rows, own.last_row - row) * own.wide;
        for (int tile = 0; tile * 16 < count; tile++) {
            one_phase<0>(stage, b, window, top, own.wide, count, tile);
            if constexpr (PHASES) {
                one_phase<1>(stage, b, window, top, own.wide, count, tile);
                one_phase<2>(stage, b, window, top, own.wide, count, tile);
                one_phase<3>(stage, b, window, top, own.wide, count, tile);
            }
        }
        __syncthreads();
        int across = own.wide * SPREAD;
        for (int i = threadIdx.x; i < count * SPREAD * SPREAD * CHUNKS; i += THREADS) {
            int chunk = i % CHUNKS, p = i / CHUNKS;
            int py = row * SPREAD + p / across, px = own.first_column * SPREAD + p % across;
            int channel = first_channel + chunk * PER_CHUNK;
            if (py < s.y_h && px < s.y_w && channel < s.channels) {
                i64 at = ((i64)py * s.y_w + px) * s.channels + channel;
                *(Vector<u32, 4>*)(part.y + at) = *(Vector<u32, 4>*)(stage + place<1>(p, chunk));
            }
        }
    }
}
