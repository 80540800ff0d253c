// Converts a convolution's weights between (out, in, kh·kw), as they are stored, and (out, kh·kw, in), which
// cuDNN's channels-last filters are; and between their own type and the elements'.
//
// ELEMENT float, bf16, f16; WEIGHT float or ELEMENT.

constexpr int THREADS = 256;

KERNEL(to_elements)
(const WEIGHT* weight, ELEMENT* out, int count, int in, int taps) {
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        int channel = i % in, tap = i / in % taps, row = i / in / taps;
        from_float(to_float(weight[(row * in + channel) * taps + tap]), out[i]);
    }
}

KERNEL(from_elements)
(const ELEMENT* gradient, WEIGHT* out, int count, int in, int taps) {
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        int tap = i % taps, channel = i / taps % in, row = i / taps / in;
        from_float(to_float(gradient[(row * taps + tap) * in + channel]), out[i]);
    }
}
