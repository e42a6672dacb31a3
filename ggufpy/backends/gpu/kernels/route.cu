// Chooses each row's experts by their logits (models/ops.py, Route, has the formulas); one warp a row.
//
//     x               float rows, x_stride apart: logits of the experts
//     bias            float by expert, or 0
//     chosen, shares  float rows, y_stride apart: numbers of experts, best first, and by what their outputs are
//                     multiplied; what is behind `count` is zeros up to a whole block of 32
//
// KIND: 0 softmax, 1 sigmoid, 2 softmax of the chosen. EXPERTS: how many there are.
// Of equal scores the lower number is chosen, and a score that is no number counts as the lowest, so that a number
// always is one of an expert.
#include "common.cuh"

#define LOWEST -1e38f
#define NOTHING (-INFINITY)
#define LEAST_SUM 6.103515625e-05f
#define MOST_GROUPS 64

// The larger of two (score, number), of equal ones the lower number, over the threads of a warp.
__device__ __forceinline__ void warp_best(float& score, int& number) {
#pragma unroll
    for (int i = WARP / 2; i > 0; i /= 2) {
        const float other = __shfl_xor_sync(FULL, score, i);
        const int its = __shfl_xor_sync(FULL, number, i);
        if (other > score || (other == score && its < number)) score = other, number = its;
    }
}

__device__ __forceinline__ float probability(float x, float top, float inverse) {
    if (KIND == 0) return expf(x - top) * inverse;
    if (KIND == 1) return 1.0f / (1.0f + expf(-x));
    return x;
}

// The largest logit, and one over the sum of e^(x - largest).
__device__ __forceinline__ void range_of(const float* x, int lane, float& top, float& inverse) {
    float largest = LOWEST, sum = 0.0f;
    for (int e = lane; e < EXPERTS; e += WARP) largest = fmaxf(largest, x[e]);
    top = warp_max(largest);
    for (int e = lane; e < EXPERTS; e += WARP) sum += expf(x[e] - top);
    inverse = 1.0f / warp_sum(sum);
}

// Leaves only experts of the best groups to be chosen. A lane has groups `lane` and `lane + 32`.
__device__ __forceinline__ void leave_groups(float* scores, int groups, int used, int lane) {
    const int size = EXPERTS / groups;
    float value[MOST_GROUPS / WARP];
    bool taken[MOST_GROUPS / WARP];
#pragma unroll
    for (int i = 0; i < MOST_GROUPS / WARP; i++) {
        const int group = lane + WARP * i;
        float first = NOTHING, second = NOTHING;
        for (int k = 0; group < groups && k < size; k++) {
            const float score = scores[group * size + k];
            if (score > first) second = first, first = score;
            else if (score > second) second = score;
        }
        value[i] = size > 1 ? first + second : first;
        taken[i] = false;
    }
    for (int k = 0; k < used; k++) {
        float best = NOTHING;
        int number = MOST_GROUPS;
#pragma unroll
        for (int i = 0; i < MOST_GROUPS / WARP; i++)
            if (lane + WARP * i < groups && !taken[i] && (number == MOST_GROUPS || value[i] > best))
                best = value[i], number = lane + WARP * i;
        warp_best(best, number);
#pragma unroll
        for (int i = 0; i < MOST_GROUPS / WARP; i++) taken[i] = taken[i] || number == lane + WARP * i;
    }
#pragma unroll
    for (int i = 0; i < MOST_GROUPS / WARP; i++)
        for (int k = 0; lane + WARP * i < groups && !taken[i] && k < size; k++)
            scores[(lane + WARP * i) * size + k] = NOTHING;
    __syncwarp(FULL);
}

KERNEL(route) {
    __shared__ float all_scores[THREADS / WARP][EXPERTS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = blockIdx.x * (THREADS / WARP) + warp;
    if (row >= a.rows) return;  // a whole warp
    float* scores = all_scores[warp];
    const float* x = a.x + (long long)row * a.x_stride;
    float *chosen = a.chosen + (long long)row * a.y_stride, *shares = a.shares + (long long)row * a.y_stride;
    float top = 0.0f, inverse = 1.0f;
    if (KIND == 0) range_of(x, lane, top, inverse);
    const bool plain = a.bias == 0 && a.groups == 1;  // the order is that of the logits, which are exact
    for (int e = lane; e < EXPERTS; e += WARP) {
        float score = plain ? x[e] : probability(x[e], top, inverse);
        if (a.bias != 0) score += a.bias[e];
        scores[e] = fmaxf(score, LOWEST);
    }
    __syncwarp(FULL);
    if (a.groups > 1) leave_groups(scores, a.groups, a.groups_used, lane);
    float sum = 0.0f, largest = NOTHING;  // of the chosen, the same in all lanes
    for (int k = 0; k < a.count; k++) {
        float best = NOTHING;
        int number = EXPERTS;
        for (int e = lane; e < EXPERTS; e += WARP)
            if (scores[e] > best) best = scores[e], number = e;
        warp_best(best, number);
        __syncwarp(FULL);  // every lane has read its scores before one is struck out
        const float p = probability(x[number], top, inverse);
        if (lane == 0) chosen[k] = (float)number, shares[k] = p, scores[number] = NOTHING;
        sum += p;
        largest = fmaxf(largest, p);
        __syncwarp(FULL);
    }
    float divisor = 1.0f;
    if (KIND == 2) {
        sum = 0.0f;
        for (int k = 0; k < a.count; k++) sum += expf(shares[k] - largest);
        divisor = sum;
    }
    if (RENORMALISED) divisor *= fmaxf(sum / divisor, LEAST_SUM);
    __syncwarp(FULL);  // every lane has read what all have written before one changes it
    const int end = (a.count + WARP - 1) / WARP * WARP;
    for (int k = lane; k < end; k += WARP) {
        if (k >= a.count) {
            chosen[k] = shares[k] = 0.0f;
            continue;
        }
        const float share = KIND == 2 ? expf(shares[k] - largest) : shares[k];
        shares[k] = share / divisor * a.scale;
    }
}
