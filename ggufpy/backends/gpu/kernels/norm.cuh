// Norms of columns that WARPS warps hold in registers, HELD quads a thread: quad i of a thread is of the columns from
// first_held() + i · HELD_STEP on. The order of sums depends on WARPS and HELD alone. ALIGNED: parts of rows begin at
// 16 bytes, as rows do.
#include "elementwise.cuh"

#define RMS 0
#define LAYER 1
#define L2 2
#define HELD_STEP (QUAD * WARP * WARPS)
#define ROOMY (HELD * WARPS <= 64)  // there are registers for weights that are asked for before sums are known, and more

typedef float4 Held[HELD];
typedef float4 Weights[ROOMY ? HELD : 1];

__device__ __forceinline__ int first_held() { return QUAD * (threadIdx.x % (WARP * WARPS)); }

__device__ __forceinline__ float4 get_some(const float* x, int c, int columns) {
    if (ALIGNED) return within(get_quad(x + c), c, columns);
    return make_float4(x[c], c + 1 < columns ? x[c + 1] : 0.0f, c + 2 < columns ? x[c + 2] : 0.0f,
                       c + 3 < columns ? x[c + 3] : 0.0f);
}

__device__ __forceinline__ void put_some(float* y, int c, float4 v, int end) {
    if (ALIGNED) return put_quad(y, c, v, end);
    if (c < end) y[c] = v.x;
    if (c + 1 < end) y[c + 1] = v.y;
    if (c + 2 < end) y[c + 2] = v.z;
    if (c + 3 < end) y[c + 3] = v.w;
}

// Reads a row's columns, zeros behind them.
__device__ __forceinline__ void hold(Held& v, const float* x, int columns) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = first_held() + i * HELD_STEP;
        v[i] = c < columns ? get_some(x, c, columns) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
}

// v becomes f(v): v / sqrt(mean(v²) + eps), (v - mean(v)) / sqrt(variance(v) + eps), or v / max(sqrt(Σ v²), eps).
template <int F>
__device__ __forceinline__ void normalise(Held& v, int columns, float eps, float (&room)[2][WARPS]) {
    float sum = 0.0f;
    if (F == LAYER) {
#pragma unroll
        for (int i = 0; i < HELD; i++) sum += sum_of(v[i]);
        const float mean = sum_of_warps<WARPS>(sum, room[0]) / columns;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            v[i] = within(each(v[i], [mean](float x) { return x - mean; }), first_held() + i * HELD_STEP, columns);
        }
        sum = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++) sum += sum_of(each(v[i], [](float x) { return x * x; }));
    sum = sum_of_warps<WARPS>(sum, room[1]);
    const float by = 1.0f / (F == L2 ? fmaxf(sqrtf(sum), eps) : sqrtf(sum / columns + eps));
#pragma unroll
    for (int i = 0; i < HELD; i++) v[i] = each(v[i], [by](float x) { return x * by; });
}

// Asks for a norm's weight, if it has one (else its pointer is 0).
__device__ __forceinline__ void ask(Weights& w, const float* weight, int columns) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = first_held() + i * HELD_STEP;
        if (ROOMY && weight != nullptr && c < columns) w[i] = get_quad(weight + c);
    }
}

// v · weight + bias, of those that there are; vectors are zeros behind their columns. `w` is what was asked for.
__device__ __forceinline__ void weigh(Held& v, const Weights& w, const float* weight, const float* bias, int columns) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int c = first_held() + i * HELD_STEP;
        if (c >= columns) continue;
        if (weight != nullptr) {
            v[i] = each(v[i], ROOMY ? w[i] : get_quad(weight + c), [](float x, float w) { return x * w; });
        }
        if (bias != nullptr) v[i] = each(v[i], get_quad(bias + c), [](float x, float b) { return x + b; });
    }
}

// Writes a row's columns and what is behind them to `end`.
__device__ __forceinline__ void let_go(float* y, const Held& v, int end) {
#pragma unroll
    for (int i = 0; i < HELD; i++) put_some(y, first_held() + i * HELD_STEP, v[i], end);
}
