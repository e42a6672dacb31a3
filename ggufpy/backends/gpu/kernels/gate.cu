// y = f(gate) · up by element; without `up` (0) y = f(gate). The first `coded` rows are written as 8-bit codes, too.
#include "elementwise.cuh"
#include "codes.cuh"
#include "gate.cuh"

KERNEL(gate) {
    const int c = first_column();
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (c < a.end) {
        v = each(get_quad(a.gate + blockIdx.y * a.gate_stride + c), activation);
        if (a.up != nullptr) {
            const float4 up = get_quad(a.up + blockIdx.y * a.up_stride + c);
            v = each(v, up, [](float f, float up) { return f * factor_of(up); });
        }
        v = within(v, c, a.columns);
        put_quad(a.y + blockIdx.y * a.y_stride, c, v, a.end);
    }
    if (blockIdx.y < a.coded) put_codes(a.q + blockIdx.y * a.q_stride, c, v, a.end);
}
