// What kernels of attention share: what a row sees, and how the positions are dealt to blocks.
#include "common.cuh"
#include "kv.cuh"

#define LOWEST -1e30f  // below every score; finite, so that differences of two are numbers
#define LOG2E 1.4426950408889634f
#define UNIT 32  // positions that a warp takes at once, within a page

// The positions that a row at `position` of a text of `end` positions sees: from `x` on, up to before `y`.
__device__ __forceinline__ int2 visible(int position, int end, int window) {
    if (position < 0) return make_int2(0, 0);  // a row that only fills up
#if CAUSAL
    return make_int2(window > 0 ? max(0, position + 1 - window) : 0, position + 1);
#else
    if (window <= 0) return make_int2(0, end);
    return make_int2(max(0, position - window / 2), min(end, position + window / 2 + 1));
#endif
}

// A score as softmax's power of two takes it: capped, times log2(e).
__device__ __forceinline__ float power(float score, float cap) {
#if SOFTCAP
    score = cap * tanhf(score / cap);
#endif
    return score * LOG2E;
}

// The first unit of 32 positions, not before `lowest`, that is dealt to `part` of `parts`. So a position's part is a
// matter of the position alone.
__device__ __forceinline__ int first_unit(int lowest, int part, int parts) {
    const int behind = (part - lowest) % parts;
    return lowest + (behind < 0 ? behind + parts : behind);
}
