#include "common.cuh"

// Rows as 8-bit codes (activations.py): a warp has 32 columns of a row, a column a lane. Codes are to nearest, ties to
// even, of 127 for the largest; columns that are next to zero are zeros.

KERNEL(quantise) {
    const int block = (blockIdx.x * THREADS + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (block >= a.blocks) return;
    const int column = block * WARP + lane;
    const float x = column < a.columns ? a.x[blockIdx.y * a.x_stride + column] : 0.0f;
    const float largest = warp_max(fabsf(x));
    const bool some = largest > 1e-30f;  // 127 / largest is finite
    const float code = some ? rintf(x * (127.0f / largest)) : 0.0f;
    const float scale = some ? largest / 127.0f : 0.0f;
    const float sum = warp_sum(code);  // of whole numbers, so exact
    signed char* const row = a.q + blockIdx.y * a.q_stride;
    row[column] = (signed char)(int)code;
    if (lane == 0) ((float2*)(row + a.blocks * WARP))[block] = make_float2(scale, scale * sum);
}
