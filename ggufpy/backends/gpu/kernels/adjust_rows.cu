// What a product of f16 rows needs before and after it: rows of sums, multiplied by a power of two each, with a bias.
//
//     y       float rows, y_stride apart, of columns (a multiple of 4)
//     x_scales  float by row; see to_half.cu
//     bias    float by column, or 0
//
// Before (AFTER 0): y = ((ADD ? y : 0) + bias) * scale, for the product to add to. After (AFTER 1): y = y / scale.
// Rows of scale 1 that have nothing added are left alone, unread: nearly always that is all of them.
#include "common.cuh"

KERNEL(adjust_rows) {
    const int row = blockIdx.y, at = blockIdx.x * THREADS + threadIdx.x;
    const float scale = a.x_scales[row];
    if (at >= a.columns / 4 || (scale == 1.0f && (AFTER || (ADD && a.bias == 0)))) return;
    float4* y = (float4*)(a.y + (long long)row * a.y_stride) + at;
    float4 v = ADD || AFTER ? *y : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (!AFTER && a.bias != 0) {
        const float4 b = ((const float4*)a.bias)[at];
        v = make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
    }
    const float by = AFTER ? 1.0f / scale : scale;
    *y = make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}
