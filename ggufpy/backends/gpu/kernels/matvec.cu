#include "common.cuh"
#include "blocks.cuh"
#include "matvec.cuh"

// y[n] (+)= W · x[n] + bias for up to N rows x of 8-bit codes (activations.py) and matrices of codes (formats.py): a lane
// has every 32nd block of its warp's rows.

// The codes and scales of a block of the activations.
struct Eighth {
    int q[8];
    float scale, sum;  // sum: scale · sum of the codes
};

__device__ __forceinline__ Eighth activations(const signed char* row, int blocks, int b) {
    const int4 low = ((const int4*)row)[2 * b], high = ((const int4*)row)[2 * b + 1];
    const float2 scale = ((const float2*)(row + (long long)blocks * 32))[b];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}, scale.x, scale.y};
}

// acc + the products of a block's columns. Every step is one fused operation, so that compilers have no choice of
// which are fused, which may change from one N to another.
__device__ __forceinline__ float added(float acc, const int (&q)[8], const Scale (&s)[HALVES], const Eighth& x) {
    int dot[HALVES] = {};
#pragma unroll
    for (int j = 0; j < 8; j++) dot[HALVES == 2 ? j / 4 : 0] = __dp4a(q[j], x.q[j], dot[HALVES == 2 ? j / 4 : 0]);
#pragma unroll
    for (int h = 0; h < HALVES; h++) acc = fmaf(s[h].scale, x.scale * (float)dot[h], acc);
#if HAS_BASE && HALVES == 2
    int sum = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) sum = __dp4a(x.q[j], 0x01010101, sum);
    const float first = x.scale * (float)sum;
    acc = fmaf(s[0].base, first, acc);
    acc = fmaf(s[1].base, x.sum - first, acc);
#elif HAS_BASE
    acc = fmaf(s[0].base, x.sum, acc);
#endif
    return acc;
}

// One block of each of R rows, times all activations.
__device__ __forceinline__ void pass(
    const Args& a, const Raw (&raw)[R], const int (&start)[R], int b, float (&acc)[SUMS]
) {
    int q[R][8];
    Scale s[R][HALVES];
#pragma unroll
    for (int r = 0; r < R; r++) {
        codes(raw[r], q[r]);
        scales(raw[r], start[r] + b, s[r]);
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
        const Eighth x = activations(a.x + n * a.x_stride, a.blocks, b);
#pragma unroll
        for (int r = 0; r < R; r++) acc[n * R + r] = added(acc[n * R + r], q[r], s[r], x);
    }
}

KERNEL(matvec) {
    const Part part = part_of(a);
    const Weights w = WEIGHTS(part);
    const int lane = threadIdx.x % WARP, first = first_row(part);
    const int step = SPLIT * WARP;
    int start[R];
#pragma unroll
    for (int r = 0; r < R; r++) start[r] = min(first + r, part.rows - 1) * a.blocks;
    float acc[SUMS] = {};
    int at = threadIdx.x / WARP % SPLIT * WARP;  // where the warp's lanes begin
#pragma unroll 1
    for (; at + (AHEAD - 1) * step + WARP <= a.blocks; at += AHEAD * step) {
        Raw raw[AHEAD][R];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int r = 0; r < R; r++) raw[i][r] = fetch(w, start[r] + at + i * step + lane);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) pass(a, raw[i], start, at + i * step + lane, acc);
    }
#pragma unroll 1
    for (int b = at + lane; b < a.blocks; b += step) {
        Raw raw[R];
#pragma unroll
        for (int r = 0; r < R; r++) raw[r] = fetch(w, start[r] + b);
        pass(a, raw, start, b, acc);
    }
    finish(part, acc, first, a.count);
}
