// Grouped 3×3 convolution of channels-last maps: forward, input gradient, weight gradient.
//
// A threadgroup reads a tile of pixels, with the channels of some groups, once into threadgroup memory.
// Threads map to channels, so that neighbouring threads access neighbouring addresses. Sums are f32. plan.rs
// computes the sizes; tests compile this file as C++ (src/tests/metal) and run it on the CPU.

#include <metal_stdlib>
using namespace metal;

// As in plan.rs.
constant constexpr int LANES = 32;   // the most channels of a tile: a threadgroup's width
constant constexpr int COLUMNS = 8;  // pixels along a row of a tile
constant constexpr int ROWS = 4;     // and along a column of it
constant constexpr int SLOTS = 8;    // weight gradient: input channels of a group in parallel
constant constexpr int PER_SLOT = 4; // and one after another per thread

struct Sizes {
    int batch, in_h, in_w, out_h, out_w;
    int groups, group_in, group_out;
    int stride, padding;
    int tile_groups; // groups per threadgroup
    int chunks;      // threadgroups that cover all groups
    int blocks;      // weight gradient: threadgroups that share the pixels
};

// a/b rounded down, for b > 0.
static int floor_div(int a, int b) {
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// Copies a window of an (N, H, W, C) map, which is zero outside its borders: pixel after pixel, LANES
// channels each.
struct Window {
    int image, height, width, channels;
    int first_channel, count; // the channels to read
    int y, x, rows, columns;
};

template <typename T>
static void read_window(device const T* map, threadgroup float* tile, Window w, int self, int threads) {
    for (int i = self; i < w.rows * w.columns * LANES; i += threads) {
        const int lane = i % LANES, pixel = i / LANES;
        const int y = w.y + pixel / w.columns, x = w.x + pixel % w.columns;
        float value = 0;
        if (lane < w.count && y >= 0 && y < w.height && x >= 0 && x < w.width) {
            const long at = ((long(w.image) * w.height + y) * w.width + x) * w.channels;
            value = float(map[at + w.first_channel + lane]);
        }
        tile[i] = value;
    }
}

// The number of groups in this chunk.
static int groups_of(constant Sizes& s, int chunk) {
    return min(s.tile_groups, s.groups - chunk * s.tile_groups);
}

// Each thread computes one output channel of COLUMNS pixels of a row.
template <typename T>
static void conv_forward(device const T* x, device const T* weight, device T* out, constant Sizes& s,
                    threadgroup float* tile, uint3 group, uint3 self) {
    const int image = int(group.z) / s.chunks, chunk = int(group.z) % s.chunks;
    const int first_group = chunk * s.tile_groups, groups = groups_of(s, chunk);
    const int y0 = int(group.y) * ROWS, x0 = int(group.x) * COLUMNS;
    const int columns = (COLUMNS - 1) * s.stride + 3;
    const Window window = {image, s.in_h, s.in_w, s.groups * s.group_in, first_group * s.group_in,
                           groups * s.group_in, y0 * s.stride - s.padding, x0 * s.stride - s.padding,
                           (ROWS - 1) * s.stride + 3, columns};
    read_window(x, tile, window, int(self.y) * LANES + int(self.x), LANES * ROWS);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const int lane = int(self.x), y = y0 + int(self.y);
    if (lane >= groups * s.group_out || y >= s.out_h) {
        return;
    }
    const int k = first_group * s.group_out + lane;
    const int from = lane / s.group_out * s.group_in;
    float sums[COLUMNS] = {0};
    for (int c = 0; c < s.group_in; c++) {
        for (int ky = 0; ky < 3; ky++) {
            threadgroup const float* row = tile + (int(self.y) * s.stride + ky) * columns * LANES + from + c;
            for (int kx = 0; kx < 3; kx++) {
                const float w = float(weight[((long(k) * s.group_in + c) * 3 + ky) * 3 + kx]);
                for (int t = 0; t < COLUMNS; t++) {
                    sums[t] += w * row[(t * s.stride + kx) * LANES];
                }
            }
        }
    }
    const long at = (long(image) * s.out_h + y) * s.out_w;
    for (int t = 0; t < COLUMNS && x0 + t < s.out_w; t++) {
        out[(at + x0 + t) * s.groups * s.group_out + k] = T(sums[t]);
    }
}

// Each thread computes one input channel of COLUMNS pixels of a row. A pixel gathers from the outputs that
// read it.
template <typename T>
static void conv_input_gradient(device const T* gradient, device const T* weight, device T* out, constant Sizes& s,
                           threadgroup float* tile, uint3 group, uint3 self) {
    const int image = int(group.z) / s.chunks, chunk = int(group.z) % s.chunks;
    const int first_group = chunk * s.tile_groups, groups = groups_of(s, chunk);
    const int y0 = int(group.y) * ROWS, x0 = int(group.x) * COLUMNS;
    // The first output that reads the tile, and the most that can.
    const int first_y = floor_div(y0 + s.padding - 2, s.stride), first_x = floor_div(x0 + s.padding - 2, s.stride);
    const int rows = (ROWS + s.stride) / s.stride + 1, columns = (COLUMNS + s.stride) / s.stride + 1;
    const Window window = {image, s.out_h, s.out_w, s.groups * s.group_out, first_group * s.group_out,
                           groups * s.group_out, first_y, first_x, rows, columns};
    read_window(gradient, tile, window, int(self.y) * LANES + int(self.x), LANES * ROWS);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const int lane = int(self.x), y = y0 + int(self.y);
    if (lane >= groups * s.group_in || y >= s.in_h) {
        return;
    }
    const int c = lane % s.group_in, from = lane / s.group_in * s.group_out;
    float sums[COLUMNS] = {0};
    for (int k = 0; k < s.group_out; k++) {
        const long kernel_at = (long(first_group * s.group_out + from + k) * s.group_in + c) * 9;
        for (int ky = 0; ky < 3; ky++) {
            const int up = y + s.padding - ky;
            if (up % s.stride != 0) {
                continue;
            }
            threadgroup const float* row = tile + (up / s.stride - first_y) * columns * LANES + from + k;
            for (int kx = 0; kx < 3; kx++) {
                const float w = float(weight[kernel_at + ky * 3 + kx]);
                for (int t = 0; t < COLUMNS; t++) {
                    const int left = x0 + t + s.padding - kx;
                    if (left % s.stride == 0) {
                        sums[t] += w * row[(left / s.stride - first_x) * LANES];
                    }
                }
            }
        }
    }
    const long at = (long(image) * s.in_h + y) * s.in_w;
    for (int t = 0; t < COLUMNS && x0 + t < s.in_w; t++) {
        out[(at + x0 + t) * s.groups * s.group_in + first_group * s.group_in + lane] = T(sums[t]);
    }
}

// Each thread sums one output channel, every SLOTSth input channel of its group and all nine kernel positions
// over the tiles of its block. `partial` is (blocks, Cout, Cin/groups, 3, 3).
template <typename T>
static void conv_weight_gradient(device const T* x, device const T* gradient, device float* partial, constant Sizes& s,
                            threadgroup float* tile, uint3 group, uint3 self) {
    const int chunk = int(group.x), block = int(group.y);
    const int first_group = chunk * s.tile_groups, groups = groups_of(s, chunk);
    const int columns = (COLUMNS - 1) * s.stride + 3, rows = (ROWS - 1) * s.stride + 3;
    threadgroup float* gradients = tile + rows * columns * LANES;
    const int down = (s.out_h + ROWS - 1) / ROWS, across = (s.out_w + COLUMNS - 1) / COLUMNS;
    const int lane = int(self.x), slot = int(self.y), index = slot * LANES + lane;
    const bool used = lane < groups * s.group_out;
    const int from = lane / s.group_out * s.group_in;
    float sums[PER_SLOT][9] = {{0}};
    // Every thread visits every tile of the block, because all threads must reach the barriers.
    for (int i = block; i < s.batch * down * across; i += s.blocks) {
        const int image = i / (down * across), y0 = i / across % down * ROWS, x0 = i % across * COLUMNS;
        const Window inputs = {image, s.in_h, s.in_w, s.groups * s.group_in, first_group * s.group_in,
                               groups * s.group_in, y0 * s.stride - s.padding, x0 * s.stride - s.padding,
                               rows, columns};
        const Window outputs = {image, s.out_h, s.out_w, s.groups * s.group_out, first_group * s.group_out,
                                groups * s.group_out, y0, x0, ROWS, COLUMNS};
        read_window(x, tile, inputs, index, LANES * SLOTS);
        read_window(gradient, gradients, outputs, index, LANES * SLOTS);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int turn = 0; turn < PER_SLOT; turn++) {
            const int c = turn * SLOTS + slot;
            if (!used || c >= s.group_in) {
                break;
            }
            // Only inside the map: beyond it zeros might be multiplied by infinity or NaN.
            for (int y = 0; y < min(ROWS, s.out_h - y0); y++) {
                for (int t = 0; t < min(COLUMNS, s.out_w - x0); t++) {
                    const float g = gradients[(y * COLUMNS + t) * LANES + lane];
                    threadgroup const float* at = tile + (y * s.stride * columns + t * s.stride) * LANES + from + c;
                    for (int ky = 0; ky < 3; ky++) {
                        for (int kx = 0; kx < 3; kx++) {
                            sums[turn][ky * 3 + kx] += g * at[(ky * columns + kx) * LANES];
                        }
                    }
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (int turn = 0; turn < PER_SLOT; turn++) {
        const int c = turn * SLOTS + slot;
        if (!used || c >= s.group_in) {
            break;
        }
        const long k = long(block) * s.groups * s.group_out + first_group * s.group_out + lane;
        for (int tap = 0; tap < 9; tap++) {
            partial[(k * s.group_in + c) * 9 + tap] = sums[turn][tap];
        }
    }
}

// Each thread sums one element of the weight. Blocks are added in order, so that results are reproducible bit
// by bit.
template <typename T>
static void add_blocks(device const float* partial, device T* out, constant Sizes& s, uint self) {
    const int weights = s.groups * s.group_out * s.group_in * 9;
    if (int(self) >= weights) {
        return;
    }
    float sum = 0;
    for (int block = 0; block < s.blocks; block++) {
        sum += partial[long(block) * weights + self];
    }
    out[self] = T(sum);
}

#define KERNELS(NAME, T)                                                                                     \
    kernel void grouped_forward_##NAME(                                                                      \
        device const T* x [[buffer(0)]], device const T* weight [[buffer(1)]], device T* out [[buffer(2)]],  \
        constant Sizes& sizes [[buffer(3)]], threadgroup float* tile [[threadgroup(0)]],                     \
        uint3 group [[threadgroup_position_in_grid]], uint3 self [[thread_position_in_threadgroup]]) {       \
        conv_forward<T>(x, weight, out, sizes, tile, group, self);                                                \
    }                                                                                                        \
    kernel void grouped_input_gradient_##NAME(                                                               \
        device const T* gradient [[buffer(0)]], device const T* weight [[buffer(1)]],                        \
        device T* out [[buffer(2)]], constant Sizes& sizes [[buffer(3)]],                                    \
        threadgroup float* tile [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],            \
        uint3 self [[thread_position_in_threadgroup]]) {                                                     \
        conv_input_gradient<T>(gradient, weight, out, sizes, tile, group, self);                                  \
    }                                                                                                        \
    kernel void grouped_weight_gradient_##NAME(                                                              \
        device const T* x [[buffer(0)]], device const T* gradient [[buffer(1)]],                             \
        device float* partial [[buffer(2)]], constant Sizes& sizes [[buffer(3)]],                            \
        threadgroup float* tile [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],            \
        uint3 self [[thread_position_in_threadgroup]]) {                                                     \
        conv_weight_gradient<T>(x, gradient, partial, sizes, tile, group, self);                                  \
    }                                                                                                        \
    kernel void grouped_add_blocks_##NAME(                                                                   \
        device const float* partial [[buffer(0)]], device T* out [[buffer(1)]],                              \
        constant Sizes& sizes [[buffer(2)]], uint self [[thread_position_in_grid]]) {                        \
        add_blocks<T>(partial, out, sizes, self);                                                            \
    }

KERNELS(f32, float)
KERNELS(f16, half)
#if defined(__HAVE_BFLOAT__)
KERNELS(bf16, bfloat)
#endif
