// Batch norm on (pixels, channels), with an optional residual and ReLU behind it. Statistics and sums are f32
// within a block; across blocks they are f64 and added in order.
//
// ELEMENT float, bf16, f16; PARAMETER float or ELEMENT; WIDTH elements per access; RELU 0, 1; RESIDUAL 0, 1.

constexpr int THREADS = 256;

// Sums a block's two values per channel over the threads of each column, and writes them to `part`.
__device__ inline void sum_block(float (&first)[WIDTH], float (&second)[WIDTH], float* part, int channels, int across) {
    SHARED(shared);
    float (*sums)[2 * WIDTH] = (float (*)[2 * WIDTH])shared;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sums[threadIdx.x][i] = first[i], sums[threadIdx.x][WIDTH + i] = second[i];
    for (int half = THREADS / across / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half * across) {
#pragma unroll
            for (int i = 0; i < 2 * WIDTH; i++) sums[threadIdx.x][i] += sums[threadIdx.x + half * across][i];
        }
    }
    int channel = (blockIdx.x * across + threadIdx.x) * WIDTH;
    if (threadIdx.x >= across || channel >= channels) return;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        part[channel + i] = sums[threadIdx.x][i];
        part[channels + channel + i] = sums[threadIdx.x][WIDTH + i];
    }
}

// Per channel, over a share of the pixels: Σ (x - x₀) and Σ (x - x₀)², where x₀ is the first pixel.
// blockIdx.x selects `across` (a power of two) times WIDTH channels, blockIdx.y a share.
KERNEL(moments)
(const ELEMENT* x, float* parts, int pixels, int channels, int across) {
    int channel = (blockIdx.x * across + threadIdx.x % across) * WIDTH;
    float sum[WIDTH], squares[WIDTH], origin[WIDTH], value[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] = squares[i] = 0;
    if (channel < channels) {
        load(origin, x + channel);
        int last = (i64)pixels * (blockIdx.y + 1) / gridDim.y;
        int first = (i64)pixels * blockIdx.y / gridDim.y + threadIdx.x / across;
#pragma unroll 4
        for (int pixel = first; pixel < last; pixel += THREADS / across) {
            load(value, x + (i64)pixel * channels + channel);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                float d = value[i] - origin[i];
                sum[i] += d, squares[i] += d * d;
            }
        }
    }
    sum_block(sum, squares, parts + (i64)blockIdx.y * 2 * channels, channels, across);
}

// `line`: scale, shift, mean and 1/σ per channel, from the parts of the moments or, if there are none, from
// the running statistics. Moves the running statistics by `momentum`.
KERNEL(make_line)
(const ELEMENT* x, const float* parts, int parts_count, const PARAMETER* weight, const PARAMETER* bias,
 PARAMETER* running_mean, PARAMETER* running_var, float* line, int pixels, int channels, float eps, float momentum) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    double mean = to_float(running_mean[c]), var = to_float(running_var[c]);
    if (parts) {
        double sum = 0, squares = 0;
        for (int part = 0; part < parts_count; part++) {
            sum += parts[(i64)part * 2 * channels + c];
            squares += parts[((i64)part * 2 + 1) * channels + c];
        }
        double running[2] = {mean, var};
        mean = sum / pixels;
        var = squares / pixels - mean * mean;
        // Not fmax, which would drop a NaN.
        if (var < 0) var = 0;
        mean += to_float(x[c]);
        double unbiased = var * pixels / (pixels - 1);
        from_float((float)((1 - momentum) * running[0] + momentum * mean), running_mean[c]);
        from_float((float)((1 - momentum) * running[1] + momentum * unbiased), running_var[c]);
    }
    double inverse = 1 / sqrt(var + eps), scale = to_float(weight[c]) * inverse;
    line[c] = (float)scale;
    line[channels + c] = (float)(to_float(bias[c]) - scale * mean);
    line[2 * channels + c] = (float)mean;
    line[3 * channels + c] = (float)inverse;
}

__device__ inline float on_line(float x, float scale, float shift) { return x * scale + shift; }

// y = scale·x + shift, plus the residual and through ReLU as compiled.
KERNEL(normalise)
(const ELEMENT* x, const ELEMENT* residual, const float* line, ELEMENT* y, int pixels, int channels) {
    i64 count = (i64)pixels * channels / WIDTH;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS) {
        int channel = i * WIDTH % channels;
        float value[WIDTH], scale[WIDTH], shift[WIDTH], other[WIDTH];
        load(value, x + i * WIDTH), load(scale, line + channel), load(shift, line + channels + channel);
        if (RESIDUAL) load(other, residual + i * WIDTH);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            value[k] = on_line(value[k], scale[k], shift[k]);
            if (RESIDUAL) value[k] += other[k];
            // Written so that NaN stays NaN.
            if (RELU && value[k] < 0) value[k] = 0;
        }
        store(y + i * WIDTH, value);
    }
}

// Σ g and Σ g·(x - mean) over a share of the pixels, where g is the output's gradient where ReLU lets it
// pass. With a residual the output decides where that is, and g, which is the residual's gradient, goes to
// `gated`.
KERNEL(gradient_sums)
(const ELEMENT* x, const ELEMENT* y, const ELEMENT* gradient, const float* line, ELEMENT* gated, float* parts, int pixels,
 int channels, int across) {
    int channel = (blockIdx.x * across + threadIdx.x % across) * WIDTH;
    float sum[WIDTH], product[WIDTH], value[WIDTH], g[WIDTH], out[WIDTH], scale[WIDTH], shift[WIDTH], mean[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] = product[i] = 0;
    if (channel < channels) {
        load(scale, line + channel), load(shift, line + channels + channel), load(mean, line + 2 * channels + channel);
        int last = (i64)pixels * (blockIdx.y + 1) / gridDim.y;
        int first = (i64)pixels * blockIdx.y / gridDim.y + threadIdx.x / across;
#pragma unroll 2
        for (int pixel = first; pixel < last; pixel += THREADS / across) {
            i64 at = (i64)pixel * channels + channel;
            load(value, x + at), load(g, gradient + at);
            if (RESIDUAL) load(out, y + at);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                float gate = RESIDUAL ? out[i] : on_line(value[i], scale[i], shift[i]);
                if (RELU && !(gate > 0)) g[i] = 0;
                sum[i] += g[i], product[i] += g[i] * (value[i] - mean[i]);
            }
            if (RESIDUAL) store(gated + at, g);
        }
    }
    sum_block(sum, product, parts + (i64)blockIdx.y * 2 * channels, channels, across);
}

// From the parts of the sums: the gradients of weight and bias, and the coefficients of the gradient of x,
// which is a·g + b·(x - mean) + d, or a·g where statistics were given (`training` 0).
KERNEL(make_gradient_line)
(const float* parts, int parts_count, const PARAMETER* weight, const float* line, PARAMETER* weight_gradient,
 PARAMETER* bias_gradient, float* gradient_line, int pixels, int channels, int training) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    double sum = 0, product = 0;
    for (int part = 0; part < parts_count; part++) {
        sum += parts[(i64)part * 2 * channels + c];
        product += parts[((i64)part * 2 + 1) * channels + c];
    }
    double inverse = line[3 * channels + c], a = to_float(weight[c]) * inverse;
    from_float((float)(product * inverse), weight_gradient[c]);
    from_float((float)sum, bias_gradient[c]);
    gradient_line[c] = (float)a;
    gradient_line[channels + c] = training ? (float)(-a * inverse * inverse * product / pixels) : 0;
    gradient_line[2 * channels + c] = training ? (float)(-a * sum / pixels) : 0;
}

// The gradient of x. With a residual, `gradient` is what gradient_sums wrote to `gated`.
KERNEL(input_gradient)
(const ELEMENT* x, const ELEMENT* gradient, const float* line, const float* gradient_line, ELEMENT* out, int pixels,
 int channels) {
    i64 count = (i64)pixels * channels / WIDTH;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS) {
        int channel = i * WIDTH % channels;
        float value[WIDTH], g[WIDTH], scale[WIDTH], shift[WIDTH], mean[WIDTH], a[WIDTH], b[WIDTH], d[WIDTH];
        load(value, x + i * WIDTH), load(g, gradient + i * WIDTH);
        load(scale, line + channel), load(shift, line + channels + channel), load(mean, line + 2 * channels + channel);
        load(a, gradient_line + channel), load(b, gradient_line + channels + channel);
        load(d, gradient_line + 2 * channels + channel);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            if (RELU && !RESIDUAL && !(on_line(value[k], scale[k], shift[k]) > 0)) g[k] = 0;
            g[k] = a[k] * g[k] + b[k] * (value[k] - mean[k]) + d[k];
        }
        store(out + i * WIDTH, g);
    }
}
