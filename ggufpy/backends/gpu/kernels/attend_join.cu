// Adds up what the splits of attend.cu have left, in their order, with the score of a sink if there is one. The first
// `coded` rows of the step are written as 8-bit codes, too; heads are whole blocks of 32 columns then.
// grid (query heads, rows)
#include "attention.cuh"
#include "elementwise.cuh"
#include "codes.cuh"

KERNEL(attend_join) {
    const int query = blockIdx.x, row = a.row + blockIdx.y;
    const int2 seen = visible(a.positions[row], a.ends[row], a.window);
    const long long part = ((long long)blockIdx.y * a.queries + query) * a.splits;
    // Splits that no unit of what is seen was dealt to have left nothing.
    const int lowest = seen.x / UNIT, units = seen.y > seen.x ? (seen.y + UNIT - 1) / UNIT - lowest : 0;
    const int shift = lowest % a.splits;

    __shared__ float2 sums[MOST_SPLITS];  // the largest score and the sum of powers of each
    __shared__ float weights[MOST_SPLITS];
    for (int s = threadIdx.x; s < a.splits; s += THREADS) {
        const int dealt = s < shift ? s - shift + a.splits : s - shift;
        sums[s] = dealt < units ? a.sums[part + s] : make_float2(2.0f * LOWEST, 0.0f);
    }
    __syncthreads();
    float most = LOWEST, sum = 0.0f;
#if SINKS
    const float sink = a.sinks[query] * LOG2E;
    most = fmaxf(most, sink);
#endif
    for (int s = 0; s < a.splits; s++) most = fmaxf(most, sums[s].x);
    for (int s = threadIdx.x; s < a.splits; s += THREADS) weights[s] = exp2f(sums[s].x - most);
    __syncthreads();
    for (int s = 0; s < a.splits; s++) sum += weights[s] * sums[s].y;
#if SINKS
    sum += exp2f(sink - most);
#endif
    const float share = sum > 0.0f ? 1.0f / sum : 0.0f;  // a row that sees nothing gets nothing
    float *y = a.y + (long long)row * a.y_stride + query * a.length;
    for (int d = threadIdx.x; d < a.length; d += THREADS) {
        const float *from = a.parts + part * a.length + d;
        float weighed = 0.0f;
#pragma unroll 8
        for (int s = 0; s < a.splits; s++) {
            const float weight = weights[s];
            if (weight > 0.0f) weighed += weight * from[s * a.length];
        }
        y[d] = weighed * share;
    }
    if (query == a.queries - 1 && threadIdx.x < a.padding) y[a.length + threadIdx.x] = 0.0f;
    if (row >= a.coded) return;
    __syncthreads();  // other threads read what one has written
    for (int d = QUAD * threadIdx.x; d - QUAD * (int)(threadIdx.x % WARP) < a.length; d += QUAD * THREADS) {
        const float4 v = d < a.length ? get_quad(y + d) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const int end = a.queries * a.length;
        put_codes(a.q + row * a.q_stride, d < a.length ? query * a.length + d : end, v, end);
    }
}
