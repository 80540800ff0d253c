// The machine instructions that C++ cannot express. tests/cuda_kernels/emulator.h has the same functions for
// a CPU, so that the kernels are tested without a GPU. No header of the CUDA toolkit is needed.

#define KERNEL(name) extern "C" __global__ void name
#define SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// bf16 and f16 only hold bits here.
struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

__device__ inline float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ inline void from_float(float x, bf16& y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
__device__ inline void from_float(float x, f16& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
// Rounds to the nearest TF32 number: an f32 without the last 13 bits of its fraction.
__device__ inline unsigned to_tf32(float x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ inline unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Starts an asynchronous copy of 16 bytes to shared memory; writes zeros if `from` is null. It is complete
// after copies_wait and, for other threads, a barrier.
__device__ inline void copy16(void* to, const void* from) {
    const void* some = from ? from : to; // with no bytes to read, any address will do
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from ? __cvta_generic_to_global(some) : 0), "r"(from ? 16 : 0)
                 : "memory");
}
// Commits this thread's copies so far as a group.
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's groups are in flight.
template <int N> __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Loads four 8×8 matrices of 16-bit elements; lane 8i + r gives the address of row r of matrix i. Each lane
// gets, of each matrix, elements 2(lane % 4) and 2(lane % 4) + 1 of row lane / 4.
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// The same for the transposed matrices.
__device__ inline void load_matrices_transposed(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c (16×8) += a (16×16) · b (16×8), by the tensor cores of a warp. With g = lane / 4 and t = lane % 4 a lane
// holds c: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1); a, two columns per register: (g, 2t), (g+8, 2t), (g,
// 2t+8), (g+8, 2t+8); b, two rows per register: (2t, g), (2t+8, g).
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same for f32 as TF32, c (16×8) += a (16×8) · b (8×8): one element per register, a: (g, t), (g+8, t),
// (g, t+4), (g+8, t+4); b: (t, g), (t+4, g).
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], float) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
