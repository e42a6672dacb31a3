// y = f(x) · weight + bias for each part of a row: blockIdx.y is the row, and WARPS warps have a part together.
//
// f(x) by KIND: x / sqrt(mean(x²) + eps), (x - mean(x)) / sqrt(variance(x) + eps), or x / max(sqrt(Σ x²), eps). Without
// weight or bias their pointers are 0. A part's columns stay in registers (HELD quads a thread), so that x may be y, and
// so does its weight, which is asked for before the sums are known.
// ALIGNED: every part begins at a quad, as a row does.
#include "elementwise.cuh"

#define RMS 0
#define LAYER 1
#define L2 2

__device__ __forceinline__ float4 get(const float* x, int c, int columns) {
    if (ALIGNED) return within(get_quad(x + c), c, columns);
    return make_float4(x[c], c + 1 < columns ? x[c + 1] : 0.0f, c + 2 < columns ? x[c + 2] : 0.0f,
                       c + 3 < columns ? x[c + 3] : 0.0f);
}

__device__ __forceinline__ void put(float* y, int c, float4 v, int end) {
    if (ALIGNED) return put_quad(y, c, v, end);
    if (c < end) y[c] = v.x;
    if (c + 1 < end) y[c + 1] = v.y;
    if (c + 2 < end) y[c + 2] = v.z;
    if (c + 3 < end) y[c + 3] = v.w;
}

__device__ __forceinline__ float square(float x) { return x * x; }

KERNEL(norm_rows) {
    __shared__ float room[2][WARPS];
    const int part = WARPS > 1 ? blockIdx.x : blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (part >= a.parts) return;  // a whole warp
    const int first = QUAD * (threadIdx.x % (WARP * WARPS)), step = QUAD * WARP * WARPS, columns = a.columns;
    const float* x = a.x + blockIdx.y * a.x_stride + part * columns;
    const float* weight = a.weight + part * a.weight_step;
    float4 v[HELD], w[HELD];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = first + i * step;
        v[i] = c < columns ? get(x, c, columns) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (a.weight != nullptr && c < columns) w[i] = get_quad(weight + c);
        sum += sum_of(KIND == LAYER ? v[i] : each(v[i], square));
    }
    sum = sum_of_warps<WARPS>(sum, room[0]);
    if (KIND == LAYER) {
        const float mean = sum / columns;
        sum = 0.0f;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int c = first + i * step;
            v[i] = within(each(v[i], [mean](float x) { return x - mean; }), c, columns);
            sum += sum_of(each(v[i], square));
        }
        sum = sum_of_warps<WARPS>(sum, room[1]);
    }
    const float by = 1.0f / (KIND == L2 ? fmaxf(sqrtf(sum), a.eps) : sqrtf(sum / columns + a.eps));
    float* y = a.y + blockIdx.y * a.y_stride + part * columns;
    const int end = part == a.parts - 1 ? a.end - part * columns : columns;  // zeros are written behind the last part
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = first + i * step;
        float4 z = each(v[i], [by](float x) { return x * by; });
        if (c < columns) {
            if (a.weight != nullptr) z = each(z, w[i], [](float x, float w) { return x * w; });
            if (a.bias != nullptr) {
                z = each(z, get_quad(a.bias + part * a.bias_step + c), [](float x, float b) { return x + b; });
            }
        }
        put(y, c, within(z, c, columns), end);
    }
}
