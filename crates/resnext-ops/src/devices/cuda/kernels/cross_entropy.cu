// The mean over a batch of the cross-entropy between softmax and labels, and its gradient, computed in f32.
//
// ELEMENT float, bf16, f16.

constexpr int THREADS = 128;

__device__ inline float not_a_number() { return __int_as_float(0x7fc00000); }

enum Join { SUM, MAXIMUM };
// The sum or maximum over a block's threads; all of them get it.
template <Join join> __device__ inline float over_block(float mine) {
    SHARED(shared);
    float* values = (float*)shared;
    __syncthreads();
    values[threadIdx.x] = mine;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            float other = values[threadIdx.x + half], &value = values[threadIdx.x];
            value = join == SUM ? value + other : (other > value ? other : value);
        }
    }
    __syncthreads();
    return values[0];
}

// The largest logit of a row, and the logarithm of Σ exp(logit - largest).
__device__ inline void normaliser(const ELEMENT* row, int classes, float& largest, float& log_sum) {
    float most = -__int_as_float(0x7f800000), sum = 0;
    for (int k = threadIdx.x; k < classes; k += THREADS) {
        float z = to_float(row[k]);
        if (z > most) most = z;
    }
    largest = over_block<MAXIMUM>(most);
    for (int k = threadIdx.x; k < classes; k += THREADS) sum += expf(to_float(row[k]) - largest);
    log_sum = logf(over_block<SUM>(sum));
}

// The loss of each example, one block per example; NaN if the label is not below the number of classes.
KERNEL(example_losses)
(const ELEMENT* logits, const u32* labels, float* losses, int classes, float smoothing) {
    const ELEMENT* row = logits + (i64)blockIdx.x * classes;
    float largest, log_sum, sum = 0;
    normaliser(row, classes, largest, log_sum);
    for (int k = threadIdx.x; k < classes; k += THREADS) sum += to_float(row[k]) - largest - log_sum;
    sum = over_block<SUM>(sum);
    if (threadIdx.x) return;
    u32 label = labels[blockIdx.x];
    float own = label < (u32)classes ? to_float(row[label]) - largest - log_sum : not_a_number();
    losses[blockIdx.x] = -(1 - smoothing) * own - smoothing * sum / classes;
}

// The mean of the losses, by one block.
KERNEL(mean_loss)
(const float* losses, float* loss, int count) {
    float sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += losses[i];
    sum = over_block<SUM>(sum);
    if (threadIdx.x == 0) *loss = sum / count;
}

// The gradient of each example's logits from that of the mean, one block per example; NaN if the label is not
// below the number of classes.
KERNEL(logits_gradient)
(const ELEMENT* logits, const u32* labels, const float* gradient, ELEMENT* out, int classes, float smoothing) {
    const ELEMENT* row = logits + (i64)blockIdx.x * classes;
    u32 label = labels[blockIdx.x];
    float largest, log_sum, scale = label < (u32)classes ? *gradient / gridDim.x : not_a_number();
    normaliser(row, classes, largest, log_sum);
    for (int k = threadIdx.x; k < classes; k += THREADS) {
        float target = smoothing / classes + ((u32)k == label ? 1 - smoothing : 0);
        from_float(scale * (expf(to_float(row[k]) - largest - log_sum) - target), out[(i64)blockIdx.x * classes + k]);
    }
}
