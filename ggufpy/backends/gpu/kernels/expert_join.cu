// The sum of what a row's chosen experts made, each times its share, in the order of their places.
//
//     pairs   [row * count + place][pitch] float
//     shares  float rows, shares_stride apart
//     y       float rows, y_stride apart, of `end` columns; it is added to with ADD
//
// Grid: (columns in fours by threads, rows).
#include "elementwise.cuh"

KERNEL(expert_join) {
    const int row = blockIdx.y, c = first_column();
    if (c >= a.end) return;
    float* y = a.y + (long long)row * a.y_stride;
    const float* pairs = a.pairs + (long long)row * a.count * a.pitch + c;
    const float* shares = a.shares + (long long)row * a.shares_stride;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int part = 0; part < a.count; part++) {
        const float share = shares[part];
        const float4 v = get_quad(pairs + (long long)part * a.pitch);
        sum = make_float4(
            fmaf(share, v.x, sum.x), fmaf(share, v.y, sum.y), fmaf(share, v.z, sum.z), fmaf(share, v.w, sum.w));
    }
    if (ADD) {
        const float4 old = get_quad(y + c);
        sum = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
    }
    put_quad(y, c, sum, a.end);
}
