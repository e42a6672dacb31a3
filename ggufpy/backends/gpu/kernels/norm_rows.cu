// y = f(x) · weight + bias for each part of a row: blockIdx.y is the row, and WARPS warps have a part together. f is of
// KIND; without weight or bias their pointers are 0. All is held in registers, so that x may be y, and the weight is
// asked for before the sums are known. The first `coded` rows, each of one part then, are written as 8-bit codes, too,
// but for the widest.
#include "norm.cuh"
#include "codes.cuh"

KERNEL(norm_rows) {
    __shared__ float room[2][WARPS];
    const int part = WARPS > 1 ? blockIdx.x : blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (part >= a.parts) return;  // a whole warp
    const int at = part * a.columns;
    const float* weight = a.weight != nullptr ? a.weight + part * a.weight_step : nullptr;
    const float* bias = a.bias != nullptr ? a.bias + part * a.bias_step : nullptr;
    Held v;
    Weights asked;
    hold(v, a.x + blockIdx.y * a.x_stride + at, a.columns);
    ask(asked, weight, a.columns);
    normalise<KIND>(v, a.columns, a.eps, room);
    weigh(v, asked, weight, bias, a.columns);
    const int end = part == a.parts - 1 ? a.end - at : a.columns;  // zeros are written behind the last part
    let_go(a.y + blockIdx.y * a.y_stride + at, v, end);
    if (ROOMY && blockIdx.y < a.coded) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            put_codes(a.q + blockIdx.y * a.q_stride, first_held() + i * HELD_STEP, v[i], a.end);
        }
    }
}
