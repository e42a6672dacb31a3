// Joins what parts of the columns of a product add up to, in their order, into rows of y.
//
//     sums    [part][m][padded] float
//     x_scales  float by row: what the row was multiplied by (to_half.cu)
//     bias    float by column, or 0
//     y       float rows, y_stride apart: y = (ADD ? y : 0) + bias + sum / scale
//
// Grid: (columns in fours by threads, rows).
#include "common.cuh"

KERNEL(join_sums) {
    const int row = blockIdx.y, at = (blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at >= a.padded) return;
    const float* sums = a.sums + (long long)row * a.padded + at;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int part = 0; part < a.parts; part++) {
        const float4 v = *(const float4*)(sums + (long long)part * a.m * a.padded);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    const float by = 1.0f / a.x_scales[row];
    float4 bias = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (a.bias != 0) bias = *(const float4*)(a.bias + at);
    float4* y = (float4*)(a.y + (long long)row * a.y_stride + at);
    const float4 old = ADD ? *y : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    *y = make_float4(
        old.x + bias.x + sum.x * by, old.y + bias.y + sum.y * by, old.z + bias.z + sum.z * by,
        old.w + bias.w + sum.w * by);
}
