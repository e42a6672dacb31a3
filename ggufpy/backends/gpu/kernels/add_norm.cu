// r = norm(r) by BEFORE, x += r, y = norm(x) by BEHIND: a block has a row. Either norm may be NONE. The first `coded` rows
// of y are written as 8-bit codes, too. y may be x.
#include "norm.cuh"
#include "codes.cuh"

#define NONE 3

KERNEL(add_norm) {
    __shared__ float room[2][2][WARPS];
    const int columns = a.columns;
    float *r = a.r + blockIdx.y * a.r_stride, *x = a.x + blockIdx.y * a.x_stride;
    Held u, v;
    Weights before, behind;
    hold(u, r, columns);
    hold(v, x, columns);
    if (BEFORE != NONE) ask(before, a.weight_before, columns);
    if (BEHIND != NONE) ask(behind, a.weight_behind, columns);
    if (BEFORE != NONE) {
        normalise<BEFORE>(u, columns, a.eps_before, room[0]);
        weigh(u, before, a.weight_before, a.bias_before, columns);
        let_go(r, u, a.r_end);
    }
#pragma unroll
    for (int i = 0; i < HELD; i++) v[i] = each(v[i], u[i], [](float x, float r) { return x + r; });
    let_go(x, v, a.end);
    if (BEHIND != NONE) {
        normalise<BEHIND>(v, columns, a.eps_behind, room[1]);
        weigh(v, behind, a.weight_behind, a.bias_behind, columns);
        let_go(a.y + blockIdx.y * a.y_stride, v, a.y_end);
    }
    if (blockIdx.y < a.coded) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            put_codes(a.q + blockIdx.y * a.q_stride, first_held() + i * HELD_STEP, v[i], a.y_end);
        }
    }
}
