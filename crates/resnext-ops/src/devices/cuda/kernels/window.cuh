// A window of image rows in shared memory that moves down an image: each row is read from memory once, ahead
// of use. Of each pixel a block reads 128 bytes of channels, a full cache line, as 8 chunks of 16 bytes.

constexpr int CHUNKS = 8, PIXEL = 128;

// Where a chunk of a pixel is stored. Chunks are swizzled by pixel, so that 8 lanes that read one chunk of 8
// pixels, `step` apart, access 8 different banks.
template <int step> __device__ inline int place(int pixel, int chunk) {
    return (pixel * CHUNKS + (chunk ^ (pixel / step & 7))) * 16;
}

// A strip of a channels-last image (H, W, C), as a block reads it.
template <class E> struct Strip {
    const E* image;
    int height, width, channels;
    int first_channel;
    int first_row, first_column; // of the window; outside the image it is zero
};

// What a block holds of a strip as it moves down: a ring of rows in shared memory, with what `rows` rows of a
// grid of windows read, and what the next `rows` rows read, whose copies are in flight. Windows have `size`
// pixels per side and are `step` apart.
template <int step, int size, int threads, class E> struct Window {
    u8* ring;
    Strip<E> strip;
    int rows, ring_rows, columns;

    __device__ inline Window(u8* ring, const Strip<E>& strip, int rows, int windows_across)
        : ring(ring), strip(strip), rows(rows), ring_rows(2 * rows * step + size - step),
          columns((windows_across - 1) * step + size) {}
    __device__ inline u8* end() const { return ring + ring_rows * columns * PIXEL; }
    // The pixel of the ring at a row that may lie up to one ring length behind its end.
    __device__ inline int pixel(int row, int column) const {
        return (row >= ring_rows ? row - ring_rows : row) * columns + column;
    }

    // Starts copying what the first `rows` rows of windows read.
    __device__ inline void start() const { copy(0, (rows - 1) * step + size); }
    // Starts copying what the `rows` rows after those that begin at `down` read.
    __device__ inline void start_next(int down) const {
        int have = (down + rows - 1) * step + size;
        copy(have, have + rows * step);
    }

    __device__ inline void copy(int from, int to) const {
        constexpr int PER_CHUNK = 16 / sizeof(E);
        int count = (to - from) * columns * CHUNKS;
        for (int i = threadIdx.x; i < count; i += threads) {
            int chunk = i % CHUNKS, column = i / CHUNKS % columns, row = from + i / CHUNKS / columns;
            int y = strip.first_row + row, x = strip.first_column + column;
            int channel = strip.first_channel + chunk * PER_CHUNK;
            bool inside = y >= 0 && y < strip.height && x >= 0 && x < strip.width && channel < strip.channels;
            const E* source = inside ? strip.image + ((i64)y * strip.width + x) * strip.channels + channel : nullptr;
            copy16(ring + place<step>(row % ring_rows * columns + column, chunk), source);
        }
    }
};

// Commits a group of copies, and waits until those before it are complete for all threads.
__device__ inline void next_rows() {
    copies_commit();
    copies_wait<1>();
    __syncthreads();
}

// Strip number `index` of a grid of windows, in row-major order; a strip is at most `high` by `across`
// windows.
struct Segment {
    int first_row, last_row, first_column, wide;
    __device__ inline Segment(int index, int grid_h, int grid_w, int high, int across) {
        int strips = (grid_w + across - 1) / across;
        first_row = index / strips * high, last_row = smaller(first_row + high, grid_h);
        first_column = index % strips * across, wide = smaller(across, grid_w - first_column);
    }
};
