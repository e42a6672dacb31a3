// Rows as 8-bit codes (activations.py).
#include "elementwise.cuh"
#include "codes.cuh"

KERNEL(quantise) {
    const int c = first_column();
    const float4 v = c < a.columns ? within(get_quad(a.x + blockIdx.y * a.x_stride + c), c, a.columns)
                                   : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    put_codes(a.q + blockIdx.y * a.q_stride, c, v, a.blocks * 32);
}
