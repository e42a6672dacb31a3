// x *= factor.
#include "elementwise.cuh"

KERNEL(scale) {
    const int c = first_column();
    if (c >= a.end) return;
    float* x = a.x + blockIdx.y * a.x_stride;
    const float factor = a.factor;
    const float4 product = each(get_quad(x + c), [factor](float x) { return x * factor; });
    put_quad(x, c, within(product, c, a.columns), a.end);
}
