// What the kernels share on any machine: element types, vectors of them, sums over a block.

typedef unsigned char u8;
typedef unsigned u32;
typedef long long i64;
typedef unsigned long long u64;

__device__ inline float to_float(float x) { return x; }
__device__ inline void from_float(float x, float& y) { y = x; }
template <class E> __device__ inline E rounded(float x) {
    E y;
    from_float(x, y);
    return y;
}
// One register of a tensor core operand: two 16-bit elements, the first in the low half, or one f32 as TF32.
template <class E> __device__ inline u32 operand(const float (&x)[2]) {
    return (u32)rounded<E>(x[0]).bits | (u32)rounded<E>(x[1]).bits << 16;
}
template <class E> __device__ inline u32 operand(const float (&x)[1]) { return to_tf32(x[0]); }
// Converts registers that were loaded from memory to operands.
template <class E> __device__ inline void as_operands(u32 (&registers)[4]) {
    if constexpr (sizeof(E) == 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) registers[i] = to_tf32(__uint_as_float(registers[i]));
    }
}

// V elements that are read or written in one access.
template <class E, int V> struct alignas(sizeof(E) * V) Vector {
    E at[V];
};
template <class E, int V> __device__ inline void load(float (&to)[V], const E* from) {
    Vector<E, V> v = *reinterpret_cast<const Vector<E, V>*>(from);
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = to_float(v.at[i]);
}
template <class E, int V> __device__ inline void store(E* to, const float (&from)[V]) {
    Vector<E, V> v;
#pragma unroll
    for (int i = 0; i < V; i++) from_float(from[i], v.at[i]);
    *reinterpret_cast<Vector<E, V>*>(to) = v;
}

__device__ inline int smaller(int a, int b) { return a < b ? a : b; }
