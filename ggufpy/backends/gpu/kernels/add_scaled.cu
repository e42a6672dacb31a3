// y += factor · scales[row] · x; a row whose scale is 0 is not touched.
#include "elementwise.cuh"

KERNEL(add_scaled) {
    const int c = first_column();
    const float scale = a.scales[blockIdx.y];
    if (c >= a.end || scale == 0.0f) return;
    const float by = scale * a.factor;
    float* y = a.y + blockIdx.y * a.y_stride;
    const float4 x = get_quad(a.x + blockIdx.y * a.x_stride + c);
    const float4 sum = each(get_quad(y + c), x, [by](float y, float x) { return fmaf(x, by, y); });
    put_quad(y, c, within(sum, c, a.columns), a.end);
}
