// Max-pooling with overlapping, padded windows and global average pooling, channels-last, and their
// gradients.
//
// ELEMENT float, bf16, f16; WIDTH channels per access; POSITION the type of a position in a window: u8, or
// u32 where windows have more than 256 pixels.

constexpr int THREADS = 256;

struct Pool {
    int batch, channels, in_h, in_w, out_h, out_w, kernel, stride, padding;
};

// The maximum of each window, and its position there: the first in row-major order. NaN counts as the
// maximum.
KERNEL(max_pool)
(const ELEMENT* x, ELEMENT* y, POSITION* at, Pool s) {
    i64 count = (i64)s.batch * s.out_h * s.out_w * s.channels / WIDTH;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS) {
        int channel = i % (s.channels / WIDTH) * WIDTH;
        i64 pixel = i / (s.channels / WIDTH);
        int px = pixel % s.out_w, py = pixel / s.out_w % s.out_h;
        i64 image = pixel / s.out_w / s.out_h * s.in_h;
        float best[WIDTH], value[WIDTH];
        Vector<POSITION, WIDTH> where;
        bool first = true;
        for (int ky = 0; ky < s.kernel; ky++) {
            for (int kx = 0; kx < s.kernel; kx++) {
                int sy = py * s.stride - s.padding + ky, sx = px * s.stride - s.padding + kx;
                if (sy < 0 || sy >= s.in_h || sx < 0 || sx >= s.in_w) continue;
                load(value, x + ((image + sy) * s.in_w + sx) * s.channels + channel);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) {
                    if (first || value[k] > best[k] || value[k] != value[k])
                        best[k] = value[k], where.at[k] = (POSITION)(ky * s.kernel + kx);
                }
                first = false;
            }
        }
        store(y + i * WIDTH, best);
        *(Vector<POSITION, WIDTH>*)(at + i * WIDTH) = where;
    }
}

// Each input pixel sums the gradients of the windows whose maximum it is, in order.
KERNEL(max_pool_gradient)
(const ELEMENT* gradient, const POSITION* at, ELEMENT* out, Pool s) {
    i64 count = (i64)s.batch * s.in_h * s.in_w * s.channels / WIDTH;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS) {
        int channel = i % (s.channels / WIDTH) * WIDTH;
        i64 pixel = i / (s.channels / WIDTH);
        int x = pixel % s.in_w, y = pixel / s.in_w % s.in_h;
        i64 image = pixel / s.in_w / s.in_h * s.out_h;
        float sum[WIDTH], g[WIDTH];
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum[k] = 0;
        // Window p begins at p·stride - padding.
        int below = y + s.padding - s.kernel, left = x + s.padding - s.kernel;
        for (int py = below < 0 ? 0 : below / s.stride + 1; py < s.out_h && py * s.stride <= y + s.padding; py++) {
            for (int px = left < 0 ? 0 : left / s.stride + 1; px < s.out_w && px * s.stride <= x + s.padding; px++) {
                i64 window = ((image + py) * s.out_w + px) * s.channels + channel;
                int mine = (y + s.padding - py * s.stride) * s.kernel + x + s.padding - px * s.stride;
                Vector<POSITION, WIDTH> where = *(const Vector<POSITION, WIDTH>*)(at + window);
                load(g, gradient + window);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) sum[k] += where.at[k] == mine ? g[k] : 0;
            }
        }
        store(out + i * WIDTH, sum);
    }
}

// The mean of each channel over the pixels of an image.
KERNEL(average_pool)
(const ELEMENT* x, ELEMENT* y, int batch, int pixels, int channels) {
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= batch * (channels / WIDTH)) return;
    int channel = i % (channels / WIDTH) * WIDTH;
    const ELEMENT* image = x + (i64)(i / (channels / WIDTH)) * pixels * channels + channel;
    float sum[WIDTH], value[WIDTH];
#pragma unroll
    for (int k = 0; k < WIDTH; k++) sum[k] = 0;
    for (int pixel = 0; pixel < pixels; pixel++) {
        load(value, image + (i64)pixel * channels);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum[k] += value[k];
    }
#pragma unroll
    for (int k = 0; k < WIDTH; k++) sum[k] /= pixels;
    store(y + (i64)i * WIDTH, sum);
}

// The gradient of each pixel: its share of the mean's gradient.
KERNEL(average_pool_gradient)
(const ELEMENT* gradient, ELEMENT* out, int batch, int pixels, int channels) {
    i64 count = (i64)batch * pixels * channels / WIDTH;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS) {
        i64 image = i / (channels / WIDTH) / pixels;
        float g[WIDTH];
        load(g, gradient + image * channels + i % (channels / WIDTH) * WIDTH);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) g[k] /= pixels;
        store(out + i * WIDTH, g);
    }
}
