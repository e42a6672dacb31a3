// What a product of f16 rows needs before and after it: rows of sums, multiplied by a power of two each, with a bias.
//
//     y       float rows, y_stride apart, of `end` columns
//     x_scales  float by row; see to_half.cu
//     bias    float by column, or 0
//
// Before (AFTER 0): y = ((ADD ? y : 0) + bias) * scale, for the product to add to. After (AFTER 1): y = y / scale.
// Rows of scale 1 that have nothing added are left alone, unread: nearly always that is all of them.
#include "elementwise.cuh"

KERNEL(adjust_rows) {
    const int row = blockIdx.y, c = first_column();
    const float scale = a.x_scales[row];
    if (c >= a.end || (scale == 1.0f && (AFTER || (ADD && a.bias == 0)))) return;
    float* y = a.y + (long long)row * a.y_stride;
    float4 v = ADD || AFTER ? get_quad(y + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (!AFTER && a.bias != 0) {
        const float4 b = get_quad(a.bias + c);
        v = make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
    }
    const float by = AFTER ? 1.0f / scale : scale;
    put_quad(y, c, make_float4(v.x * by, v.y * by, v.z * by, v.w * by), a.end);
}
