// A step of stochastic gradient descent with momentum, and of the weights' average, for all parameters in one
// launch.

constexpr int THREADS = 256, BLOCK = 4096; // elements per block

struct Parameter {
    float* value;
    float* momentum;
    const float* gradient; // null if the value stays and only its average moves
    float* average; // null if there is none
    i64 count;
    i64 first_block;
};

KERNEL(sgd)
(const Parameter* parameters, int parameters_count, float learning_rate, float momentum, float decay, float keep,
 int nesterov) {
    // The last parameter whose first block is at or before this one.
    int low = 0, high = parameters_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (parameters[middle].first_block <= blockIdx.x) low = middle;
        else high = middle - 1;
    }
    Parameter p = parameters[low];
    i64 first = ((i64)blockIdx.x - p.first_block) * BLOCK;
    for (i64 i = first + threadIdx.x; i < first + BLOCK && i < p.count; i += THREADS) {
        float value = p.value[i];
        if (p.gradient) {
            float g = p.gradient[i] + decay * value;
            float direction = momentum * p.momentum[i] + g;
            p.momentum[i] = direction;
            if (nesterov) direction = g + momentum * direction;
            value -= learning_rate * direction;
            p.value[i] = value;
        }
        if (p.average) p.average[i] = keep * p.average[i] + (1 - keep) * value;
    }
}
