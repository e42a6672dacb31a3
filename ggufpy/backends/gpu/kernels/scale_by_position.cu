// x *= 1 + slope · log(1 + floor((position + offset) / length)), by the position of the row.
#include "elementwise.cuh"

KERNEL(scale_by_position) {
    const int c = first_column();
    if (c >= a.end) return;
    const int behind = a.positions[blockIdx.y] + a.offset;
    const int steps = behind / a.length - (behind % a.length < 0);  // rounded down
    const float factor = fmaf(a.slope, log1pf((float)steps), 1.0f);
    float* x = a.x + blockIdx.y * a.x_stride;
    const float4 product = each(get_quad(x + c), [factor](float x) { return x * factor; });
    put_quad(x, c, within(product, c, a.columns), a.end);
}
