// y += x.
#include "elementwise.cuh"

KERNEL(add) {
    const int c = first_column();
    if (c >= a.end) return;
    float* y = a.y + blockIdx.y * a.y_stride;
    const float4 x = get_quad(a.x + blockIdx.y * a.x_stride + c);
    const float4 sum = each(get_quad(y + c), x, [](float y, float x) { return y + x; });
    put_quad(y, c, within(sum, c, a.columns), a.end);
}
