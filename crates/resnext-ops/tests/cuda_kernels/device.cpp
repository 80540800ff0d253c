// A CUDA device on the CPU: one library with the functions of the driver, NVRTC, cuBLAS, cuRAND and cuDNN
// that this project calls, so that the tests of a CUDA build run as they would on a GPU
// (scripts/cuda/emulate.sh). NVRTC compiles the kernels with g++ and emulator.h; cuBLAS and cuDNN are loops,
// written from their documentation. Of candle's own kernels there are only copies, casts and fills.
// EMULATED_DEVICE names the folder of this file, EMULATED_CACHE a folder for compiled kernels, EMULATED_LOG a
// file that gets a line for everything put on the stream.
#include "emulator.h"
#include <dlfcn.h>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>

typedef unsigned long long Address;
enum { OK = 0, OUT_OF_MEMORY = 2, NOT_SUPPORTED = 801 };
static constexpr size_t TOO_MUCH = size_t(1) << 40; // bytes, more than the device has

static std::recursive_mutex device; // one call at a time

static void log(const std::string& what) {
    static FILE* file = getenv("EMULATED_LOG") ? fopen(getenv("EMULATED_LOG"), "w") : nullptr;
    if (file) fprintf(file, "%s\n", what.c_str()), fflush(file);
}

// ---- The driver ----

static std::map<Address, std::unique_ptr<emulator::Memory>> memory;
static thread_local void* context;
static char only_context, only_stream;

struct Module {
    void* library; // null for candle's
};
struct Function {
    std::string name;
    void (*run)(void**, unsigned, unsigned, unsigned, unsigned, size_t); // null for candle's
};

// An element of any type as f64, for casts and library calls.
static double element(const char* type, const void* at, size_t i) {
    std::string t = type;
    if (t == "f32") return ((const float*)at)[i];
    if (t == "f64") return ((const double*)at)[i];
    if (t == "bf16") return to_float(((const bf16*)at)[i]);
    if (t == "f16") return to_float(((const f16*)at)[i]);
    if (t == "u32") return ((const unsigned*)at)[i];
    emulator::fail("no such type: " + t);
}
static void put_element(const char* type, void* at, size_t i, double x) {
    std::string t = type;
    if (t == "f32") ((float*)at)[i] = x;
    else if (t == "f64") ((double*)at)[i] = x;
    else if (t == "bf16") from_float(x, ((bf16*)at)[i]);
    else if (t == "f16") from_float(x, ((f16*)at)[i]);
    else if (t == "u32") ((unsigned*)at)[i] = x;
    else emulator::fail("no such type: " + t);
}

static std::vector<double> elements(const char* type, const void* at, size_t count) {
    std::vector<double> all(count);
    for (size_t i = 0; i < count; i++) all[i] = element(type, at, i);
    return all;
}

// candle's copy, cast and fill kernels: count, dimensions, their sizes and strides (or null), from, to.
static int candle_kernel(const std::string& name, void** p) {
    std::string from, to;
    if (name.rfind("const_set_", 0) == 0) { // count, dimensions, sizes and strides (or null), value, to
        to = name.substr(10);
        if (*(size_t**)p[2]) return NOT_SUPPORTED;
        for (size_t i = 0; i < *(size_t*)p[0]; i++) put_element(to.c_str(), *(void**)p[4], i, element(to.c_str(), p[3], 0));
        return OK;
    }
    if (name.rfind("ucopy_", 0) == 0) from = to = name.substr(6);
    else if (name.rfind("cast_", 0) == 0) {
        size_t middle = name.find('_', 5);
        from = name.substr(5, middle - 5), to = name.substr(middle + 1);
    } else {
        fprintf(stderr, "emulated device: candle's kernel %s is not there\n", name.c_str());
        return NOT_SUPPORTED;
    }
    size_t count = *(size_t*)p[0], rank = *(size_t*)p[1];
    const size_t* info = *(const size_t**)p[2];
    const void* in = *(const void**)p[3];
    void* out = *(void**)p[4];
    for (size_t i = 0; i < count; i++) {
        size_t at = i;
        if (info) {
            at = 0;
            size_t rest = i;
            for (size_t d = rank; d-- > 0; rest /= info[d]) at += rest % info[d] * info[rank + d];
        }
        put_element(to.c_str(), out, i, element(from.c_str(), in, at));
    }
    return OK;
}

extern "C" {
int cuInit(unsigned) { return OK; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? OK : 101; }
int cuDeviceGetCount(int* count) { return *count = 1, OK; }
int cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "emulated device"), OK; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 16: *value = 4; break;       // multiprocessors
    case 75: *value = 8; break;       // compute capability
    case 97: *value = 163 << 10; break; // shared memory per block
    default: *value = 0;
    }
    return OK;
}
int cuDevicePrimaryCtxRetain(void** to, int) { return *to = &only_context, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void* to) { return context = to, OK; }
int cuCtxGetCurrent(void** to) { return *to = context, OK; }
int cuCtxSynchronize() { return OK; }
int cuStreamCreate(void** to, unsigned) { return *to = &only_stream, OK; }
int cuStreamDestroy_v2(void*) { return OK; }
int cuStreamSynchronize(void*) { return OK; }
int cuStreamWaitEvent(void*, void*, unsigned) { return OK; }
int cuStreamIsCapturing(void*, int* status) { return *status = 0, OK; }
int cuEventCreate(void** to, unsigned) { return *to = &only_stream, OK; }
int cuEventDestroy_v2(void*) { return OK; }
int cuEventRecord(void*, void*) { return OK; }
int cuMemAlloc_v2(Address* to, size_t bytes) {
    if (bytes >= TOO_MUCH) return OUT_OF_MEMORY;
    std::lock_guard lock(device);
    auto block = std::make_unique<emulator::Memory>(bytes);
    *to = (Address)block->get();
    memory[*to] = std::move(block);
    return OK;
}
int cuMemFree_v2(Address at) {
    std::lock_guard lock(device);
    memory.at(at)->check();
    return memory.erase(at), OK;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) { return log("copy to the device"), memcpy((void*)to, from, bytes), OK; }
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) { return log("copy to the host"), memcpy(to, (void*)from, bytes), OK; }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) { return log("copy on the device"), memmove((void*)to, (void*)from, bytes), OK; }
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void*) { return log("fill"), memset((void*)to, value, bytes), OK; }

int cuModuleLoadData(void** to, const void* image) {
    std::string text = (const char*)image;
    void* library = nullptr;
    if (text.rfind("EMULATED ", 0) == 0 && !(library = dlopen(text.substr(9).c_str(), RTLD_NOW | RTLD_LOCAL))) {
        fprintf(stderr, "emulated device: %s\n", dlerror());
        return 200;
    }
    return *to = new Module{library}, OK;
}
int cuModuleUnload(void*) { return OK; }
int cuModuleGetFunction(void** to, void* module, const char* name) {
    auto* function = new Function{name, nullptr};
    if (void* library = ((Module*)module)->library) {
        *(void**)&function->run = dlsym(library, (std::string("run_") + name).c_str());
        if (!function->run) return 500;
    }
    return *to = function, OK;
}
int cuFuncSetAttribute(void*, int, int) { return OK; }
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void*, void** parameters, void**) {
    std::lock_guard lock(device);
    auto* f = (Function*)function;
    log(f->name);
    if (!f->run) return candle_kernel(f->name, parameters);
    if (by != 1 || bz != 1) emulator::fail("blocks of one dimension only");
    f->run(parameters, x, y, z, bx, shared);
    return OK;
}
int cuGetErrorName(int, const char** to) { return *to = "an error of the emulated device", OK; }
int cuGetErrorString(int, const char** to) { return *to = "an error of the emulated device", OK; }

// ---- NVRTC ----

struct Program {
    std::string text, result, log;
};
int nvrtcCreateProgram(Program** to, const char* text, const char*, int, const char* const*, const char* const*) {
    return *to = new Program{text, "", ""}, OK;
}
int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    std::lock_guard lock(device);
    const std::string folder = getenv("EMULATED_DEVICE"), cache = getenv("EMULATED_CACHE");
    std::string flags, text = program->text;
    for (int i = 0; i < count; i++)
        if (!strncmp(options[i], "-D", 2)) flags += std::string(" ") + options[i];
    // emulator.h is in the place of device.cuh, which comes first.
    size_t common = text.find("// What the kernels share on any machine");
    if (common == std::string::npos) return 6;
    std::ostringstream source;
    source << "#include \"" << folder << "/emulator.h\"\n" << text.substr(common);
    for (size_t at = text.find("KERNEL(", common); at != std::string::npos; at = text.find("KERNEL(", at + 1)) {
        std::string name = text.substr(at + 7, text.find(')', at) - at - 7);
        source << "extern \"C\" void run_" << name << "(void** p, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared) {\n"
               << "    emulator::launch(dim3{x, y, z}, threads, shared, [&] { emulator::call(" << name << ", p); });\n}\n";
    }
    std::string stem = cache + "/" + std::to_string(std::hash<std::string>()(source.str() + flags));
    program->result = "EMULATED " + stem + ".so";
    if (access((stem + ".so").c_str(), R_OK) == 0) return OK;
    std::ofstream(stem + ".cpp") << source.str();
    std::string command = "g++ -std=c++17 -O1 -w -fPIC -shared -U_FORTIFY_SOURCE" + flags + " -o " + stem + ".part " + stem +
                          ".cpp 2>" + stem + ".log && mv " + stem + ".part " + stem + ".so";
    if (system(command.c_str()) == 0) return OK;
    std::stringstream log;
    log << std::ifstream(stem + ".log").rdbuf();
    return program->log = log.str(), 6;
}
int nvrtcGetPTXSize(Program* program, size_t* size) { return *size = program->result.size() + 1, OK; }
int nvrtcGetPTX(Program* program, char* to) { return strcpy(to, program->result.c_str()), OK; }
int nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, OK; }
int nvrtcGetProgramLog(Program* program, char* to) { return strcpy(to, program->log.c_str()), OK; }
int nvrtcDestroyProgram(Program** program) { return delete *program, OK; }

// ---- cuRAND, which candle opens with every device ----

int curandCreateGenerator(void** to, int) { return *to = &only_stream, OK; }
int curandDestroyGenerator(void*) { return OK; }
int curandSetStream(void*, void*) { return OK; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return OK; }

// ---- cuBLAS: matrices lie column by column ----

static const char* cuda_type(int type) { return type == 0 ? "f32" : type == 2 ? "f16" : type == 14 ? "bf16" : "?"; }

int cublasCreate_v2(void** to) { return *to = &only_stream, OK; }
int cublasDestroy_v2(void*) { return OK; }
int cublasSetStream_v2(void*, void*) { return OK; }
int cublasGemmEx(void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda, const void* b,
                 int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int, int) {
    std::lock_guard lock(device);
    log("cuBLAS: gemm");
    if (a_type != b_type || *(const float*)alpha != 1 || *(const float*)beta != 0) return 15;
    auto as = elements(cuda_type(a_type), a, size_t(lda) * (ta ? m : k)), bs = elements(cuda_type(b_type), b, size_t(ldb) * (tb ? k : n));
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            double sum = 0;
            for (int l = 0; l < k; l++)
                sum += as[ta ? l + size_t(i) * lda : i + size_t(l) * lda] * bs[tb ? j + size_t(l) * ldb : l + size_t(j) * ldb];
            put_element(cuda_type(c_type), c, i + size_t(j) * ldc, sum);
        }
    return OK;
}

// ---- cuDNN: convolutions of channels-last tensors ----

struct Descriptor {
    int type, sizes[4]; // of tensors and filters, channels second
    int padding, stride, dilation, groups = 1;
};
struct Proposal {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};
static const char* cudnn_type(int type) { return type == 0 ? "f32" : type == 2 ? "f16" : type == 9 ? "bf16" : "?"; }
static int four(Descriptor* d, int format, int type, int n, int c, int h, int w) {
    if (format != 1) return 3000; // NHWC
    d->type = type, d->sizes[0] = n, d->sizes[1] = c, d->sizes[2] = h, d->sizes[3] = w;
    return OK;
}
// The first proposal is not deterministic, the second refuses to run, the third needs more memory than there
// is: the fourth must be chosen.
enum Algorithm { RANDOM, LIAR, GREEDY, GOOD };
static int propose(int room, int* count, Proposal* to) {
    if (room < 4) return 3000;
    to[0] = {RANDOM, 0, 1, 0, 0, 1, {}}, to[1] = {LIAR, 0, 2, 64, 1, 1, {}};
    to[2] = {GREEDY, 0, 3, TOO_MUCH, 1, 1, {}}, to[3] = {GOOD, 0, 4, 64, 1, 1, {}};
    return *count = 4, OK;
}
// All products of a convolution; `result` says which of y, x and w is summed to.
static int convolve(Descriptor* xd, const void* x, Descriptor* wd, const void* w, Descriptor* conv, Descriptor* yd, const void* y,
                    int result, void* out, int algorithm, void* room, size_t bytes) {
    std::lock_guard lock(device);
    if (algorithm == LIAR || conv->dilation > 2) return 3002; // one of the NOT_SUPPORTED codes
    if (algorithm != GOOD || !room || bytes < 64 || xd->type != wd->type || xd->type != yd->type) return 2000;
    log(std::string("cuDNN: convolution ") + (result == 0 ? "forward" : result == 1 ? "input gradient" : "weight gradient"));
    memset(room, 0, bytes);
    const char* type = cudnn_type(xd->type);
    auto [n, c, h, width] = xd->sizes;
    auto [k, in, kh, kw] = wd->sizes;
    int oh = yd->sizes[2], ow = yd->sizes[3], per = k / conv->groups;
    if (in * conv->groups != c || yd->sizes[0] != n || yd->sizes[1] != k) return 3000;
    Descriptor* made = result == 0 ? yd : result == 1 ? xd : wd;
    auto count = [](Descriptor* d) { return size_t(d->sizes[0]) * d->sizes[1] * d->sizes[2] * d->sizes[3]; };
    std::vector<double> sums(count(made)), xs(count(xd)), ys(count(yd)), ws(count(wd));
    if (result != 0) ys = elements(type, y, ys.size());
    if (result != 1) xs = elements(type, x, xs.size());
    if (result != 2) ws = elements(type, w, ws.size());
    for (int i = 0; i < n; i++)
        for (int py = 0; py < oh; py++)
            for (int px = 0; px < ow; px++)
                for (int r = 0; r < kh; r++)
                    for (int s = 0; s < kw; s++) {
                        int sy = py * conv->stride - conv->padding + r * conv->dilation;
                        int sx = px * conv->stride - conv->padding + s * conv->dilation;
                        if (sy < 0 || sy >= h || sx < 0 || sx >= width) continue;
                        for (int o = 0; o < k; o++)
                            for (int ch = 0; ch < in; ch++) {
                                size_t at_x = ((size_t(i) * h + sy) * width + sx) * c + o / per * in + ch;
                                size_t at_y = ((size_t(i) * oh + py) * ow + px) * k + o;
                                size_t at_w = ((size_t(o) * kh + r) * kw + s) * in + ch; // channels last, too
                                if (result == 0) sums[at_y] += xs[at_x] * ws[at_w];
                                if (result == 1) sums[at_x] += ys[at_y] * ws[at_w];
                                if (result == 2) sums[at_w] += ys[at_y] * xs[at_x];
                            }
                    }
    for (size_t i = 0; i < sums.size(); i++) put_element(type, out, i, sums[i]);
    return OK;
}
int cudnnCreate(void** to) { return *to = &only_stream, OK; }
int cudnnDestroy(void*) { return OK; }
int cudnnSetStream(void*, void*) { return OK; }
int cudnnCreateTensorDescriptor(Descriptor** to) { return *to = new Descriptor, OK; }
int cudnnCreateFilterDescriptor(Descriptor** to) { return *to = new Descriptor, OK; }
int cudnnCreateConvolutionDescriptor(Descriptor** to) { return *to = new Descriptor, OK; }
int cudnnDestroyTensorDescriptor(Descriptor* d) { return delete d, OK; }
int cudnnDestroyFilterDescriptor(Descriptor* d) { return delete d, OK; }
int cudnnDestroyConvolutionDescriptor(Descriptor* d) { return delete d, OK; }
int cudnnSetTensor4dDescriptor(Descriptor* d, int format, int type, int n, int c, int h, int w) { return four(d, format, type, n, c, h, w); }
int cudnnSetFilter4dDescriptor(Descriptor* d, int type, int format, int k, int c, int h, int w) { return four(d, format, type, k, c, h, w); }
int cudnnSetConvolution2dDescriptor(Descriptor* d, int ph, int, int u, int, int dh, int, int mode, int compute) {
    d->padding = ph, d->stride = u, d->dilation = dh;
    return mode == 1 && compute == 0 ? OK : 3000; // cross-correlation, in f32
}
int cudnnSetConvolutionGroupCount(Descriptor* d, int groups) { return d->groups = groups, OK; }
int cudnnSetConvolutionMathType(Descriptor*, int) { return OK; }
int cudnnGetConvolutionForwardAlgorithm_v7(void*, void*, void*, void*, void*, int room, int* count, Proposal* to) { return propose(room, count, to); }
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void*, void*, void*, void*, void*, int room, int* count, Proposal* to) { return propose(room, count, to); }
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void*, void*, void*, void*, void*, int room, int* count, Proposal* to) { return propose(room, count, to); }
int cudnnConvolutionForward(void*, const void*, Descriptor* xd, const void* x, Descriptor* wd, const void* w, Descriptor* conv, int algorithm,
                            void* room, size_t bytes, const void*, Descriptor* yd, void* y) {
    return convolve(xd, x, wd, w, conv, yd, y, 0, y, algorithm, room, bytes);
}
int cudnnConvolutionBackwardData(void*, const void*, Descriptor* wd, const void* w, Descriptor* yd, const void* y, Descriptor* conv, int algorithm,
                                 void* room, size_t bytes, const void*, Descriptor* xd, void* x) {
    return convolve(xd, x, wd, w, conv, yd, y, 1, x, algorithm, room, bytes);
}
int cudnnConvolutionBackwardFilter(void*, const void*, Descriptor* xd, const void* x, Descriptor* yd, const void* y, Descriptor* conv, int algorithm,
                                   void* room, size_t bytes, const void*, Descriptor* wd, void* w) {
    return convolve(xd, x, wd, w, conv, yd, y, 2, w, algorithm, room, bytes);
}
}
