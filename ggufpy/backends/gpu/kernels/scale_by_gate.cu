// y *= sigmoid(weight · x), a number for each row: a block has a row. `weight` is zeros behind its `gate_columns`.
#include "elementwise.cuh"

KERNEL(scale_by_gate) {
    __shared__ float room[THREADS / WARP];
    const float* x = a.x + blockIdx.y * a.x_stride;
    float sum = 0.0f;
    for (int c = QUAD * threadIdx.x; c < a.gate_columns; c += QUAD * THREADS) {
        const float4 found = within(get_quad(x + c), c, a.gate_columns);
        sum += sum_of(each(found, get_quad(a.weight + c), [](float x, float w) { return x * w; }));
    }
    const float gate = 1.0f / (1.0f + expf(-sum_of_warps<THREADS / WARP>(sum, room)));
    float* y = a.y + blockIdx.y * a.y_stride;
    for (int c = QUAD * threadIdx.x; c < a.end; c += QUAD * THREADS) {
        const float4 product = each(get_quad(y + c), [gate](float y) { return y * gate; });
        put_quad(y, c, within(product, c, a.columns), a.end);
    }
}
