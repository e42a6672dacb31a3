#include "common.cuh"
#include "dots.cuh"
#include "matvec.cuh"

// y[n] (+)= W · x[n] + bias for up to N rows x of 8-bit codes (activations.py) and matrices of codes (formats.py): a lane
// has every 32nd block of its warp's rows.

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
        const EightBits x = activations(a.x + n * a.x_stride, a.blocks, b);
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
