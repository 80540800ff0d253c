// Element-wise: ReLU, sums, ReLU's gradient, a bias; and a plain copy, which measures memory bandwidth.
//
// ELEMENT float, bf16, f16; PARAMETER float or ELEMENT; WIDTH elements per access.

constexpr int THREADS = 256;

// operation 0: max(a, 0); 1: a + b; 2: max(a + b, 0); 3: a where b is positive, else 0; 4: a; 5: a -
// m·round(a / m), for integers and odd m.
KERNEL(pointwise)
(const ELEMENT* a, const ELEMENT* b, ELEMENT* out, i64 count, int operation, float m) {
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count / WIDTH; i += (i64)gridDim.x * THREADS) {
        float x[WIDTH], y[WIDTH];
        load(x, a + i * WIDTH);
        if (operation >= 1 && operation <= 3) load(y, b + i * WIDTH);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            if (operation == 1 || operation == 2) x[k] += y[k];
            // Written so that NaN stays NaN.
            if ((operation == 0 || operation == 2) && x[k] < 0) x[k] = 0;
            if (operation == 3 && !(y[k] > 0)) x[k] = 0;
            if (operation == 5) x[k] = (float)(x[k] - (double)m * round((double)x[k] / m));
        }
        store(out + i * WIDTH, x);
    }
}

// x (pixels, channels) += bias (channels), in place.
KERNEL(add_bias)
(ELEMENT* x, const PARAMETER* bias, i64 count, int channels) {
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS)
        from_float(to_float(x[i]) + to_float(bias[i % channels]), x[i]);
}

// The sum over rows of x (rows, channels), in order.
KERNEL(sum_rows)
(const ELEMENT* x, PARAMETER* out, int rows, int channels) {
    int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= channels) return;
    float sum = 0;
    for (int row = 0; row < rows; row++) sum += to_float(x[(i64)row * channels + c]);
    from_float(sum, out[c]);
}
