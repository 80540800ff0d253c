// A window of image rows in shared memory, which moves down an image: each row is read from memory once, ahead of time.
// A pixel is 128 bytes: so many channels that it fills a line of the cache, in 8 chunks of 16 bytes.

constexpr int CHUNKS = 8, PIXEL = 128;

// Where a chunk of a pixel lies. Chunks change places with the pixel, so that 8 lanes reading one chunk of 8 pixels,
// each `step` after the last, meet 8 different banks.
template <int step> __device__ inline int place(int pixel, int chunk) {
    return (pixel * CHUNKS + (chunk ^ (pixel / step & 7))) * 16;
}

// A strip of an image (H, W, C), channels-last, as it is read.
template <class E> struct Strip {
    const E* image;
    int height, width, channels;
    int first_channel;
    int first_row, first_column; // of the window; may be outside of the image, which has zeros there
};

// Starts copying rows `from` up to `to` of the strip, `columns` wide, into a ring of so many rows.
template <int step, int threads, class E>
__device__ inline void copy_rows(u8* ring, int ring_rows, const Strip<E>& strip, int from, int to, int columns) {
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
