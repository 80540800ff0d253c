// Runs one launch of a kernel of grouped.metal on the CPU: sizes and buffers are read from standard input,
// the result is written to standard output. Each buffer ends at an inaccessible page, so that an access
// behind it crashes.

#include "metal_stdlib"
#include "grouped.inc"

#include <string>
#include <sys/mman.h>
#include <unistd.h>

static void* guarded(size_t size) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t whole = (size + page - 1) / page * page;
    char* at = static_cast<char*>(
        mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0));
    if (at == MAP_FAILED || mprotect(at + whole, page, PROT_NONE) != 0) {
        std::exit(2);
    }
    return at + whole - size;
}

static void read_exactly(void* to, size_t size) {
    if (std::fread(to, 1, size, stdin) != size) {
        std::exit(2);
    }
}

static void* read_buffer() {
    uint64_t size;
    read_exactly(&size, sizeof size);
    void* buffer = guarded(size);
    read_exactly(buffer, size);
    return buffer;
}

struct Launch {
    uint32_t threadgroups[3], threads[3], memory, backwards;
};

template <typename T>
static void run(const std::string& name, Launch l, const Sizes& sizes, void* a, void* b, void* out) {
    const T *first = static_cast<T*>(a), *second = static_cast<T*>(b);
    float* tile = static_cast<float*>(guarded(l.memory));
    const uint3 grid = {l.threadgroups[0], l.threadgroups[1], l.threadgroups[2]};
    const uint3 threads = {l.threads[0], l.threads[1], l.threads[2]};
    const uint count = grid.x * grid.y * grid.z;
    for (uint i = 0; i < count; i++) {
        const uint at = l.backwards ? count - 1 - i : i;
        const uint3 group = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
        // Uninitialised memory is NaN, so that its use shows.
        std::memset(tile, 0xff, l.memory);
        emulator::body = [&](uint3 self) {
            if (name == "grouped_forward") {
                conv_forward<T>(first, second, static_cast<T*>(out), sizes, tile, group, self);
            } else if (name == "grouped_input_gradient") {
                conv_input_gradient<T>(first, second, static_cast<T*>(out), sizes, tile, group, self);
            } else if (name == "grouped_weight_gradient") {
                conv_weight_gradient<T>(first, second, static_cast<float*>(out), sizes, tile, group, self);
            } else if (name == "grouped_add_blocks") {
                add_blocks<T>(static_cast<float*>(a), static_cast<T*>(out), sizes, group.x * threads.x + self.x);
            } else {
                std::exit(2);
            }
        };
        emulator::run_threadgroup(threads, l.backwards != 0);
    }
}

int main(int, char** arguments) {
    const std::string name = arguments[1], type = arguments[2];
    Launch launch;
    Sizes sizes;
    uint64_t size;
    read_exactly(&launch, sizeof launch);
    read_exactly(&sizes, sizeof sizes);
    void *a = read_buffer(), *b = read_buffer();
    read_exactly(&size, sizeof size);
    void* out = guarded(size);
    std::memset(out, 0xff, size);
    if (type == "f32") {
        run<float>(name, launch, sizes, a, b, out);
    } else if (type == "f16") {
        run<half>(name, launch, sizes, a, b, out);
    } else {
        run<bfloat>(name, launch, sizes, a, b, out);
    }
    std::fwrite(out, 1, size, stdout);
}
