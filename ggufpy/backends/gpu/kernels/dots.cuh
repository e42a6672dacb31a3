// Products of blocks of 32 columns of rows of 8-bit codes (activations.py) and of a matrix of codes (blocks.cuh).
#include "blocks.cuh"

// The codes of a block of the activations; for each of its halves the scale, and scale · sum of the codes.
struct EightBits {
    int q[8];
    float scale[2], sum[2];
};

// Block b of a row of so many blocks.
__device__ __forceinline__ EightBits activations(const void* row, int blocks, int b) {
    const int4 low = ((const int4*)row)[2 * b], high = ((const int4*)row)[2 * b + 1];
    const float4 behind = ((const float4*)row)[2LL * blocks + b];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}, {behind.x, behind.y}, {behind.z, behind.w}};
}

// acc + the products of a block's columns. No step leaves compilers a choice of which operations are fused, which may
// change from one kernel to another: each is one fused operation, or has nothing behind it to be fused with.
__device__ __forceinline__ float added(float acc, const int (&q)[8], const Scale (&s)[HALVES], const EightBits& x) {
    int dot[2] = {};
#pragma unroll
    for (int j = 0; j < 8; j++) dot[j / 4] = __dp4a(q[j], x.q[j], dot[j / 4]);
#if HALVES == 2
#pragma unroll
    for (int h = 0; h < 2; h++) acc = fmaf(s[h].scale, x.scale[h] * (float)dot[h], acc);
#else
    acc = fmaf(s[0].scale, fmaf(x.scale[0], (float)dot[0], x.scale[1] * (float)dot[1]), acc);
#endif
#if HAS_BASE && HALVES == 2
    acc = fmaf(s[1].base, x.sum[1], fmaf(s[0].base, x.sum[0], acc));
#elif HAS_BASE
    acc = fmaf(s[0].base, x.sum[0] + x.sum[1], acc);
#endif
    return acc;
}
