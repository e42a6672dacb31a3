#include "common.cuh"
#include "numbers.cuh"
#include "matvec.cuh"

// y[n] (+)= W · x[n] + bias for up to N rows x of float32 and matrices of numbers (formats.py): a lane has every 32nd 16
// bytes of its warp's rows. Rows of x are zeros behind their last column up to whole blocks.

__device__ __forceinline__ void activations(const Args& a, int n, int unit, float (&x)[NUMBERS]) {
    const float* const from = a.x + min(n, a.count - 1) * a.x_stride + unit * NUMBERS;
#pragma unroll
    for (int i = 0; i < NUMBERS; i += 4) {
        const float4 four = *(const float4*)(from + i);
        x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
}

// 16 bytes of each of R rows, times all activations.
__device__ __forceinline__ void pass(const Args& a, const uint4 (&raw)[R], int unit, float (&acc)[SUMS]) {
    float w[R][NUMBERS];
#pragma unroll
    for (int r = 0; r < R; r++) numbers(raw[r], w[r]);
#pragma unroll
    for (int n = 0; n < N; n++) {
        float x[NUMBERS];
        activations(a, n, unit, x);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int i = 0; i < NUMBERS; i++) acc[n * R + r] = fmaf(w[r][i], x[i], acc[n * R + r]);
    }
}

KERNEL(matvec_numbers) {
    const Part part = part_of(a);
    const int lane = threadIdx.x % WARP, first = first_row(part);
    const int step = SPLIT * WARP, units = a.blocks * (32 / NUMBERS);
    const uint4* rows[R];
#pragma unroll
    for (int r = 0; r < R; r++) rows[r] = (const uint4*)part.low + (long long)min(first + r, part.rows - 1) * units;
    float acc[SUMS] = {};
    int at = threadIdx.x / WARP % SPLIT * WARP;  // where the warp's lanes begin
#pragma unroll 1
    for (; at + (AHEAD - 1) * step + WARP <= units; at += AHEAD * step) {
        uint4 raw[AHEAD][R];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int r = 0; r < R; r++) raw[i][r] = stream(rows[r] + at + i * step + lane);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) pass(a, raw[i], at + i * step + lane, acc);
    }
#pragma unroll 1
    for (int unit = at + lane; unit < units; unit += step) {
        uint4 raw[R];
#pragma unroll
        for (int r = 0; r < R; r++) raw[r] = stream(rows[r] + unit);
        pass(a, raw, unit, acc);
    }
    finish(part, acc, first, a.count);
}
