// What the kernels for the weight's gradient share: windows of rows of the input and of the output's gradient
// move down strips together, so every element is read once. A block sums its share of the strips; `sum_parts`
// adds the blocks' sums in order.
//
// GROUP 4, 8, 16, 32; STRIDE 1, 2.

struct Sizes {
    int n, channels, x_h, x_w, g_h, g_w, strip_h, strip_w, rows;
};

// Passes all pixels of a block's share to `use`, `count` at a time, row by row in strips that are `wide`
// pixels wide: those of g from row `down` of its window on. blockIdx.x selects the channels (as many as a
// pixel in shared memory has), y the share of the n · strips. `ring` has room for the windows' rings.
template <int threads, class E, class Use>
__device__ inline void over_share(const E* x, const E* g, const Sizes& s, u8* ring, Use use) {
    int strips = (s.g_h + s.strip_h - 1) / s.strip_h * ((s.g_w + s.strip_w - 1) / s.strip_w);
    int first_channel = blockIdx.x * (PIXEL / sizeof(E));
    i64 units = (i64)s.n * strips;
    int last = units * (blockIdx.y + 1) / gridDim.y;
    for (int unit = units * blockIdx.y / gridDim.y; unit < last; unit++) {
        i64 image = unit / strips;
        Segment own(unit % strips, s.g_h, s.g_w, s.strip_h, s.strip_w);
        Strip<E> xs = {x + image * s.x_h * s.x_w * s.channels, s.x_h, s.x_w, s.channels, first_channel,
                       own.first_row * STRIDE - 1, own.first_column * STRIDE - 1};
        Strip<E> gs = {g + image * s.g_h * s.g_w * s.channels, s.g_h, s.g_w, s.channels, first_channel, own.first_row,
                       own.first_column};
        Window<STRIDE, 3, threads, E> x_window(ring, xs, s.rows, s.strip_w);
        Window<1, 1, threads, E> g_window(x_window.end(), gs, s.rows, s.strip_w);
        x_window.start(), g_window.start();
        copies_commit();
        for (int row = own.first_row; row < own.last_row; row += s.rows) {
            int down = row - own.first_row;
            if (row + s.rows < own.last_row) x_window.start_next(down), g_window.start_next(down);
            next_rows();
            use(x_window, g_window, down, own.wide, smaller(s.rows, own.last_row - row) * own.wide);
            __syncthreads();
        }
    }
    copies_wait<0>();
}

// Where this block's part of the sums goes.
__device__ inline float* own_part(float* parts, const Sizes& s) { return parts + (i64)blockIdx.y * s.channels * GROUP * 9; }
