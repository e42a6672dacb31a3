// x = min(max(x, low), high).
#include "elementwise.cuh"

KERNEL(clamp) {
    const int c = first_column();
    if (c >= a.end) return;
    float* x = a.x + blockIdx.y * a.x_stride;
    const float low = a.low, high = a.high;
    const float4 held = each(get_quad(x + c), [low, high](float x) { return fminf(fmaxf(x, low), high); });
    put_quad(x, c, within(held, c, a.columns), a.end);
}
