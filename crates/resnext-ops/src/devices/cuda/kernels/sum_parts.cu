// Adds the parts of a sum that different blocks computed, in order.
//
// OUTPUT float, bf16, f16.

KERNEL(sum_parts)
(const float* parts, OUTPUT* out, int count, int parts_count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = 0;
    for (int part = 0; part < parts_count; part++) sum += parts[(i64)part * count + i];
    from_float(sum, out[i]);
}
