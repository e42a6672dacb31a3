// x = cap · tanh(x / cap).
#include "elementwise.cuh"

KERNEL(soft_cap) {
    const int c = first_column();
    if (c >= a.end) return;
    float* x = a.x + blockIdx.y * a.x_stride;
    const float cap = a.cap;
    const float4 capped = each(get_quad(x + c), [cap](float x) { return cap * tanhf(x / cap); });
    put_quad(x, c, within(capped, c, a.columns), a.end);
}
