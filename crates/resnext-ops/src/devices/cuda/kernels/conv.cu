// Any 2-D convolution and its gradients as an implicit gemm: elements are gathered from the tensors, no
// im2col matrix is stored, and one launch computes all groups. Sums are f32.
//
// ELEMENT float, bf16, f16; WEIGHT float or ELEMENT. DIRECTION 0: the output; 1: the input's gradient; 2: the
// weight's gradient, in parts over shares of the pixels.

struct Convolution {
    int batch, in_channels, in_h, in_w, out_channels, out_h, out_w, kernel_h, kernel_w, stride, padding, dilation, groups;
};

constexpr int ROWS = 64, COLUMNS = 64, DEPTH = 16, PAD = 4; // by 256 threads

struct Pixel {
    int image, y, x;
};
__device__ inline Pixel pixel_of(int index, int h, int w) { return {index / w / h, index / w % h, index % w}; }

// The element of an image tensor (N, H, W, C), or 0 beyond its borders.
__device__ inline float image_at(const ELEMENT* t, int image, int y, int x, int h, int w, int channels, int channel) {
    if (y < 0 || y >= h || x < 0 || x >= w) return 0;
    return to_float(t[(((i64)image * h + y) * w + x) * channels + channel]);
}

KERNEL(conv)
(const ELEMENT* image, const void* other, void* out, Convolution s, int shares) {
    SHARED(shared);
    float (*a)[ROWS + PAD] = (float (*)[ROWS + PAD])shared;
    float (*b)[COLUMNS + PAD] = (float (*)[COLUMNS + PAD])(shared + DEPTH * (ROWS + PAD) * 4);
    int group_in = s.in_channels / s.groups, group_out = s.out_channels / s.groups, taps = s.kernel_h * s.kernel_w;
    int out_pixels = s.batch * s.out_h * s.out_w, in_pixels = s.batch * s.in_h * s.in_w;
    int rows = DIRECTION == 0 ? out_pixels : DIRECTION == 1 ? in_pixels : group_out;
    int columns = DIRECTION == 0 ? group_out : DIRECTION == 1 ? group_in : taps * group_in;
    int row_blocks = (rows + ROWS - 1) / ROWS, share = blockIdx.x / row_blocks;
    int first_row = blockIdx.x % row_blocks * ROWS, first_column = blockIdx.y * COLUMNS, group = blockIdx.z;
    int from = 0, to = DIRECTION == 0 ? taps * group_in : DIRECTION == 1 ? taps * group_out : out_pixels;
    if (DIRECTION == 2) {
        from = (i64)out_pixels * share / shares;
        to = (i64)out_pixels * (share + 1) / shares;
    }
    int thread = threadIdx.x, down = thread / 16 * 4, right = thread % 16 * 4;
    float sum[4][4];
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i / 4][i % 4] = 0;

    for (int first = from; first < to; first += DEPTH) {
        if (DIRECTION < 2) {
            // A thread gathers one k for 4 rows and 4 columns: neighbouring threads read neighbouring
            // channels.
            const WEIGHT* weight = (const WEIGHT*)other;
            int k = first + thread % DEPTH, depth = DIRECTION == 0 ? group_in : group_out;
            int tap = k / depth, channel = k % depth;
            int ky = tap / s.kernel_w * s.dilation, kx = tap % s.kernel_w * s.dilation;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = first_row + thread / DEPTH + i * 16, column = first_column + thread / DEPTH + i * 16;
                float value = 0, w = 0;
                if (row < rows && k < to) {
                    if (DIRECTION == 0) {
                        Pixel p = pixel_of(row, s.out_h, s.out_w);
                        value = image_at(image, p.image, p.y * s.stride - s.padding + ky, p.x * s.stride - s.padding + kx,
                                         s.in_h, s.in_w, s.in_channels, group * group_in + channel);
                    } else {
                        Pixel p = pixel_of(row, s.in_h, s.in_w);
                        int y = p.y + s.padding - ky, x = p.x + s.padding - kx;
                        if (y >= 0 && x >= 0 && y % s.stride == 0 && x % s.stride == 0)
                            value = image_at(image, p.image, y / s.stride, x / s.stride, s.out_h, s.out_w, s.out_channels,
                                             group * group_out + channel);
                    }
                }
                if (column < columns && k < to) {
                    int o = DIRECTION == 0 ? column : channel, c = DIRECTION == 0 ? channel : column;
                    w = to_float(weight[((i64)(group * group_out + o) * group_in + c) * taps + tap]);
                }
                a[thread % DEPTH][thread / DEPTH + i * 16] = value;
                // Weights are rounded to the elements' type, as in the 16-bit kernels.
                b[thread % DEPTH][thread / DEPTH + i * 16] = to_float(rounded<ELEMENT>(w));
            }
        } else {
            const ELEMENT* x = (const ELEMENT*)other;
            int row = first_row + thread % ROWS, column = first_column + thread % COLUMNS;
            int tap = column / group_in, channel = group * group_in + column % group_in;
            int ky = tap / s.kernel_w * s.dilation, kx = tap % s.kernel_w * s.dilation;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int deep = thread / 64 + i * 4, k = first + deep;
                float g = 0, value = 0;
                if (k < to) {
                    if (row < rows) g = to_float(image[(i64)k * s.out_channels + group * group_out + row]);
                    if (column < columns) {
                        Pixel p = pixel_of(k, s.out_h, s.out_w);
                        value = image_at(x, p.image, p.y * s.stride - s.padding + ky, p.x * s.stride - s.padding + kx,
                                         s.in_h, s.in_w, s.in_channels, channel);
                    }
                }
                a[deep][thread % ROWS] = g;
                b[deep][thread % COLUMNS] = value;
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float u[4], v[4];
            load(u, &a[k][down]);
            load(v, &b[k][right]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += u[i] * v[j];
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = first_row + down + i, column = first_column + right + j;
            if (row >= rows || column >= columns) continue;
            if (DIRECTION == 2) {
                int tap = column / group_in, channel = column % group_in;
                i64 at = ((i64)(group * group_out + row) * group_in + channel) * taps + tap;
                ((float*)out)[(i64)share * s.out_channels * group_in * taps + at] = sum[i][j];
            } else {
                i64 at = (i64)row * columns * s.groups + group * columns + column;
                from_float(sum[i][j], ((ELEMENT*)out)[at]);
            }
        }
    }
}
