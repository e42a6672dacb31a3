// y = f(gate) · up by element; without `up` (0) y = f(gate).
#include "elementwise.cuh"
#include "gate.cuh"

KERNEL(gate) {
    const int c = first_column();
    if (c >= a.end) return;
    float4 v = each(get_quad(a.gate + blockIdx.y * a.gate_stride + c), activation);
    if (a.up != nullptr) {
        const float4 up = get_quad(a.up + blockIdx.y * a.up_stride + c);
        v = each(v, up, [](float f, float up) { return f * factor_of(up); });
    }
    put_quad(a.y + blockIdx.y * a.y_stride, c, within(v, c, a.columns), a.end);
}
