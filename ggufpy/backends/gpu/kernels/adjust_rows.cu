// What a product of f16 rows needs before and after it: rows of sums, multiplied by a power of two each, with a bias.
//
//     y       float rows, y_stride apart, of `end` columns
//     x_scales  float by row; see to_half.cu
//     bias    float by column, or 0
//
// Before (AFTER 0): y = ((ADD ? y : 0) + bias) * scale, for the product to add to. After (AFTER 1): y = y / scale.
// Rows of scale 1 that have nothing added are left alone, unread: nearly always that is all of them.
//
// Grid: (columns in fours by threads, rows in groups of ROWS).
#include "elementwise.cuh"

#define ROWS 8

KERNEL(adjust_rows) {
    const int c = first_column(), end = min((int)(blockIdx.y + 1) * ROWS, a.rows);
    if (c >= a.end) return;
    float4 bias = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (!AFTER && a.bias != 0) bias = get_quad(a.bias + c);
    for (int row = blockIdx.y * ROWS; row < end; row++) {
        const float scale = a.x_scales[row];
        if (scale == 1.0f && (AFTER || (ADD && a.bias == 0))) continue;
        float* y = a.y + (long long)row * a.y_stride;
        const float4 v = ADD || AFTER ? get_quad(y + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float by = AFTER ? 1.0f / scale : scale;
        const float4 made =
            make_float4((v.x + bias.x) * by, (v.y + bias.y) * by, (v.z + bias.z) * by, (v.w + bias.w) * by);
        put_quad(y, c, made, a.end);
    }
}
