// Joins what parts of the columns of a product add up to, in their order, into rows of y.
//
//     sums    [part][m][padded] float
//     x_scales  float by row: what the row was multiplied by (to_half.cu)
//     bias    float by column, or 0
//     y       float rows, y_stride apart, of `end` columns: y = (ADD ? y : 0) + bias + sum / scale
//
// Grid: (columns in fours by threads, rows).
#include "elementwise.cuh"

KERNEL(join_sums) {
    const int row = blockIdx.y, c = first_column();
    if (c >= a.end) return;
    const float* sums = a.sums + (long long)row * a.padded + c;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int part = 0; part < a.parts; part++) {
        const float4 v = get_quad(sums + (long long)part * a.m * a.padded);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    const float by = 1.0f / a.x_scales[row];
    const float4 bias = a.bias != 0 ? get_quad(a.bias + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float* y = a.y + (long long)row * a.y_stride;
    const float4 old = ADD ? get_quad(y + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float4 made = make_float4(
        old.x + bias.x + sum.x * by, old.y + bias.y + sum.y * by, old.z + bias.z + sum.z * by,
        old.w + bias.w + sum.w * by);
    put_quad(y, c, made, a.end);
}
